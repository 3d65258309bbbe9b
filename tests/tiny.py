"""Small hand-written transformers and their float64 references, for tests of the capture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attviz.readings import Reading


@dataclass(frozen=True, kw_only=True, eq=False)
class Look(Reading):
    """A reading that shows the calls to a function, for tests that want to see them."""

    at: Callable[[Any], object]
    per = None

    def read(self, call: Any, tokens: Any) -> Tensor:
        self.at(call)
        return torch.zeros(())


@dataclass(frozen=True, kw_only=True, eq=False)
class Exact(Reading):
    """The diagonal by a float64 softmax over the query, key and bias that the kernel really saw, or the weights it made."""

    def read(self, call: Any, tokens: Any) -> Tensor:
        weights = getattr(call, "weights", None)
        if weights is None:
            key = call.key.double().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
            scores = call.query.double() @ key.mT * call.scale
            if call.bias is not None:
                scores = scores + call.bias.double()
            if call.is_causal:
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            weights = scores.softmax(-1)
        return weights.double().diagonal(call.kv_offset, -2, -1).clone()


class Rounding:
    """A metric: how far each diagonal is from the exact one."""

    readings = (Exact(),)

    def __init__(self) -> None:
        self.worst, self.layers = 0.0, 0

    def prepare(self, model: nn.Module) -> None: ...

    def update(self, record: Any) -> None:
        real = ~record.diagonal.isnan()
        assert real.any()
        self.worst = max(self.worst, (record.diagonal - record.readings["exact"])[real].abs().max().item())
        self.layers += 1


class SelfAttention(nn.Module):
    """Attention through SDPA, or by hand with a softmax."""

    def __init__(self, dim: int = 32, num_heads: int = 4, num_kv_heads: int | None = None, *, by_hand: bool = False, causal: bool = False):
        super().__init__()
        self.num_heads, self.kv_heads, self.by_hand, self.causal = num_heads, num_kv_heads or num_heads, by_hand, causal
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, self.kv_heads * self.head_dim)
        self.value = nn.Linear(dim, self.kv_heads * self.head_dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def heads(linear: nn.Linear) -> Tensor:
            return linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        return heads(self.query), heads(self.key), heads(self.value)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        if not self.by_hand:
            gqa = self.kv_heads != self.num_heads
            out = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal, enable_gqa=gqa)
        else:
            group = self.num_heads // self.kv_heads
            scores = query @ key.repeat_interleave(group, 1).mT * self.head_dim**-0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            out = scores.softmax(-1) @ value.repeat_interleave(group, 1)
        return out.transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        self.attention, self.mlp = SelfAttention(**kwargs), nn.Linear(32, 32)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x).relu()


class Encoder(nn.Module):
    """A stack of blocks. Layers differ, so that a value in the wrong layer shows."""

    def __init__(self, num_layers: int = 3, **kwargs: object) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(**kwargs) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def reference(model: nn.Module, x: Tensor) -> Tensor:
    """Diagonals of an :class:`Encoder` in float64, from the dense softmax: [num_layers, batch, num_heads, q_len]."""
    model, x, diagonals = copy.deepcopy(model).double(), x.double(), []
    with torch.no_grad():
        for block in model.blocks:
            attention = getattr(block, "_orig_mod", block).attention
            query, key, _ = attention.split(x)
            scores = query @ key.repeat_interleave(attention.num_heads // attention.kv_heads, 1).mT * attention.head_dim**-0.5
            if attention.causal:
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            diagonals.append(scores.softmax(-1).diagonal(dim1=-2, dim2=-1))
            x = block(x)
    return torch.stack(diagonals)


def hook_counts(model: nn.Module) -> dict[str, int]:
    """Number of hooks on each module, and whether its compiled slot is taken."""
    return {
        name: len(module._forward_hooks) + len(module._forward_pre_hooks) + (module._compiled_call_impl is not None)
        for name, module in model.named_modules()
    }
