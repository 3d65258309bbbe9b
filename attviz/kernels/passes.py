"""One pass over all pairs of query and key, given the log-sum-exp of the rows: what keys receive, and sums over a row's keys.

``A[i, j] = exp(s_ij - logsumexp_i)`` holds for every pair, so a tile of weights is computed, summed and discarded: as much work as the
scores alone, O(q_len + kv_len) memory, float32 throughout. No running maximum is needed, and no second pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from attviz.errors import ArgumentError, ShapeError
from attviz.kernels import checks
from attviz.kernels.blocked_softmax import row_sums, tiles
from attviz.kernels.parts import parts
from attviz.kernels.qk import QkOptions, QkRules, resolve_options
from attviz.kernels.self_score import NEVER, rows_of_logsumexp
from attviz.kernels.tile_sums import facts, receive, weigh
from attviz.kernels.twins import twin_of
from attviz.kernels.weight_tiles import HIDDEN, serves

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor
    from typing_extensions import Unpack


def received_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    *,
    query_mask: Bool[Tensor, "batch q_len"] | None = None,
    **options: Unpack[QkOptions],
) -> Float[Tensor, "2 batch num_heads kv_len"]:
    """Weight that each key receives from all queries together, ``sum_i A[i, j]``, and the number of queries that can see it.

    One launch on the GPU: a block of keys walks over the queries. A query that sees no key contributes nothing.

    Args:
        query: After positional encoding, any float dtype and strides.
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm of each row, learned sinks included.
        query_mask: True where the query counts.
        **options: Options of :func:`diagonal_from_qk`, except ``sinks``.

    Returns:
        Column sums and counts, float32, outside the autograd graph; 0 at keys of no packed text.

    Raises:
        ShapeError: If sizes disagree.
        DtypeError: If a tensor has the wrong dtype or is on another device.
        ArgumentError: If options exclude each other, or sinks are given.

    Example:
        >>> query = torch.zeros(1, 1, 3, 16)
        >>> logsumexp = torch.log(torch.tensor([[[1.0, 2.0, 3.0]]]))
        >>> received_from_logsumexp(query, query, logsumexp, is_causal=True)[:, 0, 0]
        tensor([[1.8333, 0.8333, 0.3333],
                [3.0000, 2.0000, 1.0000]])
    """
    name = "received_from_logsumexp"
    rules, rows = _resolved(name, query, key, logsumexp, options)
    batch, _, q_len, _ = query.shape
    checks.check_mask(name, "query_mask", query_mask, ((batch, q_len),))
    with torch.no_grad():
        out: Tensor = _received_op(query, key, rows, query_mask, *rules)
    return out


def mass_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    features: Float[Tensor, "*batch kv_len num_features"],
    **options: Unpack[QkOptions],
) -> Float[Tensor, "batch num_heads q_len num_features"]:
    """Sums over the keys of each row, ``sum_j A[i, j] features[j, f]``: the mass on sets of keys, a mean position, a mean value.

    What a fused kernel would return with the features as its values, but in float32 instead of 16 bits. A query after the last packed
    text returns NaN.

    Args:
        query: After positional encoding, any float dtype and strides.
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm of each row, learned sinks included.
        features: Features of each key, or of each key of each batch element; bool counts as 0 and 1.
        **options: Options of :func:`diagonal_from_qk`, except ``sinks``.

    Raises:
        ShapeError: If sizes disagree.
        DtypeError: If a tensor has the wrong dtype or is on another device.
        ArgumentError: If options exclude each other, or sinks are given.

    Example:
        >>> query, first = torch.zeros(1, 1, 2, 16), torch.tensor([[1.0], [0.0]])
        >>> mass_from_logsumexp(query, query, torch.log(torch.tensor([[[1.0, 2.0]]])), first, is_causal=True).flatten()
        tensor([1.0000, 0.5000])
    """
    rules, rows = _resolved("mass_from_logsumexp", query, key, logsumexp, options)
    features = features if features.dim() == 3 else features[None]
    if features.dim() != 3 or features.shape[0] not in (1, query.shape[0]) or features.shape[1] != key.shape[2]:
        raise ShapeError(
            f"mass_from_logsumexp: features must be [kv_len, num_features] or [batch, kv_len, num_features] with batch={query.shape[0]} "
            f"kv_len={key.shape[2]}, got {tuple(features.shape)}."
        )
    with torch.no_grad():
        out: Tensor = _mass_op(query, key, rows, features.to(torch.float32), -1, *rules)
    return out


def reach_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    *,
    reach: int = -1,
    **options: Unpack[QkOptions],
) -> Float[Tensor, "batch num_heads q_len 2"]:
    """Mass of each row within ``reach`` keys of its own (-1: all), and the sum ``sum_j A[i, j] abs(j - own_i)`` over the same keys.

    Takes the options of :func:`mass_from_logsumexp`; ``kv_offset`` says which key is a query's own.

    Example:
        >>> query = torch.zeros(1, 1, 3, 16)
        >>> reach_from_logsumexp(query, query, torch.log(torch.full((1, 1, 3), 3.0)), reach=1)[0, 0]
        tensor([[0.6667, 0.3333],
                [1.0000, 0.6667],
                [0.6667, 0.3333]])
    """
    rules, rows = _resolved("reach_from_logsumexp", query, key, logsumexp, options)
    with torch.no_grad():
        out: Tensor = _mass_op(query, key, rows, None, reach, *rules)
    return out


def facts_from_logsumexp(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    **options: Unpack[QkOptions],
) -> Float[Tensor, "2 batch num_heads q_len"]:
    """Entropy of each row in nats, and its largest logit; a row that sees no key gives 0 and -inf.

    With ``l = s - logsumexp``, the entropy is ``log(sum exp l) - sum(l exp l) / sum exp l``: the log-sum-exp is a shift that keeps the
    exponentials small, and its rounding cancels out. Takes the options of :func:`mass_from_logsumexp`. In torch on every device;
    :func:`summary_from_qk` does the same in one launch on a GPU.

    Example:
        >>> query = torch.zeros(1, 1, 2, 16)
        >>> facts_from_logsumexp(query, query, torch.log(torch.tensor([[[1.0, 2.0]]])), is_causal=True)[:, 0, 0]
        tensor([[0.0000, 0.6931],
                [0.0000, 0.0000]])
    """
    rules, rows = _resolved("facts_from_logsumexp", query, key, logsumexp, options)
    with torch.no_grad():
        out: Tensor = _facts_op(query, key, rows, *rules)
    return out


def _resolved(name: str, query: Tensor, key: Tensor, logsumexp: Tensor, options: QkOptions) -> tuple[tuple[Any, ...], Tensor]:
    """The options in the order of the schemas, and the log-sum-exp as rows."""
    rules = resolve_options(name, query, key, options)
    if rules.sinks is not None:
        raise ArgumentError(
            f"{name}: sinks must be part of the logsumexp: pass torch.logaddexp(logsumexp, sinks[:, None]) instead of sinks=."
        )
    checks.check_floating(name, query=query, logsumexp=logsumexp)
    batch, num_heads, q_len, _ = query.shape
    return (*rules[:6], *rules[7:]), rows_of_logsumexp(logsumexp, batch, num_heads, q_len)


def _weights(logits: Tensor, logsumexp: Tensor, kv_len: int) -> Tensor:
    """One tile of weights ``[num_heads, rows, columns]``; a dead row has weight 0; a row hidden by ``finfo.min`` is uniform."""
    lse = logsumexp.to(logits.dtype)[..., None]
    weights = torch.exp(logits - lse).clamp_(max=1.0)
    weights = torch.where(lse <= NEVER, 1.0 / max(kv_len, 1), weights)
    return torch.where(lse.isinf() | (logits == -torch.inf), 0.0, weights)


def _received_in_torch(query: Tensor, key: Tensor, logsumexp: Tensor, query_mask: Tensor | None, *rules: Any) -> Tensor:
    batch, num_heads, _, _ = query.shape
    out = torch.zeros(2, batch, num_heads, key.shape[2], dtype=torch.float32, device=query.device)
    for part in parts(query, key, logsumexp, QkRules.without_sinks(rules)):
        lse, size = part.logsumexp, part.keys.stop - part.keys.start
        here = out[:, part.texts, :, part.keys].view(2, len(part.query), size)
        alive = lse.isinf().logical_not_()
        if query_mask is not None:
            alive &= part.of_each(query_mask, part.queries)
        if serves(query, lse, part.rules):
            receive(part.query, part.key, lse, alive, part.rules, here)
            continue
        for rows, columns, logits in tiles(part.query, part.key, part.rules):
            weights = _weights(logits, lse[:, rows], size) * alive[:, rows, None]
            here[0, :, columns] += weights.sum(1).float()
            here[1, :, columns] += ((logits > HIDDEN) & alive[:, rows, None]).sum(1)
    return out


def _mass_in_torch(query: Tensor, key: Tensor, logsumexp: Tensor, features: Tensor | None, reach: int, *rules: Any) -> Tensor:
    batch, num_heads, q_len, _ = query.shape
    resolved = QkRules.without_sinks(rules)
    behind = 0.0 if resolved.cu_seqlens_q is None else torch.nan
    width = 2 if features is None else features.shape[2]
    out = torch.full((batch, num_heads, q_len, width), behind, dtype=torch.float32, device=query.device)
    for part in parts(query, key, logsumexp, resolved):
        lse, of_keys = part.logsumexp, None if features is None else part.of_each(features, part.keys)
        here = out[part.texts, :, part.queries].view(*lse.shape, width).zero_()
        if serves(query, lse, part.rules):
            weigh(part.query, part.key, lse, of_keys, reach, part.rules, here)
            continue
        for rows, columns, logits in tiles(part.query, part.key, part.rules):
            weights = _weights(logits, lse[:, rows], part.keys.stop - part.keys.start)
            if of_keys is None:
                own = torch.arange(rows.start, rows.stop, device=query.device) + part.rules.kv_offset
                distance = (torch.arange(columns.start, columns.stop, device=query.device) - own[:, None]).abs()
                weights = weights if reach < 0 else weights * (distance <= reach)
                here[:, rows] += torch.stack((weights.sum(-1), (weights * distance).sum(-1)), -1).float()
            else:
                here[:, rows] += (weights @ of_keys[:, columns].to(weights.dtype)).float()
    return out


def _facts_in_torch(query: Tensor, key: Tensor, logsumexp: Tensor, *rules: Any) -> Tensor:
    resolved = QkRules.without_sinks(rules)
    out = torch.full((2, *query.shape[:3]), 0.0 if resolved.cu_seqlens_q is None else torch.nan, dtype=torch.float32, device=query.device)
    for part in parts(query, key, logsumexp, resolved):
        here = out[:, part.texts, :, part.queries].view(2, *part.logsumexp.shape)
        if serves(query, part.logsumexp, part.rules):
            here[:] = facts(part.query, part.key, part.logsumexp, part.rules)
        else:
            here[:] = row_sums(part.query, part.key, part.rules)[[2, 3]]
    return out


_RULES = (
    "float scale, SymInt? kv_offset, bool bottom_right, SymInt left, SymInt right, float softcap, Tensor? alibi_slopes, Tensor? bias, "
    "Tensor? key_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen) -> Tensor"
)
_received_op = torch.library.custom_op(
    "attviz::received_from_logsumexp",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor logsumexp, Tensor? query_mask, {_RULES}",
)(_received_in_torch)
_mass_op = torch.library.custom_op(
    "attviz::mass_from_logsumexp",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor logsumexp, Tensor? features, SymInt reach, {_RULES}",
)(_mass_in_torch)
_facts_op = torch.library.custom_op(
    "attviz::facts_from_logsumexp",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor logsumexp, {_RULES}",
)(_facts_in_torch)


@_received_op.register_fake
def _(query: Tensor, key: Tensor, *rest: object) -> Tensor:
    return query.new_empty((2, *query.shape[:2], key.shape[2]), dtype=torch.float32)


@_mass_op.register_fake
def _(query: Tensor, key: Tensor, logsumexp: Tensor, features: Tensor | None, *rest: object) -> Tensor:
    width = 2 if features is None else features.shape[2]
    return query.new_empty((*query.shape[:3], width), dtype=torch.float32)


@_facts_op.register_fake
def _(query: Tensor, *rest: object) -> Tensor:
    return query.new_empty((2, *query.shape[:3]), dtype=torch.float32)


_received_op.register_kernel("cuda", twin_of("received_from_logsumexp", "received", _received_in_torch, matrix=True))
_mass_op.register_kernel("cuda", twin_of("mass_from_logsumexp", "mass", _mass_in_torch, matrix=True))
