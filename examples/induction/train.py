"""A two-layer model of nothing but attention, trained on sequences that repeat; on a CPU in well under a minute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, LENGTH = 64, 64


class SelfAttention(nn.Module):
    """Causal attention; positions enter query and key only, so that values carry tokens alone (as in Olsson et al., arXiv:2209.11895)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(width, 2 * width, bias=False)
        self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        query, key = (self._heads(part) for part in self.query_key(x + positions).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(query, key, self._heads(self.value(x)), is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class AttentionOnly(nn.Module):
    """Embeddings, attention, unembedding: no MLP."""

    def __init__(self, num_layers: int = 2, num_heads: int = 4, width: int = 64) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(SelfAttention(width, num_heads) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_layers + 1))
        self.unembedding = nn.Linear(width, VOCAB, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x, positions = self.embedding(input_ids), self.positions.weight[: input_ids.shape[1]]
        for norm, layer in zip(self.norms[:-1], self.layers, strict=True):
            x = x + layer(norm(x), positions)
        return self.unembedding(self.norms[-1](x))


def batch(generator: torch.Generator, size: int = 32) -> tuple[Tensor, int]:
    """Random blocks that repeat until the sequence is full, and the length of the block, which differs from batch to batch."""
    period = int(torch.randint(8, LENGTH // 2 + 1, (1,), generator=generator))
    block = torch.randint(VOCAB, (size, period), generator=generator)
    return block.repeat(1, -(-LENGTH // period))[:, :LENGTH], period


def train(steps: int = 1000, *, num_layers: int = 2, seed: int = 0) -> tuple[AttentionOnly, list[float]]:
    """Train; only what can be known counts, the tokens from the second block on. Gives the model and its losses in nats."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = AttentionOnly(num_layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for _ in range(steps):
        ids, period = batch(generator)
        loss = F.cross_entropy(model(ids)[:, period:-1].flatten(0, 1), ids[:, period + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses
