"""The checks that all public functions of the kernels share; errors name every size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attviz.errors import ArgumentError, DtypeError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_query_and_key(name: str, query: Tensor, key: Tensor) -> None:
    """Raise unless query and key are ``[batch, heads, length, head_dim]`` of one attention, with complete groups of heads."""
    if query.dim() != 4 or key.dim() != 4:
        raise ShapeError(
            f"{name}: query and key must have four dimensions, [batch, heads, length, head_dim]; got {tuple(query.shape)} and "
            f"{tuple(key.shape)}.\n  Packed tensors [total, heads, head_dim] become x.transpose(0, 1)[None]."
        )
    check_floating(name, query=query, key=key)
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ShapeError(f"{name}: query and key differ in batch or head_dim.{sizes(query, key)}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ShapeError(
            f"{name}: num_heads must be a multiple of num_kv_heads, got {query.shape[1]} and {key.shape[1]}.{sizes(query, key)}"
            "\n  If these are [batch, length, heads, head_dim] tensors, pass x.transpose(1, 2)."
        )


def sizes(query: Tensor, key: Tensor) -> str:
    """Two lines that name every size of a query and a key."""
    return "".join(
        f"\n  {role} batch={tensor.shape[0]} {heads}={tensor.shape[1]} {length}={tensor.shape[2]} head_dim={tensor.shape[3]}"
        for role, heads, length, tensor in (("query", "num_heads", "q_len", query), ("key  ", "num_kv_heads", "kv_len", key))
    )


def check_floating(name: str, **tensors: Tensor | None) -> None:
    """Raise unless all given tensors are of a float dtype that the kernels know, on one device."""
    device = next((tensor.device for tensor in tensors.values() if tensor is not None), None)
    for role, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in _FLOATS:
            raise DtypeError(f"{name}: {role} must be float16, bfloat16, float32 or float64, got {tensor.dtype}.")
        if tensor.device != device:
            raise DtypeError(f"{name}: all tensors must be on one device, but {role} is on {tensor.device} and the first on {device}.")


def check_bias(name: str, bias: Tensor | None, query: Tensor, key: Tensor) -> None:
    """Raise unless the bias is a float or bool tensor that broadcasts to ``[batch, num_heads, q_len, kv_len]``."""
    if bias is None:
        return
    if bias.dtype is not torch.bool:
        check_floating(name, query=query, bias=bias)
    full = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    fits = 1 <= bias.dim() <= 4 and all(have in (1, want) for have, want in zip(bias.shape[::-1], full[::-1], strict=False))
    if not fits:
        raise ShapeError(f"{name}: bias must broadcast to [batch, num_heads, q_len, kv_len] = {full}, got {tuple(bias.shape)}.")


def check_mask(name: str, role: str, mask: Tensor | None, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Raise unless the mask is bool and of one of the shapes, where a 1 in the mask fits any size."""
    if mask is None:
        return
    if mask.dtype is not torch.bool:
        raise DtypeError(f"{name}: {role} must be bool, True where kept, got {mask.dtype}; pass {role}.bool().")
    for shape in shapes:
        if mask.dim() == len(shape) and all(have in (1, want) for have, want in zip(mask.shape, shape, strict=True)):
            return
    raise ShapeError(f"{name}: {role} must be of shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}.")


def check_sinks(name: str, sinks: Tensor | None, query: Tensor) -> None:
    """Raise unless there is one sink logit per query head."""
    if sinks is None:
        return
    check_floating(name, query=query, sinks=sinks)
    if tuple(sinks.shape) != (query.shape[1],):
        raise ShapeError(f"{name}: sinks must hold one logit per head, [num_heads] = ({query.shape[1]},), got {tuple(sinks.shape)}.")


def resolve_scale(scale: float | None, query: Tensor) -> float:
    """``head_dim ** -0.5`` unless a scale is given."""
    return float(max(query.shape[3], 1)) ** -0.5 if scale is None else float(scale)


def resolve_kv_offset(name: str, kv_offset: int | None, query: Tensor, key: Tensor) -> int:
    """Key slot of query 0, ``kv_len - q_len`` unless given; raise if a query would lie outside the keys."""
    offset = key.shape[2] - query.shape[2] if kv_offset is None else kv_offset
    if offset < 0 or offset + query.shape[2] > key.shape[2]:
        raise ShapeError(
            f"{name}: every query needs a key of its own, so 0 <= kv_offset <= kv_len - q_len; got kv_offset={offset}.{sizes(query, key)}"
        )
    return offset


def check_softcap(name: str, softcap: float) -> None:
    """Raise unless the cap is 0 (none) or positive."""
    if not softcap >= 0:
        raise ArgumentError(f"{name}: softcap must be 0 (none) or positive, got {softcap}.")


def resolve_index(name: str, index: Tensor | int | None, query: Tensor) -> tuple[int, Tensor | None]:
    """The offset of the key that each query reads, and the key slots ``[batch, heads or 1, q_len]`` if they are given explicitly."""
    if index is None or isinstance(index, int):
        return index or 0, None
    batch, num_heads, q_len, _ = query.shape
    if index.is_floating_point() or index.dtype is torch.bool or index.device != query.device:
        raise DtypeError(f"{name}: index must be an integer tensor of key slots on {query.device}, got {index.dtype} on {index.device}.")
    if tuple(index.shape) == (batch, q_len):
        index = index[:, None]
    if tuple(index.shape) not in ((batch, 1, q_len), (batch, num_heads, q_len)):
        raise ShapeError(
            f"{name}: index must be [batch, q_len] = {(batch, q_len)} or [batch, num_heads, q_len] = {(batch, num_heads, q_len)}, "
            f"got {tuple(index.shape)}."
        )
    return 0, index


def check_packed(
    name: str, query: Tensor, cu_q: Tensor | None, cu_k: Tensor | None, **unwanted: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Raise unless the packed texts are described consistently; return the bounds of queries and keys, None if nothing is packed."""
    if cu_q is None:
        if cu_k is not None:
            raise ArgumentError(f"{name}: cu_seqlens_k was given without cu_seqlens_q.")
        return None
    given = [role for role, tensor in unwanted.items() if tensor is not None]
    if given:
        raise ArgumentError(f"{name}: {' and '.join(given)} cannot be combined with cu_seqlens_q (packed texts).")
    if query.dim() == 4 and query.shape[0] != 1:
        raise ShapeError(f"{name}: packed texts must come as batch 1, [1, heads, total, head_dim]; got batch={query.shape[0]}.")
    cu_k = cu_q if cu_k is None else cu_k
    for role, bounds in (("cu_seqlens_q", cu_q), ("cu_seqlens_k", cu_k)):
        if bounds.dim() != 1 or bounds.dtype not in (torch.int32, torch.int64) or bounds.device != query.device:
            raise DtypeError(
                f"{name}: {role} must be a 1-D int32 or int64 tensor on {query.device}, got {bounds.dtype} {tuple(bounds.shape)}."
            )
        if not bounds.is_contiguous():
            raise ShapeError(f"{name}: {role} must be contiguous; pass {role}.contiguous().")
    if cu_q.shape != cu_k.shape or cu_q.numel() == 0:
        raise ShapeError(
            f"{name}: cu_seqlens_q and cu_seqlens_k must both hold one bound more than there are texts; got "
            f"{cu_q.numel()} and {cu_k.numel()}."
        )
    return cu_q, cu_k
