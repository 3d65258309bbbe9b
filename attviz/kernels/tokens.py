"""Statistics per vocabulary id: sort the ids once per step, reduce each segment, merge by Chan et al. (1979) in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels.checks import check_floating, check_mask
from attviz.kernels.twins import triton_serves, twin
from attviz.statistics import pool

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

SEGMENT_CHUNK = 512  # a longer segment (one very frequent id) is reduced in pieces, so that no single GPU program does it alone


class TokenState(NamedTuple):
    """Running statistics of the diagonal per vocabulary id and head; updated in place by :func:`merge_by_token`.

    Sums are float64 because a float32 sum of squares loses the standard deviation; extremes are float32, which holds them exactly.

    Attributes:
        count: ``[vocab]`` float64, occurrences of the id.
        mean: ``[vocab, num_heads]`` float64; 0 where the count is 0.
        m2: ``[vocab, num_heads]`` float64, sum of squared deviations from the mean: ``std = sqrt(m2 / (count - 1))``.
        max: ``[vocab, num_heads]`` float32; -inf where the count is 0.
        min: ``[vocab, num_heads]`` float32; +inf where the count is 0.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a state
    mean: Tensor
    m2: Tensor
    max: Tensor
    min: Tensor

    @classmethod
    def empty(cls, vocab: int, num_heads: int, device: torch.device | str | None = None) -> TokenState:
        """An empty state: 24 bytes per id and head (94 MiB for 128256 ids and 32 heads)."""
        shape = (vocab, num_heads)
        return cls(
            torch.zeros(vocab, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.full(shape, float("-inf"), device=device),
            torch.full(shape, float("inf"), device=device),
        )


class TokenOrder(NamedTuple):
    """The token ids of one step, sorted: computed once with :meth:`of` and reused for every layer of that step.

    Attributes:
        plan: ``[5, batch * q_len]`` int64: sorted id (below 0: skipped), its position in the flattened ids, start and end of the
            segment of equal ids, and the slot of a partial result if the segment is longer than ``SEGMENT_CHUNK``.
        shape: (batch, q_len) of the ids.
    """

    plan: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, token_ids: Int[Tensor, "batch q_len"], query_mask: Bool[Tensor, "batch q_len"] | None = None) -> TokenOrder:
        """Sort the ids of a step, on their device and without waiting for it.

        Args:
            token_ids: Vocabulary ids; those below 0 are skipped.
            query_mask: True where the token is real; the others are skipped.

        Raises:
            ShapeError: If ``token_ids`` is not two-dimensional, or the mask differs in shape.
            DtypeError: If the ids are not integers, or the mask not bool.
        """
        if token_ids.dim() != 2:
            raise ShapeError(f"TokenOrder.of: token_ids must be [batch, q_len], got {tuple(token_ids.shape)}.")
        if token_ids.is_floating_point() or token_ids.dtype is torch.bool:
            raise DtypeError(f"TokenOrder.of: token_ids must be integers, got {token_ids.dtype}.")
        batch, q_len = token_ids.shape
        check_mask("TokenOrder.of", "query_mask", query_mask, ((batch, q_len),))
        ids = token_ids.long()
        if query_mask is not None:
            ids = torch.where(query_mask.to(ids.device), ids, -1)
        ids, places = ids.reshape(-1).sort(stable=True)
        starts = torch.searchsorted(ids, ids)
        ends = torch.searchsorted(ids, ids, right=True)
        rank = torch.arange(len(ids), device=ids.device) - starts
        heads_a_piece = (rank % SEGMENT_CHUNK == 0) & (ends - starts > SEGMENT_CHUNK) & (ids >= 0)
        slots = torch.cumsum(heads_a_piece, 0) - 1
        return cls(torch.stack((ids, places, starts, ends, slots)), (batch, q_len))


def merge_by_token(
    state: TokenState,
    token_ids: Int[Tensor, "batch q_len"] | TokenOrder,
    diagonal: Float[Tensor, "batch num_heads q_len"],
) -> None:
    """Merge one layer's diagonal into the statistics of each vocabulary id, in place.

    Deterministic, and independent of how a stream is cut into calls to 1e-12 relative in the mean. Ids below 0 are skipped. On the GPU
    nothing waits for the device, so an id of ``vocab`` or above cannot be reported there: it is skipped too.

    Args:
        state: From :meth:`TokenState.empty`, on the device of ``diagonal``.
        token_ids: Ids of the queries, or better their :class:`TokenOrder`, so that further layers need no sort.
        diagonal: The layer's weights. To pool the heads, pass ``diagonal.reshape(batch * num_heads, 1, q_len)`` with the ids
            repeated for each head.

    Raises:
        ShapeError: If ids, diagonal and state disagree in their sizes.
        DtypeError: If the diagonal is not floating point, or is on another device than the state.
        ArgumentError: If an id is ``vocab`` or above (not on the GPU).

    Example:
        >>> state = TokenState.empty(vocab=3, num_heads=1)
        >>> merge_by_token(state, torch.tensor([[2, 0, 2, -100]]), torch.tensor([[[0.25, 1.0, 0.75, 0.5]]]))
        >>> state.count.tolist(), state.mean.flatten().tolist(), state.m2.flatten().tolist()
        ([1.0, 0.0, 2.0], [1.0, 0.0, 0.5], [0.0, 0.0, 0.125])
    """
    order = token_ids if isinstance(token_ids, TokenOrder) else TokenOrder.of(token_ids)
    check_floating("merge_by_token", diagonal=diagonal, mean=state.mean)
    if diagonal.dim() != 3 or (diagonal.shape[0], diagonal.shape[2]) != order.shape:
        raise ShapeError(
            f"merge_by_token: diagonal must be [batch, num_heads, q_len] with the batch and q_len of the ids {order.shape}, "
            f"got {tuple(diagonal.shape)}."
        )
    if state.mean.dim() != 2 or state.mean.shape[1] != diagonal.shape[1] or state.count.shape != state.mean.shape[:1]:
        raise ShapeError(
            f"merge_by_token: the state holds [vocab, num_heads] = {tuple(state.mean.shape)}, "
            f"the diagonal has num_heads={diagonal.shape[1]}."
        )
    if diagonal.numel():
        _merge_op(*state, diagonal.detach(), order.plan)


def _in_torch(count: Tensor, mean: Tensor, m2: Tensor, max: Tensor, min: Tensor, diagonal: Tensor, plan: Tensor) -> None:
    """Segment reduction in torch: two passes (mean, then deviations), then one Chan merge into the touched rows."""
    skipped = int(torch.searchsorted(plan[0].contiguous(), 0))
    ids, lengths = torch.unique_consecutive(plan[0, skipped:], return_counts=True)
    if len(ids) == 0:
        return
    if int(ids[-1]) >= len(count):
        raise ArgumentError(f"merge_by_token: token id {int(ids[-1])} does not fit a state of vocab={len(count)}.")
    flat = diagonal.transpose(1, 2).reshape(-1, diagonal.shape[1])
    values = flat[plan[1, skipped:]]
    exact = values.double()
    here = lengths[:, None].double()
    here_mean = torch.segment_reduce(exact, "sum", lengths=lengths, axis=0) / here
    here_m2 = torch.segment_reduce((exact - here_mean.repeat_interleave(lengths, 0)).square_(), "sum", lengths=lengths, axis=0)
    total, mean[ids], m2[ids] = pool(count[ids][:, None], mean[ids], m2[ids], here, here_mean, here_m2)
    count[ids] = total[:, 0]
    extremes = values.float()
    max[ids] = torch.maximum(max[ids], torch.segment_reduce(extremes, "max", lengths=lengths, axis=0))
    min[ids] = torch.minimum(min[ids], torch.segment_reduce(extremes, "min", lengths=lengths, axis=0))


_merge_op = torch.library.custom_op(
    "attviz::merge_by_token",
    mutates_args=("count", "mean", "m2", "max", "min"),
    schema="(Tensor(a!) count, Tensor(b!) mean, Tensor(c!) m2, Tensor(d!) max, Tensor(e!) min, Tensor diagonal, Tensor plan) -> ()",
)(_in_torch)


@_merge_op.register_fake
def _(count: Tensor, mean: Tensor, m2: Tensor, max: Tensor, min: Tensor, diagonal: Tensor, plan: Tensor) -> None:
    return None


def merge_by_token_reference(
    state: TokenState, token_ids: Int[Tensor, "batch q_len"], diagonal: Float[Tensor, "batch num_heads q_len"]
) -> TokenState:
    """Float64 oracle of :func:`merge_by_token`: Welford's recurrence, one occurrence at a time, into a new state."""
    count, mean, m2, largest, smallest = (tensor.double().clone() for tensor in state)
    for b, ids in enumerate(token_ids.tolist()):
        for i, token in enumerate(ids):
            if token < 0:
                continue
            value = diagonal[b, :, i].double()
            count[token] += 1
            delta = value - mean[token]
            mean[token] += delta / count[token]
            m2[token] += delta * (value - mean[token])
            largest[token] = torch.maximum(largest[token], value)
            smallest[token] = torch.minimum(smallest[token], value)
    return TokenState(count, mean, m2, largest, smallest)


@_merge_op.register_kernel("cuda")
def _(count: Tensor, mean: Tensor, m2: Tensor, max: Tensor, min: Tensor, diagonal: Tensor, plan: Tensor) -> None:
    def launch() -> None:
        from attviz.kernels.triton.tokens import launch

        launch(count, mean, m2, max, min, diagonal, plan)

    kind, serves = (diagonal.dtype, diagonal.shape[1]), triton_serves(diagonal)
    twin("merge_by_token", kind, serves, launch, lambda: _in_torch(count, mean, m2, max, min, diagonal, plan))
