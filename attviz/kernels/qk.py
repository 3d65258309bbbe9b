"""The diagonal from query and key alone: an online log-sum-exp without values, for attention that did not return one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import torch

from attviz.errors import ArgumentError, ShapeError
from attviz.kernels import checks
from attviz.kernels.blocked_softmax import ScoreRules, row_sums
from attviz.kernels.summary import RowSummary
from attviz.kernels.twins import twin_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from typing_extensions import Unpack

Alignment = Literal["bottom_right", "top_left"]


class QkOptions(TypedDict, total=False):
    """The keyword options of :func:`diagonal_from_qk`, which explains them."""

    scale: float | None
    is_causal: bool
    causal_alignment: Alignment
    window_size: tuple[int, int]
    softcap: float
    sinks: Tensor | None
    alibi_slopes: Tensor | None
    bias: Tensor | None
    key_mask: Tensor | None
    kv_offset: int | None
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen: int | None


def diagonal_from_qk(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    *,
    scale: float | None = None,
    is_causal: bool = False,
    causal_alignment: Alignment = "bottom_right",
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Float[Tensor, " num_heads"] | None = None,
    alibi_slopes: Float[Tensor, "*batch num_heads"] | None = None,
    bias: Tensor | None = None,
    key_mask: Bool[Tensor, "batch kv_len"] | None = None,
    kv_offset: int | None = None,
    cu_seqlens_q: Int[Tensor, " sequences+1"] | None = None,
    cu_seqlens_k: Int[Tensor, " sequences+1"] | None = None,
    max_seqlen: int | None = None,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Attention weight of each query on its own key, without the ``q_len x kv_len`` matrix and without values.

    Online softmax (arXiv:1805.02867) over blocks of keys: O(q_len * kv_len * head_dim) work, O(q_len) memory. A query that sees no key,
    or not its own, has weight 0.

    Args:
        query: After positional encoding, any float dtype and strides; scores accumulate in float32 (float64 for float64 on the CPU).
        key: Before ``repeat_kv``; ``num_kv_heads`` divides ``num_heads``.
        scale: Factor on ``query @ key.mT``; None means ``head_dim ** -0.5``.
        is_causal: Hide the keys after each query's position.
        causal_alignment: Position of query 0 for causal mask, window and ALiBi: key ``kv_len - q_len`` (``"bottom_right"``, as
            FlashAttention since 2.1) or key 0 (``"top_left"``, as torch SDPA).
        window_size: Keys seen (before, after) the query's position, -1 for all, as in FlashAttention.
        softcap: Scaled scores become ``softcap * tanh(score / softcap)`` before any bias; 0 means no cap.
        sinks: Learned logit of each head that joins the denominator.
        alibi_slopes: Adds ``-slope * abs(position - key)``; ``[num_heads]`` or ``[batch, num_heads]``.
        bias: Added to the logits, or bool with True where a key is kept; broadcasts to ``[batch, num_heads, q_len, kv_len]``.
        key_mask: True where the key is real.
        kv_offset: Key slot of query 0: query ``i`` reads key ``i + kv_offset``; None means ``kv_len - q_len``.
        cu_seqlens_q: Start of each packed sequence and the total; then ``batch`` is 1, and each sequence attends within itself.
        cu_seqlens_k: The same for the keys; None means ``cu_seqlens_q``.
        max_seqlen: Longest packed sequence of queries; saves empty programs on the GPU. None means ``q_len``.

    Returns:
        Probabilities in [0, 1], float32, on the device of ``query``, outside the autograd graph.

    Raises:
        ShapeError: If sizes disagree, or a query has no key of its own.
        DtypeError: If a tensor has the wrong dtype or is on another device.
        ArgumentError: If options exclude each other.

    Example:
        >>> diagonal_from_qk(torch.zeros(1, 1, 4, 16), torch.zeros(1, 1, 4, 16), is_causal=True)
        tensor([[[1.0000, 0.5000, 0.3333, 0.2500]]])
    """
    options: QkOptions = {
        "scale": scale,
        "is_causal": is_causal,
        "causal_alignment": causal_alignment,
        "window_size": window_size,
        "softcap": softcap,
        "sinks": sinks,
        "alibi_slopes": alibi_slopes,
        "bias": bias,
        "key_mask": key_mask,
        "kv_offset": kv_offset,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "max_seqlen": max_seqlen,
    }
    return _run("diagonal_from_qk", query, key, False, options)[0]


def summary_from_qk(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    **options: Unpack[QkOptions],
) -> RowSummary:
    """Diagonal, log-sum-exp, row entropy, largest logit and weight on key 0, all from one pass over query and key.

    Takes the options of :func:`diagonal_from_qk`, raises what it raises, and leaves ``aggregates`` None.

    Example:
        >>> rows = summary_from_qk(torch.zeros(1, 1, 2, 16), torch.zeros(1, 1, 2, 16), is_causal=True)
        >>> rows.row_entropy, rows.first_token
        (tensor([[[0.0000, 0.6931]]]), tensor([[[1.0000, 0.5000]]]))
    """
    diagonal, logsumexp, entropy, largest, first = _run("summary_from_qk", query, key, True, options).unbind()
    return RowSummary(diagonal, first_token=first, logsumexp=logsumexp, row_entropy=entropy, row_max_logit=largest)


class QkRules(NamedTuple):
    """The options, checked and resolved, in the order of the operators' schemas."""

    scale: float
    kv_offset: int | None  # None: the last query's own key is the last key
    bottom_right: bool
    left: int
    right: int
    softcap: float
    sinks: Tensor | None
    alibi_slopes: Tensor | None
    bias: Tensor | None
    key_mask: Tensor | None
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen: int

    @classmethod
    def without_sinks(cls, options: tuple[Any, ...]) -> QkRules:
        """From the schema of an operator that takes a log-sum-exp, which holds the sinks."""
        return cls._make((*options[:6], None, *options[6:]))


def resolve_options(name: str, query: Tensor, key: Tensor, options: QkOptions) -> QkRules:
    """Check the options of a function over query and key, and fill in the defaults."""
    checks.check_query_and_key(name, query, key)
    sinks, slopes = options.get("sinks"), options.get("alibi_slopes")
    bias, key_mask = options.get("bias"), options.get("key_mask")
    batch, num_heads = query.shape[:2]
    checks.check_sinks(name, sinks, query)
    checks.check_bias(name, bias, query, key)
    checks.check_mask(name, "key_mask", key_mask, ((batch, key.shape[2]),))
    if slopes is not None and tuple(slopes.shape) not in ((num_heads,), (batch, num_heads)):
        raise ShapeError(
            f"{name}: alibi_slopes must be [num_heads] or [batch, num_heads], got {tuple(slopes.shape)} for {num_heads} heads."
        )
    softcap = options.get("softcap", 0.0)
    checks.check_softcap(name, softcap)
    alignment = options.get("causal_alignment", "bottom_right")
    if alignment not in ("bottom_right", "top_left"):
        raise ArgumentError(f"{name}: causal_alignment must be 'bottom_right' or 'top_left', got {alignment!r}.")
    kv_offset, cu_q, cu_k = options.get("kv_offset"), options.get("cu_seqlens_q"), options.get("cu_seqlens_k")
    cu_q, cu_k = checks.check_packed(name, query, cu_q, cu_k, bias=bias, key_mask=key_mask) or (None, None)
    if cu_q is None:
        kv_offset = checks.resolve_kv_offset(name, kv_offset, query, key)
    left, right = options.get("window_size", (-1, -1))
    right = 0 if options.get("is_causal", False) else right
    longest = options.get("max_seqlen") or query.shape[2]
    return QkRules(
        checks.resolve_scale(options.get("scale"), query), kv_offset, alignment == "bottom_right", left, right, float(softcap),
        sinks, slopes, bias, key_mask, cu_q, cu_k, longest,
    )  # fmt: skip


def _run(name: str, query: Tensor, key: Tensor, summary: bool, options: QkOptions) -> Tensor:
    """Check the options, then call the operator outside the graph."""
    rules = resolve_options(name, query, key, options)
    with torch.no_grad():
        out: Tensor = _qk_op(query, key, *rules, summary)
    return out


def _in_torch(query: Tensor, key: Tensor, *rules_and_summary: Any) -> Tensor:
    """Blocked torch, one sequence after another: ``[5 if summary else 1, batch, num_heads, q_len]``."""
    rules, summary = QkRules(*rules_and_summary[:-1]), rules_and_summary[-1]
    batch, num_heads, q_len, _ = query.shape
    behind = 0.0 if rules.cu_seqlens_q is None else torch.nan  # what no text holds has no weights
    out = torch.full((5 if summary else 1, batch, num_heads, q_len), behind, dtype=torch.float32, device=query.device)
    for b, queries, keys, score_rules in each_sequence(query, key, rules):
        out[:, b, :, queries] = row_sums(query[b, :, queries], key[b, :, keys], score_rules)[: len(out)]
    return out


def each_sequence(query: Tensor, key: Tensor, rules: QkRules) -> Iterator[tuple[int, slice, slice, ScoreRules]]:
    """Batch element, queries, keys and rules of every sequence, packed or not."""
    batch, num_heads, q_len, _ = query.shape
    bias, mask, slopes = rules.bias, rules.key_mask, rules.alibi_slopes
    bias = None if bias is None else bias[(None,) * (4 - bias.dim())]
    for b, queries, keys in _sequences(batch, q_len, key.shape[2], rules.cu_seqlens_q, rules.cu_seqlens_k):
        shift = (keys.stop - keys.start) - (queries.stop - queries.start)
        yield (
            b,
            queries,
            keys,
            ScoreRules(
                scale=rules.scale,
                kv_offset=shift if rules.kv_offset is None else rules.kv_offset,
                alignment=shift if rules.bottom_right else 0,
                left=rules.left,
                right=rules.right,
                softcap=rules.softcap,
                sinks=rules.sinks,
                alibi_slopes=None if slopes is None else slopes.expand(batch, num_heads)[b],
                bias=None if bias is None else bias[b if bias.shape[0] > 1 else 0],
                key_mask=None if mask is None else mask[b if mask.shape[0] > 1 else 0],
            ),
        )


def _sequences(batch: int, q_len: int, kv_len: int, cu_q: Tensor | None, cu_k: Tensor | None) -> list[tuple[int, slice, slice]]:
    """Batch element, queries and keys of every sequence, packed or not."""
    if cu_q is None or cu_k is None:
        return [(b, slice(0, q_len), slice(0, kv_len)) for b in range(batch)]
    edges_q, edges_k = cu_q.tolist(), cu_k.tolist()
    return [(0, slice(*edges_q[n : n + 2]), slice(*edges_k[n : n + 2])) for n in range(len(edges_q) - 1)]


_qk_op = torch.library.custom_op(
    "attviz::diagonal_from_qk",
    mutates_args=(),
    schema="(Tensor query, Tensor key, float scale, SymInt? kv_offset, bool bottom_right, SymInt left, SymInt right, float softcap, "
    "Tensor? sinks, Tensor? alibi_slopes, Tensor? bias, Tensor? key_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "
    "SymInt max_seqlen, bool summary) -> Tensor",
)(_in_torch)


@_qk_op.register_fake
def _(query: Tensor, key: Tensor, *rest: object) -> Tensor:
    return query.new_empty((5 if rest[-1] else 1, *query.shape[:3]), dtype=torch.float32)


_qk_op.register_kernel("cuda", twin_of("diagonal_from_qk", "qk", _in_torch, matrix=True))
