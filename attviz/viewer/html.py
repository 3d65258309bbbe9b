"""The one HTML file: script, stylesheet and data inlined, under a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

_BOOT = (
    "This page draws itself with a script that is inside this file. If you keep seeing this line, scripts are switched off here "
    '(some notebooks forbid them until you trust the notebook): save the page with <code>page.save("page.html")</code> and open it '
    "in a browser."
)


@cache
def static(name: str) -> str:
    """Text of a built file of the package, such as ``"page.js"``.

    Example:
        >>> static("page.css") != ""
        True
    """
    return files("attviz.viewer").joinpath("static").joinpath(name).read_text(encoding="utf-8")


def script_json(value: object) -> str:
    r"""JSON that cannot leave a ``<script>`` element, whatever the strings in it say.

    Example:
        >>> script_json({"token": "</script>"})
        '{"token":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def csp(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """Content security policy that allows these scripts, these styles, images made by the page, and nothing else.

    Example:
        >>> csp([""], [""]).split("; ")[0]
        "default-src 'none'"
    """
    script, style = (" ".join(f"'{_digest(text)}'" for text in texts) for texts in (scripts, styles))
    return f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; base-uri 'none'; form-action 'none'"


def built(extensions: Iterable[str], show: str = "page") -> tuple[list[str], list[str]]:
    """Scripts and styles of a page, in their order: extensions register before the page starts.

    Args:
        extensions: Names of what the page needs in addition to its own script, such as ``"pairs"``.
        show: ``"page"``, or ``"text"`` for the text alone.

    Example:
        >>> scripts, styles = built([])
        >>> len(scripts), len(styles)
        (1, 1)
    """
    names = list(extensions)
    with_style = [name for name in names if files("attviz.viewer").joinpath("static").joinpath(f"{name}.css").is_file()]
    return [static(f"{name}.js") for name in [*names, show]], [static(f"{name}.css") for name in [show, *with_style]]


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def page_parts(
    title: str,
    head: str,
    documents: Iterable[str],
    parts: Mapping[str, str] | None = None,
    extensions: Iterable[str] = (),
    show: str = "page",
) -> Iterator[str]:
    """Yield the file piece by piece, so that writing it needs no second copy of the data.

    Args:
        title: Plain text; it is escaped here.
        head: :func:`script_json` of what the page needs immediately.
        documents: :func:`script_json` of each document, which the page reads when it is opened.
        parts: :func:`script_json` of what extensions read, by name and document (``"pairs-0"``).
        extensions: Names of the further scripts that the page needs.
        show: ``"page"``, or ``"text"`` for the text alone.

    Yields:
        Text; joined, a complete HTML document.
    """
    scripts, styles = built(extensions, show)
    yield "<!doctype html>\n"
    yield '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{html.escape(csp(scripts, styles), quote=False)}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
    yield '<link rel="icon" href="data:,">\n'
    yield f"<title>{html.escape(title)}</title>\n"
    yield "".join(f"<style>{style}</style>\n" for style in styles)
    yield "</head>\n<body>\n"
    yield f'<div id="attviz-root"><p class="boot">{_BOOT}</p></div>\n'
    yield _block("head", head)
    for index, document in enumerate(documents):
        yield _block(f"doc-{index}", document)
    for name, part in (parts or {}).items():
        yield _block(name, part)
    yield "".join(f"<script>{script}</script>\n" for script in scripts)
    yield "</body>\n</html>\n"


def _block(name: str, content: str) -> str:
    return f'<script type="application/json" data-sum="{checksum(content)}" id="attviz-{name}">{content}</script>\n'


def checksum(text: str) -> str:
    """Adler-32 of the UTF-16 code units, which the page computes again before it believes a block (frontend/src/file.ts).

    Example:
        >>> checksum("")
        '00000001'
    """
    return f"{zlib.adler32(text.encode('utf-16-le')):08x}"


# The frame may not look at the notebook around it, so the notebook's style tells it the theme by its height (frontend/src/views/theme.ts).
_LIGHT_HOSTS = ('body[data-jp-theme-light="true"]', "body.vscode-light", "html[theme=light]")
_DARK_HOSTS = ('body[data-jp-theme-light="false"]', "body.vscode-dark", "body.vscode-high-contrast", "html[theme=dark]")


def notebook_frame(document: str, height: int) -> str:
    """Iframe that shows the page in a notebook cell, without access to the notebook around it.

    Example:
        >>> 'sandbox="allow-scripts allow-downloads"' in notebook_frame("<p>", 400)
        True
    """
    kind = f"attviz-frame-{height}"  # frames of other heights may stand in the same notebook
    light, dark = (",".join(f"{host} .{kind}" for host in hosts) for hosts in (_LIGHT_HOSTS, _DARK_HOSTS))
    return (
        f"<style>.{kind}{{height:{height}px}}{light}{{height:{height + 10}px}}{dark}{{height:{height + 20}px}}</style>"
        f'<iframe title="attviz page" name="attviz-notebook-{height}" class="{kind}" sandbox="allow-scripts allow-downloads" width="100%" '
        f'style="border:0;border-radius:8px;min-width:320px" srcdoc="{html.escape(document)}"></iframe>'
    )
