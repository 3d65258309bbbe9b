"""The texts of a capture: steps of a generation joined into one diagonal, and batches or packed rows split into their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.errors import ArgumentError, CaptureError
from attviz.hooks.session.step import Step
from attviz.records import CapturedDocument, DiagonalRecord

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def join_steps(
    steps: Sequence[Step], beam_indices: Int[Tensor, "rows new_tokens"] | None = None
) -> Float[Tensor, "num_layers batch num_heads tokens"]:
    """Join the steps of the last sequence, from its first token on.

    Each step knows how many tokens its cache held. If there were fewer than joined so far, the rest is dropped (tokens rejected by assisted
    decoding); if there were none, a new sequence begins (another prompt, or generation without a cache).

    Args:
        steps: Kept forwards, in order. Layers that the last one does not have (an encoder) are left out.
        beam_indices: As ``generate(num_beams=..., return_dict_in_generate=True, output_scores=True)`` returns them: the row from which each
            new token was chosen. Tokens after the end of a finished row are NaN.

    Raises:
        CaptureError: If steps are missing between two others, or differ in their layers or their batch.
        ArgumentError: If the steps come from a beam search and its indices are not passed.
    """
    if any(step.beams for step in steps) and beam_indices is None:
        raise ArgumentError(
            "sequence_diagonal: the steps come from a beam search, which reorders rows. Call generate with "
            "return_dict_in_generate=True, output_scores=True and pass beam_indices=outputs.beam_indices."
        )
    layers = [(record.layer, record.layer_index) for record in steps[-1].records()]
    joined: Tensor | None = None
    number = -1
    for step in steps:
        if not {(pending.layer, pending.index) for pending in step.pending} & set(layers):
            continue  # the encoder, which generate() runs by itself
        past = int(step.past)
        if past == 0:
            joined, number = None, -1
        number += 1
        diagonal = _rows(_stacked(step, layers), beam_indices, number)
        held = 0 if joined is None else joined.shape[-1]
        if past > held:
            raise CaptureError(
                f"sequence_diagonal: step {step.number} found {past} tokens in its cache, but only {held} were recorded. Capture every "
                'forward from the prompt on: keep="all", every=1, and no cache filled outside the context.'
            )
        if joined is not None and joined.shape[:-1] != diagonal.shape[:-1]:
            raise CaptureError(
                f"sequence_diagonal: step {step.number} has [num_layers, batch, num_heads] = {tuple(diagonal.shape[:-1])}, the steps "
                f"before it {tuple(joined.shape[:-1])}. Read cap.steps one by one."
            )
        joined = diagonal if joined is None else torch.cat([joined[..., :past], diagonal], -1)
    assert joined is not None
    return joined


def split_documents(
    diagonal: Float[Tensor, "num_layers batch num_heads q_len"],
    token_ids: Int[Tensor, "batch q_len"] | None,
    query_mask: Bool[Tensor, "batch q_len"],
    document_ids: Int[Tensor, "batch q_len"] | None = None,
) -> tuple[CapturedDocument, ...]:
    """Split a batch into its texts, in order.

    Args:
        diagonal: Diagonals of all layers.
        token_ids: Token ids, if the model has them.
        query_mask: True where the token is real.
        document_ids: Number of each token's text within its row; None if each row is one text.

    Example:
        >>> diagonal = torch.tensor([[[[1.0, 0.5, 1.0, 0.25]]]])
        >>> texts = split_documents(diagonal, None, torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0, 0, 1, 1]]))
        >>> [text.diagonal.tolist() for text in texts]
        [[[[1.0, 0.5]]], [[[1.0, 0.25]]]]
    """
    numbers = torch.zeros_like(query_mask, dtype=torch.long) if document_ids is None else document_ids
    numbers = torch.where(query_mask.to(numbers.device), numbers, -1)
    texts: list[CapturedDocument] = []
    for row, own in enumerate(numbers):
        for number in range(int(own.max()) + 1 if own.numel() else 0):
            places = (own == number).nonzero().squeeze(1)
            ids = None if token_ids is None else token_ids[row, places.to(token_ids.device)]
            texts.append(CapturedDocument(diagonal[:, row][..., places.to(diagonal.device)], ids, row, places))
    return tuple(texts)


def _stacked(step: Step, layers: list[tuple[str | None, int]]) -> Tensor:
    records: dict[tuple[str | None, int], DiagonalRecord] = {(record.layer, record.layer_index): record for record in step.records()}
    missing = [layer for layer in layers if layer not in records]
    if missing or len({records[layer].diagonal.shape for layer in layers}) != 1:
        what = f"has no {missing[0][0]!r}" if missing else "has layers of different shapes"
        raise CaptureError(f"sequence_diagonal: step {step.number} {what}. Capture one tower with layers=, or read cap.steps one by one.")
    return torch.stack([records[layer].diagonal for layer in layers])


def _rows(diagonal: Tensor, beam_indices: Tensor | None, number: int) -> Tensor:
    """The rows of a step in the order of the finished sequences; NaN where a sequence has ended before it."""
    if beam_indices is None:
        return diagonal
    if number >= beam_indices.shape[1]:
        return diagonal.new_full((diagonal.shape[0], beam_indices.shape[0], *diagonal.shape[2:]), torch.nan)
    rows = beam_indices[:, number].to(diagonal.device)
    if int(rows.max()) >= diagonal.shape[1]:
        raise ArgumentError(f"sequence_diagonal: beam_indices name row {int(rows.max())} of a batch of {diagonal.shape[1]}.")
    chosen = diagonal[:, rows.clamp(min=0)]
    return torch.where((rows >= 0)[None, :, None, None], chosen, torch.nan)
