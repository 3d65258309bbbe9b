"""Which key each query reads, in plain torch: its own, one at a distance from it, or one named by an index; also for packed texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from attviz.kernels.self_score import self_scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class KeySlots(NamedTuple):
    """Keys of the queries; the tensors broadcast to ``[batch, num_heads, q_len]``.

    Attributes:
        slots: Slot of the key, clamped to the keys where ``there`` is False.
        there: False where the query has no such key: outside the keys, or in another packed text.
        distance: Slot minus the slot of the query's own key.
    """

    slots: Int[Tensor, "batch heads q_len"]
    there: Bool[Tensor, "batch heads q_len"]
    distance: Int[Tensor, "batch heads q_len"]


def key_slots(
    q_len: int,
    kv_len: int,
    kv_offset: int,
    shift: int,
    index: Int[Tensor, "#batch #num_heads q_len"] | None,
    cu_seqlens: tuple[Tensor, Tensor] | None,
    device: torch.device,
) -> KeySlots:
    """The key of each query: ``index`` if given, else its own plus ``shift``.

    Packed texts are aligned at their ends, as in FlashAttention: the own key of a text's last query is the text's last key.
    """
    rows = torch.arange(q_len, device=device)
    positions, low, high = rows + kv_offset, 0, kv_len
    inside: Tensor | bool = True
    if cu_seqlens is not None:
        texts = text_of(cu_seqlens[0], q_len)
        ends = cu_seqlens[0].long()[texts + 1]
        low, high = cu_seqlens[1].long()[texts], cu_seqlens[1].long()[texts + 1]  # type: ignore[assignment]
        positions, inside = rows - ends + high, rows < ends
    slots = (positions + shift)[None, None] if index is None else index.long()
    there = (slots >= low) & (slots < high) & inside
    return KeySlots(slots.clamp(0, max(kv_len - 1, 0)), there, slots - positions)


def text_of(cu_seqlens: Int[Tensor, " texts+1"], length: int) -> Int[Tensor, " length"]:
    """Number of the packed text at each position; positions after the last text get its number."""
    places = torch.arange(length, device=cu_seqlens.device)
    texts = torch.searchsorted(cu_seqlens[1:].long().contiguous(), places, right=True)
    return texts.clamp(max=cu_seqlens.numel() - 2)


def logsumexp_of_texts(logsumexp: Float[Tensor, "texts num_heads longest"], cu_seqlens: Tensor, q_len: int) -> Tensor:
    """``[1, num_heads, q_len]`` from one padded row of each packed text, as flash-attn before 2.7 returns it."""
    texts = text_of(cu_seqlens, q_len)
    places = (torch.arange(q_len, device=cu_seqlens.device) - cu_seqlens.long()[texts]).clamp(max=logsumexp.shape[2] - 1)
    return logsumexp[texts, :, places].T[None]


def scores_at(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    slots: Int[Tensor, "#batch #num_heads q_len"],
) -> Float[Tensor, "batch num_heads q_len"]:
    """Dot product of each query with the key at its slot, unscaled. The keys are gathered, which takes as much memory as the query."""
    batch, num_heads, q_len, head_dim = query.shape
    if slots.shape[0] == 1 and slots.shape[1] == 1:
        return self_scores(query, key.index_select(2, slots[0, 0]))
    if slots.shape[1] == num_heads != key.shape[1]:
        key = key[:, :, None].expand(-1, -1, num_heads // key.shape[1], -1, -1).flatten(1, 2)
    places = slots[..., None].expand(batch, key.shape[1], q_len, head_dim)
    return self_scores(query, key.gather(2, places))


def bias_at(bias: Tensor, slots: Int[Tensor, "#batch #num_heads q_len"]) -> Tensor:
    """The entry of a bias (or bool mask) with 1 to 4 dimensions for each query and the key at its slot."""
    bias = bias[(None,) * (4 - bias.dim())]
    if bias.shape[3] == 1:
        return bias[..., 0]
    batch, heads = (max(a, b) for a, b in zip(bias.shape[:2], slots.shape[:2], strict=True))
    q_len = slots.shape[2]
    return bias.expand(batch, heads, q_len, bias.shape[3]).gather(3, slots.expand(batch, heads, q_len)[..., None])[..., 0]
