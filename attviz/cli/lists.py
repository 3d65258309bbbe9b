"""Lists on the command line, spelled one way: separated by commas, in one option or in several."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any


def add_list(parser: argparse.ArgumentParser, name: str, of: Callable[[str], Any], *, metavar: str = "A,B,...", help: str) -> None:
    """An option whose value is a list: ``--layers 4,5``, or ``--layers 4 --layers 5``."""

    def several(text: str) -> list[Any]:
        try:
            return [of(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list such as {metavar}: {error}") from error

    parser.add_argument(name, action="extend", type=several, metavar=metavar, help=help)


def layer(text: str) -> int | slice | str:
    """An index or a range, or else a name or pattern.

    Example:
        >>> layer("-1"), layer("2:4"), layer("encoder.*")
        (-1, slice(2, 4, None), 'encoder.*')
    """
    return place(text) if re.fullmatch(r"-?\d+|-?\d*:-?\d*", text) else text


def place(text: str) -> int | slice:
    """An index, or a range as Python writes it.

    Example:
        >>> place("3"), place(":200"), place("10:20")
        (3, slice(None, 200, None), slice(10, 20, None))
    """
    if ":" not in text:
        return int(text)
    return slice(*(int(part) if part else None for part in text.split(":")))


def add_selectors(parser: argparse.ArgumentParser, *names: str) -> None:
    """``--layers``, ``--heads`` and ``--documents``, as every subcommand has them."""
    if "layers" in names:
        add_list(parser, "--layers", layer, help="indices, ranges, names or patterns, such as 4,5 or 8: or '*.attention' (default: all)")
    if "heads" in names:
        add_list(parser, "--heads", place, metavar="N,A:B,...", help="indices or ranges, such as 3,7 or :4 (default: all)")
    if "documents" in names:
        add_list(parser, "--documents", place, metavar="N,A:B,...", help="indices or ranges, such as 3,17 or :200 (default: all)")
