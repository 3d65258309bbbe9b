"""FlashInfer's wrappers, which keep the plan of a batch: those over ragged keys are read, those over paged keys are refused.

Written against FlashInfer 002920b (``prefill.py``, ``decode.py``), read and not run. The log-sum-exp of its kernels is of base 2 and seldom
requested, so the rows are summed again from query and key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attviz.calls.packed import PackedCall
from attviz.hooks.tap.functions import Function, watched
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator
from attviz.kernels.qk import QkOptions

_RAGGED = ("flashinfer.prefill", "BatchPrefillWithRaggedKVCacheWrapper")
_PAGED = (
    ("flashinfer.prefill", "BatchPrefillWithPagedKVCacheWrapper"),
    ("flashinfer.decode", "BatchDecodeWithPagedKVCacheWrapper"),
)
_METHODS = ("run", "run_return_lse")  # the second holds the first as it was when the class was made


def flashinfer_places() -> Iterator[Place]:
    """The methods of its wrappers, if FlashInfer is loaded; it is never imported for this."""
    for (module, name), read in ((_RAGGED, _read), *((paged, _refuse) for paged in _PAGED)):
        wrapper = getattr(sys.modules.get(module), name, None)
        for method in _METHODS if isinstance(wrapper, type) else ():
            if method in vars(wrapper):
                yield Place(wrapper, method, _around(Operator(f"flashinfer::{name}.{method}", read, "fused", ())))


def _around(operator: Operator) -> Callable[[Any], Function]:
    def watch(method: Any) -> Function:
        def call(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            return method.__get__(wrapper, type(wrapper))(*args, **kwargs)

        return watched(operator, call)

    return watch


def _refuse(args: Arguments, kwargs: Keywords, result: Any) -> str:
    return (
        f"FlashInfer's {type(args[0]).__name__} was given paged keys, in which a query's own key cannot be found; "
        "use BatchPrefillWithRaggedKVCacheWrapper or single_prefill_with_kv_cache"
    )


def _read(args: Arguments, kwargs: Keywords, result: Any) -> PackedCall | str:
    wrapper, given = args[0], {**dict(zip(("q", "k", "v"), args[1:], strict=False)), **kwargs}
    title = f"FlashInfer's {type(wrapper).__name__}"
    if getattr(wrapper, "_kv_layout", "NHD") != "NHD" or wrapper._pos_encoding_mode != "NONE":
        return f"{title} has heads before tokens, or rotates queries and keys itself; plan it with NHD and rotated tensors"
    if getattr(wrapper, "_custom_mask_buf", None) is not None or getattr(wrapper, "_jit_module", None) is not None:
        return f"{title} has a mask or a kernel of its own, which is not read; use scaled_dot_product_attention"
    query, key, scale = given["q"].detach(), given["k"].detach(), wrapper._sm_scale
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"{title} was given 8-bit queries and keys, which are not read; capture the model in bfloat16"
    options: QkOptions = {
        "scale": query.shape[-1] ** -0.5 if scale is None else float(scale),
        "is_causal": bool(wrapper._causal),
        "window_size": (int(wrapper._window_left), -1),
        "softcap": float(wrapper._logits_soft_cap or 0.0),
        "cu_seqlens_q": wrapper._qo_indptr_buf,
        "cu_seqlens_k": wrapper._kv_indptr_buf,
    }
    return PackedCall(title, query.transpose(0, 1)[None], key.transpose(0, 1)[None], None, options)
