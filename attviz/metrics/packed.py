"""Where each token's own text begins and ends, for several texts packed into a row."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def text_bounds(document_ids: Int[Tensor, "batch q_len"]) -> tuple[Int[Tensor, "batch q_len"], Int[Tensor, "batch q_len"]]:
    """Positions of the first and the last token of each token's own text.

    Args:
        document_ids: Number of each token's text within its row, as in ``DiagonalRecord.document_ids``.

    Example:
        >>> text_bounds(torch.tensor([[0, 0, 1, 2, 2]]))
        (tensor([[0, 0, 2, 3, 3]]), tensor([[1, 1, 2, 4, 4]]))
    """
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    changes = document_ids.diff(dim=1) != 0
    begins = torch.nn.functional.pad(changes, (1, 0), value=True)
    ends = torch.nn.functional.pad(changes, (0, 1), value=True)
    first = torch.where(begins, places, 0).cummax(1).values
    last = torch.where(ends, places, places.numel()).flip(1).cummin(1).values.flip(1)
    return first, last
