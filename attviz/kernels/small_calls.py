"""The diagonals of several small attention calls at once: on a GPU one launch for all layers of a decode step."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from attviz.kernels.key_slots import bias_at, scores_at
from attviz.kernels.self_score import diagonal_of_bias, self_scores, weights_from_scores
from attviz.kernels.twins import on_gpu, triton_serves, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int
    from torch import Tensor


def weights_of_calls(
    queries: Sequence[Float[Tensor, "batch num_heads q_len head_dim"]],
    keys: Sequence[Float[Tensor, "batch num_kv_heads kv_len head_dim"]],
    logsumexps: Sequence[Float[Tensor, "batch num_heads q_len"]],
    biases: Sequence[Tensor],
    *,
    scale: float,
    offsets: Sequence[int],
    past: Int[Tensor, ""] | None = None,
    packed: bool = False,
) -> Float[Tensor, "calls batch num_heads q_len"]:
    """The results of ``diagonal_from_logsumexp`` for several calls of one shape; nothing is checked.

    Args:
        queries: One for each call, all of one shape, dtype and device; any strides.
        keys: One for each call, all of one shape.
        logsumexps: One for each call.
        biases: One for each call, or none at all: additive or bool, with 1 to 4 dimensions.
        scale: Factor on the scores.
        offsets: Key of query 0 of each call.
        past: Replaces the offsets if only the device knows them; never beyond the last keys.
        packed: Whether heads of a group take the place of queries: all have the key of query 0.

    Returns:
        The weights, in one buffer, so that a forward needs one allocation for all of its layers.
    """
    rules: tuple[Any, ...] = (scale, list(offsets), past, packed)
    given: tuple[Any, ...] = (list(queries), list(keys), list(logsumexps), list(biases), *rules)
    query = queries[0]
    if torch._C._len_torch_dispatch_stack() or type(query) is not torch.Tensor:
        out: Tensor = _calls_op(*given)
        return out
    kind, serves = (query.dtype, query.shape[3]), on_gpu(query) and triton_serves(query, query.shape[3])
    return twin("weights_of_calls", kind, serves, lambda: _launcher()(*given), lambda: _in_torch(*given))


@functools.cache
def _launcher() -> Callable[..., Tensor]:
    from attviz.kernels.triton.small_calls import launch

    return launch


def _in_torch(
    queries: list[Tensor],
    keys: list[Tensor],
    logsumexps: list[Tensor],
    biases: list[Tensor],
    scale: float,
    offsets: list[int],
    past: Tensor | None,
    packed: bool,
) -> Tensor:
    count, (batch, num_heads, q_len, _), kv_len = len(queries), queries[0].shape, keys[0].shape[2]
    rows = 1 if packed else q_len
    query, bias = torch.cat(queries), None
    if past is None:
        own = torch.cat([key.narrow(2, offset, rows) for key, offset in zip(keys, offsets, strict=True)])
        scores = self_scores(query, own.expand(-1, -1, q_len, -1) if packed else own)
        if biases:
            bias = torch.stack([_of_heads(diagonal_of_bias(bias, rows, at)) for bias, at in zip(biases, offsets, strict=True)])
    else:
        places = (torch.arange(rows, device=query.device) + past.clamp(max=kv_len - rows)).expand(1, 1, q_len)
        scores = scores_at(query, torch.cat(keys), places)
        if biases:
            bias = torch.stack([_of_heads(bias_at(bias, places)) for bias in biases])
    if bias is not None:
        bias = bias.expand(-1, batch, -1, -1).flatten(0, 1)
    found = weights_from_scores(scores, torch.cat(logsumexps), scale, bias, kv_len=kv_len)
    return found.reshape(count, batch, num_heads, q_len).contiguous()


def _of_heads(bias: Tensor) -> Tensor:
    return bias[(None,) * (3 - bias.ndim)]


_calls_op = torch.library.custom_op(
    "attviz::weights_of_calls",
    mutates_args=(),
    schema="(Tensor[] queries, Tensor[] keys, Tensor[] logsumexps, Tensor[] biases, float scale, SymInt[] offsets, Tensor? past, "
    "bool packed) -> Tensor",
)(_in_torch)


@_calls_op.register_fake
def _(queries: list[Tensor], *rest: object) -> Tensor:
    return queries[0].new_empty((len(queries), *queries[0].shape[:3]), dtype=torch.float32)


@_calls_op.register_kernel("cuda")
def _(queries: list[Tensor], *rest: Any) -> Tensor:
    query = queries[0]
    kind, serves = (query.dtype, query.shape[3]), triton_serves(query, query.shape[3])
    return twin("weights_of_calls", kind, serves, lambda: _launcher()(queries, *rest), lambda: _in_torch(queries, *rest))
