r"""Coloured text for a paper: the more attention a token pays to its own position, the stronger its background."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from attviz.documents import Diagonals, as_analysis
from attviz.errors import ArgumentError, ShapeError
from attviz.files import replacing_text
from attviz.spelling import readable_pieces, special_tokens

# Every character that TeX reads in its own way, those that join into ligatures among them.
_SPECIALS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",
    ",": "{,}",
    "!": "{!}",
    "?": "{?}",
    "…": r"\textellipsis{}",
    "↵": r"$\hookleftarrow$",
    "␣": r"\textvisiblespace{}",
    "⇥": r"$\rightarrow$",
    "∅": r"$\emptyset$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
}
LATEX_PREAMBLE = r"""\documentclass{article}
\usepackage{iftex}
\iftutex\usepackage{fontspec}\else\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{textcomp}\fi
\usepackage{xcolor}
\begin{document}
"""
LATEX_END = "\n\\end{document}\n"
_UNICODE = ("names", "keep")


def to_latex(
    tokens: Sequence[str],
    values: Float[np.ndarray, " num_tokens"],
    *,
    color: str = "ffc629",
    vmax: float | None = None,
    unicode: str = "names",
    standalone: bool = False,
) -> str:
    r"""Write tokens as LaTeX with a coloured background; needs the package ``xcolor``.

    Args:
        tokens: As the tokenizer spells them; the pieces of a word are joined.
        values: One per token, such as the mean diagonal; NaN stays white.
        color: The strongest background, as six hexadecimal digits.
        vmax: Value of the strongest background; None takes the largest. It is written in a comment.
        unicode: How to write characters beyond Latin-1: ``"names"`` writes ``U+65E5``, which every engine compiles;
            ``"keep"`` keeps them, for XeLaTeX and LuaLaTeX with a suitable font.
        standalone: Write a complete document instead of a fragment.

    Returns:
        The LaTeX source.

    Raises:
        ShapeError: If tokens and values differ in length.
        ArgumentError: If the colour, the scale or ``unicode`` is invalid.

    Example:
        >>> print(to_latex(["50", "%"], np.array([0.0, 0.5])))
        % attviz: full colour = 0.5
        {\setlength{\fboxsep}{1pt}\definecolor{attviz}{HTML}{FFC629}%
        \colorbox{attviz!0!white}{\strut 50} %
        \colorbox{attviz!100!white}{\strut \%}}
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(tokens),):
        raise ShapeError(f"to_latex: values must hold one value per token, got shape {list(values.shape)} for {len(tokens)} tokens.")
    if len(color) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in color):
        raise ArgumentError(f"to_latex: color must be six hexadecimal digits such as 'ffc629', got {color!r}.")
    if unicode not in _UNICODE:
        raise ArgumentError(f"to_latex: unicode must be one of {', '.join(map(repr, _UNICODE))}; got {unicode!r}.")
    top = float(np.nanmax(values, initial=0.0)) if vmax is None else float(vmax)
    if not (np.isfinite(top) and top >= 0) or (vmax is not None and top == 0):
        raise ArgumentError(f"to_latex: vmax must be finite and above 0, got {vmax!r}.")
    shares = np.clip(np.nan_to_num(values) / top, 0, 1) if top > 0 else np.zeros(len(tokens))
    boxes: list[str] = []
    for piece, share in zip(readable_pieces(tokens), shares, strict=True):
        glue = "" if piece.continues or not boxes else " "
        boxes.append(f"{glue}%\n\\colorbox{{attviz!{round(100 * float(share))}!white}}{{\\strut {escape_latex(piece.text, unicode)}}}")
    setting = f"\\setlength{{\\fboxsep}}{{1pt}}\\definecolor{{attviz}}{{HTML}}{{{color.upper()}}}"
    body = f"% attviz: full colour = {top:.4g}\n{{{setting}{''.join(boxes)}}}"
    return f"{LATEX_PREAMBLE}{body}{LATEX_END}" if standalone else body


def escape_latex(text: str, unicode: str = "names") -> str:
    r"""The text so that TeX prints just these characters.

    Example:
        >>> print(escape_latex("100% of $5_000 -- \\relax"))
        100\% of \$5\_000 {-}{-} \textbackslash{}relax
    """
    return "".join(_escape(char, unicode) for char in text)


def _escape(char: str, unicode: str) -> str:
    if char in _SPECIALS:
        return _SPECIALS[char]
    if char.isascii() and char.isprintable():
        return char
    if char.isprintable() and (unicode == "keep" or "\u00c0" <= char <= "\u00ff"):
        return char
    return f"U+{ord(char):04X}"


def write_latex(source: Diagonals, path: str | os.PathLike[str]) -> Path:
    """Write a LaTeX document with a paragraph per text, tinted by the mean over all heads; special tokens stay white.

    Args:
        source: An Analysis, a Capture or Documents.
        path: The ``.tex`` file; an existing one is replaced.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
    """
    parts = []
    for document in as_analysis(source, "io.write_latex").documents:
        row = document.diagonal.astype(np.float64).mean(axis=(0, 1))
        row[special_tokens(document.tokens, document.special)] = 0.0  # [CLS] and [SEP] would take the whole scale
        parts.append(to_latex(document.tokens, row))
    with replacing_text(path) as file:
        file.write(LATEX_PREAMBLE + "\n\n\\bigskip\n".join(parts) + LATEX_END)
    return Path(path)
