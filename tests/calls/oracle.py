"""The float64 oracle of every attention call: the whole matrix, and each answer read off it the obvious way, one number at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attviz.calls import AttentionCall


@dataclass
class Truth:
    """Dense attention in float64.

    Attributes:
        weights: ``[batch, num_heads, q_len, kv_len]``; a row that sees no key is 0.
        logits: The same before the softmax, -inf where hidden.
        own: Key that is each query's own, ``[batch, q_len]``.
        bounds: First key of each query's text and the end of it, ``[q_len]`` each; None where there is one text.
    """

    weights: Tensor
    logits: Tensor
    own: Tensor
    bounds: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, logits: Tensor, own: Tensor, sinks: Tensor | None = None, bounds: tuple[Tensor, Tensor] | None = None) -> Truth:
        logits = logits.double()
        columns = logits
        if sinks is not None:
            columns = torch.cat([logits, sinks.double()[:, None, None].expand(*logits.shape[:3], 1)], -1)
        weights = columns.softmax(-1)[..., : logits.shape[-1]].nan_to_num(0.0)
        return cls(weights, logits, own.expand(logits.shape[0], -1), bounds)

    def at(self, index: Tensor, bounded: bool = False) -> Tensor:
        batch, heads, q_len, kv_len = self.weights.shape
        index = index.expand(batch, heads, q_len)
        found = torch.full((batch, heads, q_len), torch.nan, dtype=torch.float64)
        for b in range(batch):
            for h in range(heads):
                for i in range(q_len):
                    j = int(index[b, h, i])
                    low, high = (0, kv_len) if self.bounds is None or not bounded else (int(bound[i]) for bound in self.bounds)
                    if max(low, 0) <= j < min(high, kv_len):
                        found[b, h, i] = self.weights[b, h, i, j]
        return found

    def own_at(self, offset: int) -> Tensor:
        return self.at((self.own + offset)[:, None], bounded=True)


def assert_answers(call: AttentionCall, truth: Truth, atol: float = 2e-6) -> None:
    """Every answer of a call, against the oracle."""
    weights, logits = truth.weights, truth.logits
    batch, heads, q_len, kv_len = weights.shape

    def close(found: Tensor, expected: Tensor, what: str, atol: float = atol) -> None:
        assert found.dtype == torch.float32, what
        torch.testing.assert_close(
            found.double(), expected.double(), rtol=1e-5, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )

    assert call.shape == tuple(weights.shape)
    for offset in (0, -1, 1, -3, kv_len + q_len):
        close(call.own(offset), truth.own_at(offset), f"own({offset})")
    close(call.defer().finish(), truth.own_at(0), "the deferred diagonal")
    generator = torch.Generator().manual_seed(q_len)
    for shape in ((1, 1, q_len), (batch, 1, q_len), (batch, heads, q_len)):
        index = torch.randint(-1, kv_len + 1, shape, generator=generator)
        close(call.at(index), truth.at(index), f"at {shape}")
    queries = torch.randint(0, q_len, (3,), generator=generator)
    close(call.rows(queries), weights[:, :, queries], "rows")
    several = torch.randint(0, q_len, (batch, 2), generator=generator)
    close(call.rows(several), torch.stack([weights[b][:, several[b]] for b in range(batch)]), "rows of each text")
    features = torch.randn(kv_len, 3, generator=generator)
    close(call.mass(features), weights @ features.double(), "mass", 1e-5)
    of_texts = torch.randn(batch, kv_len, 2, generator=generator)
    close(call.mass(of_texts), weights @ of_texts.double()[:, None], "mass of each text", 1e-5)
    distance = (torch.arange(kv_len) - truth.own[:, None, :, None]).abs()
    for reach in (-1, 1):
        near = weights if reach < 0 else weights * (distance <= reach)
        close(call.within(reach), torch.stack((near.sum(-1), (near * distance).sum(-1)), -1), f"within {reach}", 1e-5)
    facts = call.summary()
    close(facts.entropy, torch.special.entr(weights).sum(-1), "entropy", 1e-5)
    if facts.max_logit is not None:
        close(facts.max_logit, logits.amax(-1), "largest logit", 1e-5)
    assert torch.equal(call.visible().expand(batch, heads, q_len), (logits > -torch.inf).sum(-1))
    real = torch.rand(batch, q_len, generator=generator) > 0.3
    for mask in (None, real):
        kept = torch.ones(batch, q_len, dtype=torch.bool) if mask is None else mask
        found, seen = call.received(mask)
        close(found, (weights * kept[:, None, :, None]).sum(-2), "received", 1e-5)
        expected = ((logits > -torch.inf) & (weights > 0) & kept[:, None, :, None]).sum(-2)
        assert torch.equal(seen.long(), expected)
    assert torch.equal(call.own_keys().expand(batch, 1, q_len)[:, 0], truth.own)
