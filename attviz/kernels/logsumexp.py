"""The diagonal from the log-sum-exp that a fused attention kernel already returned: O(q_len * head_dim) work."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from attviz.errors import ArgumentError
from attviz.kernels import checks
from attviz.kernels.key_slots import bias_at, key_slots, logsumexp_of_texts, scores_at
from attviz.kernels.self_score import diagonal_of_bias, rows_of_logsumexp, self_scores, weights_from_scores
from attviz.kernels.summary import RowSummary, empty_outputs, head_aggregates
from attviz.kernels.twins import on_gpu, triton_serves, twin, twin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
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
    index: Int[Tensor, "batch q_len"] | Int[Tensor, "batch num_heads q_len"] | int | None = None,
    window_size: tuple[int, int] = (-1, -1),
    cu_seqlens_q: Int[Tensor, " texts+1"] | None = None,
    cu_seqlens_k: Int[Tensor, " texts+1"] | None = None,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Attention weight of each query on one key, its own unless ``index`` names another: ``exp(scale * q_i.k_j + bias_ij - logsumexp_i)``.

    Reads each query and its key once, grouped-query heads without repeating keys; one launch on the GPU. A row that sees no key has weight
    0, whatever its backend writes into the logsumexp; a row masked everywhere with ``finfo.min`` is uniform.

    Args:
        query: After positional encoding, any float dtype and strides; scores accumulate in float32 (float64 for float64 on the CPU).
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm, in any backend's layout (see :func:`attviz.kernels.rows_of_logsumexp`). With ``cu_seqlens_q`` also
            ``[texts, num_heads, longest]``, one padded row of each text.
        scale: Factor on ``query @ key.mT``; None means ``head_dim ** -0.5``.
        bias: What the attention added to its logits, or its bool mask (True where kept); broadcasts to
            ``[batch, num_heads, q_len, kv_len]``. Only the entries of the keys read are used.
        row_mask: True where the query sees at least one key; needed if the backend returns a finite logsumexp for a dead row.
        kv_offset: Key slot of query 0: the own key of query ``i`` is ``i + kv_offset``; None means ``kv_len - q_len``.
        softcap: Scaled scores become ``softcap * tanh(score / softcap)`` before the bias; 0 means no cap.
        sinks: Learned logit of each head that joins the denominator, if ``logsumexp`` does not include it yet.
        index: Key slot that each query reads instead of its own; or an int, that many keys after its own (-1: the key before). A query
            without such a key returns NaN.
        window_size: Keys that the attention let a query see (before, after) its own, -1 for all; (-1, 0) is causal. A key outside has
            weight 0. Only an ``index`` can fall outside.
        cu_seqlens_q: Start of each packed text and the total; then ``batch`` is 1, each text's last query owns its last key, and a query
            after the last text returns NaN.
        cu_seqlens_k: The same for the keys; None means ``cu_seqlens_q``.

    Returns:
        Probabilities in [0, 1], float32, on the device of ``query``, outside the autograd graph.

    Raises:
        ShapeError: If sizes disagree, or a query has no key of its own.
        DtypeError: If a tensor has the wrong dtype or is on another device.
        ArgumentError: If softcap is negative, or options exclude each other.

    Example:
        >>> query = torch.zeros(1, 1, 2, 16)
        >>> logsumexp = torch.log(torch.tensor([[[1.0, 2.0]]]))
        >>> diagonal_from_logsumexp(query, query, logsumexp)
        tensor([[[1.0000, 0.5000]]])
        >>> diagonal_from_logsumexp(query, query, logsumexp, index=-1)
        tensor([[[   nan, 0.5000]]])
    """
    texts = checks.check_packed("diagonal_from_logsumexp", query, cu_seqlens_q, cu_seqlens_k, bias=bias, row_mask=row_mask)
    rules = (scale, bias, row_mask, kv_offset, softcap, sinks)
    return _run("diagonal_from_logsumexp", query, key, logsumexp, *rules, (index, window_size, texts), extras=False)[0]


def weights_at_keys(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    row_mask: Tensor | None = None,
    kv_offset: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    index: Tensor | None = None,
    shift: int = 0,
    window_size: tuple[int, int] = (-1, -1),
    cu_seqlens: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> Float[Tensor, "batch num_heads q_len"]:
    """The result of :func:`diagonal_from_logsumexp`, for use inside an attention operator: nothing is checked, and no operator is called.

    Args:
        query: ``[batch, num_heads, q_len, head_dim]``.
        key: ``[batch, num_kv_heads, kv_len, head_dim]``.
        logsumexp: ``[batch, num_heads, q_len]``, or a padded row of each packed text.
        scale: Factor on the scores.
        bias: Must have four dimensions on a GPU.
        row_mask: ``[batch or 1, num_heads or 1, q_len]``.
        kv_offset: Key slot of query 0.
        softcap: 0 means no cap.
        sinks: ``[num_heads]``.
        index: ``[batch, num_heads or 1, q_len]``.
        shift: That many keys after the own one.
        window_size: Keys seen before and after the own one.
        cu_seqlens: Bounds of packed texts, of the queries and of the keys.
    """
    rules: tuple[Any, ...] = (scale, bias, row_mask, kv_offset, softcap, sinks, index, *cu_seqlens, shift, *window_size)
    rules_and_extras: tuple[Any, ...] = (*rules, False)
    if cu_seqlens[0] is not None and cu_seqlens[0].numel() == 1:  # no text at all
        return torch.full(query.shape[:3], torch.nan, device=query.device)
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or type(query) is not torch.Tensor:
        out: Tensor = _logsumexp_op(query, key, logsumexp, *rules_and_extras)[0]
        return out
    kind, serves = (query.dtype, query.shape[3]), on_gpu(query) and triton_serves(query, query.shape[3])
    return twin(
        "diagonal_from_logsumexp", kind, serves, lambda: _launcher()(query, key, logsumexp, *rules),
        lambda: _in_torch(query, key, logsumexp, *rules_and_extras)[0],
    )  # fmt: skip


@functools.cache
def _launcher() -> Callable[..., Tensor]:
    from attviz.kernels.triton.logsumexp import launch_diagonal

    return launch_diagonal


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
    rules = (scale, bias, row_mask, kv_offset, softcap, sinks)
    diagonal, first, aggregates = _run("summary_from_logsumexp", query, key, logsumexp, *rules, (None, (-1, -1), None), extras=True)
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
    at: tuple[Tensor | int | None, tuple[int, int], tuple[Tensor, Tensor] | None],
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
    index, (left, right), texts = at
    shift, index = checks.resolve_index(name, index, query)
    if texts is None:
        offset = checks.resolve_kv_offset(name, kv_offset, query, key)
        rows = rows_of_logsumexp(logsumexp, batch, num_heads, q_len)
    elif kv_offset is not None:
        raise ArgumentError(f"{name}: kv_offset cannot be combined with cu_seqlens_q: packed texts are aligned at their ends.")
    elif texts[0].numel() == 1:  # no text at all
        nothing = torch.full(query.shape[:3], torch.nan, device=query.device)
        return nothing, nothing, nothing
    else:
        offset = 0
        of_texts = logsumexp.dim() == 3 and tuple(logsumexp.shape[:2]) == (texts[0].numel() - 1, num_heads)
        rows = logsumexp if of_texts else rows_of_logsumexp(logsumexp, batch, num_heads, q_len)
    rules = (checks.resolve_scale(scale, query), bias, row_mask, offset, float(softcap), sinks, index, *(texts or (None, None)))
    with torch.no_grad():
        out: tuple[Tensor, Tensor, Tensor] = _logsumexp_op(query, key, rows, *rules, shift, left, right, extras)
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
    index: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    shift: int,
    left: int,
    right: int,
    extras: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, weight on key 0 and aggregates; the last two are empty unless ``extras``."""
    q_len, kv_len = query.shape[2], key.shape[2]
    texts = None if cu_seqlens_q is None or cu_seqlens_k is None else (cu_seqlens_q, cu_seqlens_k)
    if texts is not None and logsumexp.shape[0] == texts[0].numel() - 1:
        logsumexp = logsumexp_of_texts(logsumexp, texts[0], q_len)

    def weigh(scores: Tensor, added: Tensor | None) -> Tensor:
        return weights_from_scores(scores, logsumexp, scale, added, row_mask, kv_len=kv_len, softcap=softcap, sinks=sinks)

    if index is None and texts is None and shift == 0:
        own_bias = None if bias is None else diagonal_of_bias(bias, q_len, kv_offset)
        diagonal = weigh(self_scores(query, key[:, :, kv_offset : kv_offset + q_len]), own_bias)
    else:
        at = key_slots(q_len, kv_len, kv_offset, shift, index, texts, query.device)
        diagonal = weigh(scores_at(query, key, at.slots), None if bias is None else bias_at(bias, at.slots))
        if right >= 0:
            diagonal = torch.where(at.distance <= right, diagonal, 0.0)
        if left >= 0:
            diagonal = torch.where(at.distance >= -left, diagonal, 0.0)
        diagonal = torch.where(at.there, diagonal, torch.nan)
    diagonal = diagonal.contiguous()  # as the fake and the twin say: the sums of some layouts come with others
    if not extras or q_len == 0:
        return diagonal, *empty_outputs(query, query.shape[:3], extras)[1:]
    first_bias = None if bias is None else bias[..., 0]
    first = weigh(self_scores(query, key[:, :, :1].expand(-1, -1, q_len, -1)), first_bias)
    return diagonal, first.contiguous(), head_aggregates(diagonal)


_logsumexp_op = torch.library.custom_op(
    "attviz::diagonal_from_logsumexp",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor logsumexp, float scale, Tensor? bias, Tensor? row_mask, SymInt kv_offset, float softcap, "
    "Tensor? sinks, Tensor? index, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt shift, SymInt left, SymInt right, bool extras) "
    "-> (Tensor, Tensor, Tensor)",
)(_in_torch)


@_logsumexp_op.register_fake
def _(query: Tensor, key: Tensor, logsumexp: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(query, query.shape[:3], bool(rest[-1]))


_logsumexp_op.register_kernel("cuda", twin_of("diagonal_from_logsumexp", "logsumexp", _in_torch))
