"""Tokens of a document as a table on the terminal, and as plain data for machines."""

from __future__ import annotations

from typing import Any

import torch

from attviz import metrics
from attviz.records import Document
from attviz.spelling import display_width, readable_labels, shorten, special_tokens

_COLUMNS = ("mean", "std", "max", "min", "entropy")
_TOKEN_COLUMNS = 24


def token_rows(document: Document, *, special: bool = False) -> list[dict[str, Any]]:
    """One row per token: its aggregates over all heads, and the head with the largest weight; special tokens only on request."""
    if not document.tokens:
        return []
    diagonal = torch.from_numpy(document.diagonal.astype("float32"))
    num_heads = diagonal.shape[1]
    stacked = diagonal[:, None]  # [num_layers, batch = 1, num_heads, num_tokens]
    columns = {name: getattr(metrics, name)(stacked)[0].tolist() for name in _COLUMNS}
    strongest = diagonal.flatten(0, 1).argmax(dim=0).tolist()
    rows = []
    left_out = special_tokens(document.tokens, document.special) & (not special)
    for place, label in enumerate(readable_labels(document.tokens)):
        if left_out[place]:
            continue
        layer, head = divmod(strongest[place], num_heads)
        row = {"token": document.tokens[place], "label": label}
        rows.append({**row, **{name: columns[name][place] for name in _COLUMNS}, "strongest": [layer, head]})
    return rows


def token_table(document: Document, most: int = 60, *, special: bool = False) -> str:
    """The rows as text, aligned, the strongest head as ``layer 3 head 7``; long texts are truncated, with a note."""
    rows = token_rows(document, special=special)
    width = max([5, *(display_width(shorten(row["label"], _TOKEN_COLUMNS)) for row in rows[:most])])
    lines = [f"{'token':<{width}}  " + "  ".join(f"{name:>7}" for name in _COLUMNS) + "  strongest head"]
    for row in rows[:most]:
        label = shorten(row["label"], _TOKEN_COLUMNS)
        numbers = "  ".join(_number(row[name]) for name in _COLUMNS)
        layer, head = row["strongest"]
        lines.append(f"{label}{' ' * (width - display_width(label))}  {numbers}  layer {layer} head {head}")
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most} more tokens")
    left_out = len(document.tokens) - len(rows)
    if left_out:
        which = "1 special token is" if left_out == 1 else f"{left_out} special tokens are"
        lines.append(f"({which} left out; --special shows them)")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Four decimals, or two digits and a power of ten if those would show zero."""
    return f"{value:7.1e}" if 0 < abs(value) < 5e-5 else f"{value:7.4f}"
