"""Several small calls of one shape with what each gives by itself, for the torch operator and its Triton twin."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference


@dataclass
class Calls:
    given: dict[str, Any]
    expected: list[Tensor]
    tolerance: float


def made(data: st.DataObject) -> Calls:
    """Draw calls: of one shape, each with strides, an offset and a mask of its own."""
    draw = data.draw
    group, num_kv_heads, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    packed = draw(st.booleans())
    q_len = 1 if packed else draw(st.integers(1, 20))
    kv_len = q_len + draw(st.integers(0, 5))
    head_dim, dtype = draw(st.sampled_from([1, 8, 24])), draw(st.sampled_from([torch.float32, torch.bfloat16]))
    mask, device_offset = draw(st.sampled_from([None, "float", "bool", "one for all"])), draw(st.booleans())
    past = draw(st.integers(0, kv_len - q_len))
    torch.manual_seed(draw(st.integers(0, 1 << 16)))
    given: dict[str, Any] = {name: [] for name in ("queries", "keys", "logsumexps", "biases", "offsets")}
    expected = []
    for _ in range(draw(st.integers(1, 4))):
        query, key = torch.randn(batch, group * num_kv_heads, q_len, head_dim), torch.randn(batch, num_kv_heads, kv_len, head_dim)
        if draw(st.booleans()):
            query, key = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key))
        query, key, bias = query.to(dtype), key.to(dtype), None
        offset = past if device_offset else draw(st.integers(0, kv_len - q_len))
        if mask == "one for all":
            bias = torch.randn(kv_len)
        elif mask is not None:
            bias = torch.randn(batch, 1, q_len, kv_len)
            bias[..., 0] = 1.0
            bias = bias > -0.5 if mask == "bool" else bias
        lse = dense_logits(query, key, scale=0.5, bias=bias).logsumexp(-1).float()
        found = diagonal_from_logsumexp_reference(query, key, lse, scale=0.5, bias=bias, kv_offset=offset)
        if packed:
            query, lse, found = (x.reshape(batch, num_kv_heads, group, *x.shape[3:]) for x in (query, lse, found))
        expected.append(found)
        given["queries"].append(query)
        given["keys"].append(key)
        given["logsumexps"].append(lse)
        given["offsets"].append(offset)
        given["biases"] += [] if bias is None else [bias]
    given |= {"scale": 0.5, "packed": packed, "past": torch.tensor(past) if device_offset else None}
    return Calls(given, expected, 2e-6)
