"""The diagonal from the log-sum-exp that a fused attention kernel already returned: O(q_len * head_dim) work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from attviz.kernels import checks
from attviz.kernels.self_score import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores
from attviz.kernels.summary import RowSummary, empty_outputs, head_aggregates
from attviz.kernels.twins import triton_serves

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def diagonal_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    row_mask: Bool[Tensor, "batch q_len"] | Bool[Tensor, "batch num_heads q_len"] | None = None,
    kv_offset: int | None = None,
    softcap: float = 0.0,
    sinks: Float[Tensor, " num_heads"] | None = None,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Attention weight each query gives its own key: ``exp(scale * q_i.k_i + bias_ii - logsumexp_i)``.

    Reads query and key once, grouped-query heads without repeating keys. A row that sees no key gives 0 whatever its backend writes
    into the logsumexp; a row masked everywhere with ``finfo.min`` is uniform.

    Args:
        query: After positional encoding, any float dtype and strides; scores accumulate in float32 (float64 for float64 on the CPU).
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm, in any backend's layout (see :func:`attviz.kernels.rows_of_logsumexp`).
        scale: Factor on ``query @ key.mT``; None means ``head_dim ** -0.5``.
        bias: What the attention added to its logits, or its bool mask (True where kept); broadcasts to
            ``[batch, num_heads, q_len, kv_len]``. Only its diagonal is read.
        row_mask: True where the query sees at least one key; needed where the backend gives a dead row a finite logsumexp.
        kv_offset: Key slot of query 0: query ``i`` weighs key ``i + kv_offset``; None means ``kv_len - q_len``.
        softcap: Scaled scores become ``softcap * tanh(score / softcap)`` before the bias; 0 means no cap.
        sinks: Learned logit of each head that joins the denominator, where ``logsumexp`` does not hold it yet.

    Returns:
        Probabilities in [0, 1], float32, on the device of ``query``, outside the autograd graph.

    Raises:
        ShapeError: If sizes disagree, or a query has no key of its own.
        DtypeError: If a tensor is of another kind or on another device.
        ArgumentError: If softcap is negative.

    Example:
        >>> query = torch.zeros(1, 1, 2, 16)
        >>> diagonal_from_logsumexp(query, query, torch.log(torch.tensor([[[1.0, 2.0]]])))
        tensor([[[1.0000, 0.5000]]])
    """
    rest = (scale, bias, row_mask, kv_offset, softcap, sinks)
    return _run("diagonal_from_logsumexp", query, key, logsumexp, *rest, extras=False)[0]


def summary_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    row_mask: Bool[Tensor, "batch q_len"] | Bool[Tensor, "batch num_heads q_len"] | None = None,
    kv_offset: int | None = None,
    softcap: float = 0.0,
    sinks: Float[Tensor, " num_heads"] | None = None,
) -> RowSummary:
    """Diagonal, its five aggregates over the heads and the weight on key 0, in one launch on the GPU.

    Arguments and errors are those of :func:`diagonal_from_logsumexp`. The weight on key 0 reads ``bias[..., 0]`` and otherwise assumes
    that key 0 is seen: it is wrong under a sliding window that the kernel applied by itself.

    Example:
        >>> query = torch.zeros(1, 2, 2, 16)
        >>> rows = summary_from_logsumexp(query, query, torch.log(torch.tensor([[[1.0, 2.0], [1.0, 4.0]]])))
        >>> rows.aggregates[0], rows.first_token[0, 1]
        (tensor([[1.0000, 0.3750]]), tensor([1.0000, 0.2500]))
    """
    rest = (scale, bias, row_mask, kv_offset, softcap, sinks)
    diagonal, first, aggregates = _run("summary_from_logsumexp", query, key, logsumexp, *rest, extras=True)
    return RowSummary(diagonal, aggregates, first)


def _run(
    name: str,
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    scale: float | None,
    bias: Tensor | None,
    row_mask: Tensor | None,
    kv_offset: int | None,
    softcap: float,
    sinks: Tensor | None,
    extras: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments, then call the operator outside the graph."""
    checks.check_query_and_key(name, query, key)
    checks.check_floating(name, query=query, logsumexp=logsumexp)
    checks.check_bias(name, bias, query, key)
    checks.check_sinks(name, sinks, query)
    checks.check_softcap(name, softcap)
    batch, num_heads, q_len, _ = query.shape
    checks.check_mask(name, "row_mask", row_mask, ((batch, q_len), (batch, num_heads, q_len)))
    if row_mask is not None and row_mask.dim() == 2:
        row_mask = row_mask[:, None]
    offset = checks.resolve_kv_offset(name, kv_offset, query, key)
    rows = rows_of_logsumexp(logsumexp, batch, num_heads, q_len)
    rules = (checks.resolve_scale(scale, query), bias, row_mask, offset, float(softcap), sinks, extras)
    with torch.no_grad():
        out: tuple[Tensor, Tensor, Tensor] = _logsumexp_op(query, key, rows, *rules)
    return out


def _in_torch(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    scale: float,
    bias: Tensor | None,
    row_mask: Tensor | None,
    kv_offset: int,
    softcap: float,
    sinks: Tensor | None,
    extras: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, weight on key 0 and aggregates; the last two are empty unless ``extras``."""
    q_len, kv_len = query.shape[2], key.shape[2]

    def weigh(scores: Tensor, bias_at: Tensor | None) -> Tensor:
        return weights_from_scores(scores, logsumexp, scale, bias_at, row_mask, kv_len=kv_len, softcap=softcap, sinks=sinks)

    own_bias = None if bias is None else diagonal_of_bias(bias, q_len, kv_offset)
    own_key = key[:, :, kv_offset : kv_offset + q_len]
    diagonal = weigh(self_scores(query, own_key), own_bias)
    if not extras or q_len == 0:
        return diagonal, *empty_outputs(query, query.shape[:3], extras)[1:]
    first_bias = None if bias is None else bias[..., 0]
    first = weigh(self_scores(query, key[:, :, :1].expand(-1, -1, q_len, -1)), first_bias)
    return diagonal, first, head_aggregates(diagonal)


_logsumexp_op = torch.library.custom_op(
    "attviz::diagonal_from_logsumexp",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor logsumexp, float scale, Tensor? bias, Tensor? row_mask, SymInt kv_offset, float softcap, "
    "Tensor? sinks, bool extras) -> (Tensor, Tensor, Tensor)",
)(_in_torch)


@_logsumexp_op.register_fake
def _(query: Tensor, key: Tensor, logsumexp: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(query, query.shape[:3], bool(rest[-1]))


@_logsumexp_op.register_kernel("cuda")
def _(query: Tensor, key: Tensor, logsumexp: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not triton_serves(query, query.shape[3]):
        return _in_torch(query, key, logsumexp, *rest)
    from attviz.kernels.triton.logsumexp import launch

    return launch(query, key, logsumexp, *rest)
