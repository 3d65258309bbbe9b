"""The page object: a file, a notebook cell, or a widget."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attviz.errors import ArgumentError
from attviz.files import replacing_text
from attviz.viewer.html import notebook_frame, page_parts

if TYPE_CHECKING:
    from attviz.viewer.payload import Payload

NOTEBOOK_HEIGHT = 860
TEXT_HEIGHT = 340


class Page:
    """An interactive, self-contained page: it needs no network access and runs nothing but its own script.

    A notebook displays the page by itself (in a sandboxed iframe). ``attviz.view`` makes pages.
    """

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    def __repr__(self) -> str:
        count = len(self._payload.rows)
        return f"<attviz.Page {self._payload.title!r}: {count} document{'s' * (count != 1)}, {self._payload.size / 2**20:.1f} MB of data>"

    @property
    def html(self) -> str:
        """The whole file as a string."""
        return "".join(self._parts())

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page as one HTML file (UTF-8).

        Args:
            path: Where to write; an existing file is replaced once the new one is complete.

        Returns:
            The path written.

        Raises:
            OSError: If the file cannot be written.
        """
        with replacing_text(path) as file:
            file.writelines(self._parts())
        return Path(path)

    def widget(self) -> Any:
        """The page as an ``anywidget`` whose ``selection`` Python can read; needs the ``widget`` extra.

        Returns:
            The widget; ``widget.selection`` holds the document, the pinned token, the pinned vectors, and it is a traitlet.

        Raises:
            ArgumentError: If the page shows the text alone.
            MissingExtraError: If anywidget is not installed.
        """
        if self._payload.show != "page":
            raise ArgumentError('page.widget(): a page made with show="text" has no widget. Call attviz.view without show=.')
        from attviz.viewer.widget import make_widget

        return make_widget(self._payload)

    def _parts(self) -> Any:
        payload = self._payload
        return page_parts(payload.title, payload.head(), payload.chunks, payload.parts, payload.extensions, payload.show)

    def _repr_html_(self) -> str:
        return notebook_frame(self.html, NOTEBOOK_HEIGHT if self._payload.show == "page" else TEXT_HEIGHT)
