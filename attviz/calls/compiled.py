"""flex_attention's functions applied to some scores, compiled: one kernel on a GPU instead of one per operation of a ``score_mod``.

The dot products, the function and the exponential become one kernel, with float32 in its registers only. Where the kernel's log-sum-exp is
missing, flex_attention itself computes it: compiled once more, with a narrow slice of the keys as values. It supports every function and
block mask, and never holds the matrix. What cannot be compiled is computed by plain torch, with a warning that names the cause.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attviz.kernels.self_score import NEVER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

BACKEND = "inductor"
_NARROW = 16  # the fewest values that flex_attention takes


def weights_through(
    score_mod: Callable[..., Tensor],
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    index: Int[Tensor, "#batch #num_heads q_len"] | int,
    *,
    seen: Bool[Tensor, "#batch #num_heads q_len"] | None,
    sinks: Float[Tensor, " num_heads"] | None,
    scale: float,
) -> Float[Tensor, "batch num_heads q_len"]:
    """Weight of each query on one key; NaN where that lies outside the keys, 0 where it is not ``seen``.

    Args:
        score_mod: ``(score, batch, head, q_idx, kv_idx) -> score``, on single numbers.
        query: Any float dtype.
        key: Before ``repeat_kv``.
        logsumexp: Natural logarithm, without the sinks.
        index: Key of each query; an int is the key of query 0, and the others follow.
        seen: What the mask says about these keys.
        sinks: Learned logit of each head that joins the denominator.
        scale: Factor on the scores.
    """
    shapes = (
        query.shape[0] == 1,
        query.shape[2] == 1,
        key.shape[2] == 1,
        isinstance(index, int) or tuple(size == 1 for size in index.shape),
    )
    given = (query.dtype, seen is None or tuple(size == 1 for size in seen.shape), sinks is None)
    with _numbers_are_constants():
        found: Tensor = _compiled(_known_as(score_mod), scale, shapes, given)(score_mod, query, key, logsumexp, index, seen, sinks, scale)
    return found


def logsumexp_through(
    score_mod: Callable[..., Tensor] | None, query: Tensor, key: Tensor, block_mask: Any, scale: float
) -> Float[Tensor, "batch num_heads q_len"]:
    """Log-sum-exp of every row, by a compiled flex_attention over the same functions; natural logarithm."""
    from torch.nn.attention.flex_attention import AuxRequest

    code = (_known_as(score_mod), _known_as(getattr(block_mask, "mask_mod", None)), scale)
    values = key[..., :_NARROW] if key.shape[3] >= _NARROW else key
    with _numbers_are_constants():
        _, aux = _compiled_flex(code, query.dtype, query.shape[0] == 1, query.shape[2] == 1)(
            query, key, values, score_mod=score_mod, block_mask=block_mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1],
            return_aux=AuxRequest(lse=True),
        )  # fmt: skip
    lse: Tensor = aux.lse
    return lse


def _known_as(function: Callable[..., Tensor] | None) -> tuple[object, ...]:
    """What a compiled kernel belongs to: the code of a function and the numbers that it closes over."""
    cells = getattr(function, "__closure__", None) or ()
    return getattr(function, "__code__", function), *(cell for cell in map(_number_in, cells) if cell is not None)


def _number_in(cell: CellType) -> float | None:
    try:
        held = cell.cell_contents
    except ValueError:  # not filled yet
        return None
    return held if isinstance(held, float) else None


def _numbers_are_constants() -> AbstractContextManager[object]:
    """While a kernel is compiled: the compiler cannot divide a mapped score by a symbolic float, and a softcap is a float."""
    from torch._dynamo import config

    made: AbstractContextManager[object] = config.patch(specialize_float=True)
    return made


@lru_cache(maxsize=64)
def _compiled(*kind: object) -> Callable[..., Tensor]:
    """A compiled function for each kind of call, with its own code object, because dynamo limits recompilations per code object."""
    mine = FunctionType(_weigh.__code__.replace(), _weigh.__globals__, "weights_through", _weigh.__defaults__)
    made: Callable[..., Tensor] = torch.compile(mine, fullgraph=True, dynamic=True, backend=BACKEND)
    return made


@lru_cache(maxsize=64)
def _compiled_flex(*kind: object) -> Callable[..., tuple[Tensor, Any]]:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(*args: Any, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs)

    mine = FunctionType(attend.__code__.replace(), attend.__globals__, "logsumexp_through", None, attend.__closure__)
    made: Callable[..., tuple[Tensor, Any]] = torch.compile(mine, fullgraph=True, backend=BACKEND)
    return made


def _weigh(
    score_mod: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    index: Tensor | int,
    seen: Tensor | None,
    sinks: Tensor | None,
    scale: float,
) -> Tensor:
    batch, num_heads, q_len, _ = query.shape
    num_kv_heads, kv_len = key.shape[1:3]
    device, exact = query.device, torch.promote_types(query.dtype, torch.float32)
    texts, heads, rows = (torch.arange(size, device=device) for size in (batch, num_heads, q_len))
    slots = (rows + index)[None, None] if isinstance(index, int) else index
    there = (slots >= 0) & (slots < kv_len)
    slots = slots.clamp(0, kv_len - 1).expand(batch, num_heads, q_len)
    groups = num_heads // num_kv_heads
    chosen = key[texts[:, None, None], heads[None, :, None] // groups, slots]
    scores = (query.to(exact) * chosen.to(exact)).sum(-1) * scale
    scores = mapped(score_mod)(scores, texts, heads, rows, slots)
    denominator = logsumexp.to(exact)
    if sinks is not None:
        denominator = torch.logaddexp(denominator, sinks.to(exact)[:, None])
    weights = torch.exp(scores - denominator).clamp(0.0, 1.0)
    if sinks is None:
        weights = torch.where(logsumexp <= NEVER, 1.0 / kv_len, weights)
    alive = ~torch.isinf(logsumexp) & (scores != -torch.inf)
    weights = torch.where(alive if seen is None else alive & seen, weights, 0.0).float()
    return torch.where(there, weights, torch.nan)


def mapped(score_mod: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Apply a ``score_mod`` of single numbers over ``[batch, num_heads, q_len]``, each query with one key."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    of_queries = torch.vmap(score_mod, in_dims=(0, None, None, 0, 0))
    of_heads = torch.vmap(of_queries, in_dims=(0, None, 0, None, 0))
    of_texts = torch.vmap(of_heads, in_dims=(0, 0, None, None, 0))

    def run(*args: Tensor) -> Tensor:
        with TransformGetItemToIndex():  # lets ``table[q_idx]`` index with tensors, as inside flex_attention
            found: Tensor = of_texts(*args)
            return found

    return run
