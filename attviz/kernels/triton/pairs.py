"""What the launches over all pairs of queries and keys share: the kernels of ``qk``, ``received`` and ``mass`` take the same options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from attviz.kernels.triton.launch import architecture, as_bytes, bias_strides, head_pad, is_far, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from attviz.kernels.qk import QkRules


def set_up(kernel: str, query: Tensor, key: Tensor, rules: QkRules, *read: Tensor) -> tuple[int, dict[str, Any]]:
    """How many sequences there are, and the arguments that the three kernels call by the same names, the tile among them.

    Args:
        kernel: Row of the tuning table.
        query: ``[batch, num_heads, q_len, head_dim]``.
        key: ``[batch, num_kv_heads, kv_len, head_dim]``.
        rules: The options, resolved.
        read: What else is read by offsets that may pass 2**31.

    Raises:
        NoTile: Where the table says that torch serves this architecture better.
    """
    (batch, num_heads, q_len, head_dim), (num_kv_heads, kv_len) = query.shape, key.shape[1:3]
    width, arch, single = head_pad(head_dim), architecture(query.device.index), query.dtype is torch.float32
    slopes, mask, starts = rules.alibi_slopes, rules.key_mask, rules.cu_seqlens_q
    tensors = {"query": query, "key": key, "slopes": slopes, "bias": as_bytes(rules.bias), "key_mask": as_bytes(mask)}
    sizes = {"q_len": q_len, "kv_len": kv_len, "num_heads": num_heads, "scale": rules.scale, "softcap": rules.softcap or 1.0}
    window = {"left": rules.left if rules.left >= 0 else None, "right": rules.right if rules.right >= 0 else None}
    steps = {
        **strides("qb qh qt qd", query.stride()),
        **strides("kb kh kt kd", key.stride()),
        **strides("sb sh", (0, 0) if slopes is None else slopes.expand(batch, num_heads).stride()),
        **strides("bb bh bq bk", bias_strides(rules.bias)),
        **strides("mb mk", (0, 0) if mask is None else mask.expand(batch, kv_len).stride()),
    }
    constants = {
        **{"GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim, "HEAD_PAD": width, "HAS_SOFTCAP": rules.softcap > 0},
        **{"BOTTOM_RIGHT": rules.bottom_right, "PRECISION": precision(arch, single), "UPCAST": arch == "cpu"},
        **{"FAR": is_far(query, key, *read), "enable_fp_fusion": True, **tuned(kernel, arch, width, single)},
    }
    given = {**tensors, "cu_q": starts, "cu_k": rules.cu_seqlens_k, **sizes, **window, **steps, **constants}
    return batch if starts is None else starts.numel() - 1, given


def own_keys(rules: QkRules) -> dict[str, Any]:
    """Which key is a query's own, for the kernels that ask."""
    return {"kv_offset": rules.kv_offset or 0, "OWN_LAST": rules.kv_offset is None}


def strides(names: str, values: tuple[int, ...]) -> dict[str, int]:
    """Strides by the names that the kernels give them."""
    return {f"stride_{name}": value for name, value in zip(names.split(), values, strict=True)}


def precision(arch: str, single: bool) -> str:
    """Matrix arithmetic: three TF32 products for float32 on NVIDIA (as exact as float32, and ``ieee`` spills), plain elsewhere."""
    return "tf32x3" if single and arch.startswith("sm_") else "ieee"
