"""The interactive page: one HTML file that shows the diagonals of every layer and head, and needs no network access.

    attviz.view(analysis).save("page.html")

The page's sources are in ``frontend/``; ``static/`` holds the built script and stylesheet, so users need no Node.
"""

from attviz.viewer.page import Page
from attviz.viewer.view import view

__all__ = ["Page", "view"]
