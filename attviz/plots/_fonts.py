"""Fonts for the characters of the tokens: a missing glyph is looked up in other fonts, and shown as a box if none has it."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

SANS = "DejaVu Sans"
MONO = "DejaVu Sans Mono"
_BOX = "□"
# What to install for the scripts that machines lack most often: first letters of Unicode names, font, Debian's package.
_CURES = (
    (("CJK", "HIRAGANA", "KATAKANA", "HANGUL"), "Noto Sans CJK", "fonts-noto-cjk"),
    (("ARABIC",), "Noto Sans Arabic", "fonts-noto-core"),
    (("DEVANAGARI",), "Noto Sans Devanagari", "fonts-noto-core"),
)
_NO_FONT = "LastResort"  # matplotlib ships it: it has a box for every character and a glyph for none


class MissingFontWarning(UserWarning):
    """A figure shows boxes because no installed font has the characters."""


def fallback_families(texts: Iterable[str], first: str = SANS) -> list[str]:
    """Font families, in order, that together have every character of ``texts`` that any installed font has.

    Args:
        texts: What will be drawn.
        first: The family to prefer; matplotlib ships ``"DejaVu Sans"`` and ``"DejaVu Sans Mono"``.

    Returns:
        A list for ``Text.set_fontfamily``: matplotlib takes each glyph from the first family that has it.
    """
    families = dict.fromkeys([first, SANS])
    for char in sorted({char for text in texts for char in text}):
        family = _family_with(char, first)
        if family is not None:
            families[family] = None
    return list(families)


@cache
def _warn_of(script: str, font: str, package: str) -> None:
    """Warn once per process and script."""
    warnings.warn(
        f"plots: no installed font has {script} characters; they are drawn as {_BOX}. Install {font} (Debian: {package}), then delete "
        "matplotlib's font cache (matplotlib.get_cachedir()).",
        MissingFontWarning,
        stacklevel=3,
    )


def _missing(char: str) -> None:
    name = unicodedata.name(char, "unnamed")
    for starts, font, package in _CURES:
        if name.startswith(starts):
            _warn_of(starts[0].title() if starts[0] != "CJK" else "Chinese, Japanese or Korean", font, package)
            return
    if unicodedata.category(char) == "So" or ord(char) >= 0x1F000:
        _warn_of("emoji", "Noto Emoji, the outlined one: colour fonts cannot be drawn", "fonts-noto-extra")
    elif unicodedata.category(char)[0] == "L":
        script = name.split()[0].title()
        _warn_of(script, f"Noto Sans {script}", "fonts-noto-core")


def drawable(text: str, first: str = SANS) -> str:
    """The text with a box for each character that no installed font can draw; a warning names the font to install."""
    shown = []
    for char in text:
        known = _family_with(char, first) is not None
        if not known:
            _missing(char)
        shown.append(char if known else _BOX)
    return "".join(shown)


def font_file(texts: Sequence[str]) -> str:
    """Path of the font file that has the most characters of ``texts``, for code that can use only one."""
    wanted = {ord(char) for text in texts for char in text}
    candidates = [_default_file(SANS), *(path for _, path in _installed())]
    return max(candidates, key=lambda path: (len(wanted & _code_points(path)), -candidates.index(path)))


@cache
def _family_with(char: str, first: str) -> str | None:
    """The first family that can draw the character: the preferred one, DejaVu Sans, then Noto, then any by name."""
    for family in dict.fromkeys([first, SANS]):
        if ord(char) in _code_points(_default_file(family)):
            return family
    for family, path in _installed():
        if ord(char) in _code_points(path):
            return family
    return None


@cache
def _default_file(family: str) -> str:
    return str(font_manager.findfont(family))


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """(family, file) of the upright regular fonts that matplotlib knows, Noto Sans first, in an order that does not change."""
    regular = {
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular", "book")
        and Path(entry.fname).exists()
        and _NO_FONT not in Path(entry.fname).name
    }
    return tuple(sorted(regular, key=lambda font: (not font[0].startswith("Noto Sans"), not font[0].startswith("Noto"), font)))


@cache
def _code_points(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font file that FreeType cannot read serves nobody
        return frozenset()
