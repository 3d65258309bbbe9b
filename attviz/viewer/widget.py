"""The page as an anywidget: the same script, without the file, with a selection that Python can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attviz.errors import MissingExtraError
from attviz.viewer.html import built, static

if TYPE_CHECKING:
    from attviz.viewer.payload import Payload


def make_widget(payload: Payload) -> Any:
    """Build the widget of a page.

    Args:
        payload: What the page carries.

    Returns:
        An ``anywidget.AnyWidget`` with the traitlet ``selection``: ``{"document", "token", "pinned", "hidden"}``.

    Raises:
        MissingExtraError: If anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtraError("page.widget() needs anywidget: pip install 'attviz[widget]'.") from error

    scripts, styles = built(payload.extensions)

    class PageWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        _esm = "\n".join([*scripts[:-1], static("widget.js")])  # extensions register before the widget starts
        _head = traitlets.Unicode().tag(sync=True)
        _chunks = traitlets.List(traitlets.Unicode()).tag(sync=True)
        _parts = traitlets.Dict().tag(sync=True)
        _style = traitlets.Unicode().tag(sync=True)
        selection = traitlets.Dict().tag(sync=True)

    return PageWidget(_head=payload.head(), _chunks=list(payload.chunks), _parts=dict(payload.parts), _style="".join(styles[1:]))
