"""A logit behind the keys that belongs to no key: every reading is one of tokens, and the sink only takes weight from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attviz
from attviz import readings as r
from tests.evidence.judge import B, D, E, H, T, heads

READ = (r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Received(), r.Keys(first=1))
LENGTHS = torch.tensor([T, T - 2, T - 3])


class Sunk(nn.Module):
    """Causal attention with padding, and one more logit of each query and head behind its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(E, E), nn.Linear(E, E)

    def column(self, x: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """``[batch, num_heads, q_len, columns]``."""
        raise NotImplementedError

    def logits(self, x: Tensor, attention_mask: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query, key = heads(self.q(x)), heads(self.k(x))
        key = key if past is None else torch.cat([past, key], 2)
        q_len, kv_len = query.shape[2], key.shape[2]
        seen = torch.ones(q_len, kv_len).tril(kv_len - q_len).bool() & attention_mask[:, None, None].bool()
        scores = (query @ key.mT * D**-0.5).masked_fill(~seen, -1e9)
        return torch.cat([scores, self.column(x, query, key)], -1), key

    def forward(self, x: Tensor, attention_mask: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits, key = self.logits(x, attention_mask, past)
        weights = logits.softmax(-1)[..., : key.shape[2]]
        return (weights @ key).transpose(1, 2).flatten(2), key


class OfTokens(Sunk):
    """Inkling 2: a projection of the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = nn.Linear(E, H, bias=False)

    def column(self, x, query, key):
        return self.sink(x).transpose(1, 2).unsqueeze(-1)


class Capped(OfTokens):
    """The same, with a soft cap."""

    def column(self, x, query, key):
        return 5 * torch.tanh(super().column(x, query, key) / 5)


class Several(OfTokens):
    """Three for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = nn.Linear(E, 3 * H, bias=False)

    def column(self, x, query, key):
        return heads(self.sink(x))


class NullKey(Sunk):
    """A learned key of each head, with a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(H, D, 1))

    def column(self, x, query, key):
        return query @ self.null * D**-0.5


class Learned(Sunk):
    """gpt-oss: one number for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(H))

    def column(self, x, query, key):
        return self.sinks[None, :, None, None].expand(len(x), -1, x.shape[1], -1)


def truth(logits: Tensor, kv_len: int, real: Tensor, real_keys: Tensor) -> dict[str, Tensor]:
    """The readings in float64, with the padding of queries ``[batch, q_len]`` and keys ``[batch, kv_len]``."""
    weights = logits.double().softmax(-1)[..., :kv_len]
    texts, q_len = torch.arange(len(weights)), weights.shape[2]
    shown, own = real[:, None], torch.arange(q_len) + kv_len - q_len
    previous = weights[:, :, torch.arange(q_len), (own - 1).clamp(min=0)]
    last = torch.where(real, torch.arange(q_len), -1).amax(1)
    return {
        "offset(-1)": torch.where(shown & (own > 0), previous, torch.nan),
        "rows(-1)": weights[texts, :, last][:, :, None],
        "row_entropy": torch.where(shown, torch.special.entr(weights).sum(-1), torch.nan),
        "received": torch.where(real_keys[:, None], (weights * shown[..., None]).sum(2), torch.nan),
        "keys(first=1)": torch.where(shown, weights[texts, :, :, real_keys.int().argmax(1)], torch.nan),
    }


def assert_readings(record: attviz.records.DiagonalRecord, expected: dict[str, Tensor]) -> None:
    assert not record.reasons
    assert set(record.readings) == set(expected)
    for name, want in expected.items():
        found = record.readings[name].double()
        assert found.shape == want.shape, (name, found.shape, want.shape)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", [OfTokens, Capped, Several, NullKey, Learned])
def test_a_sink_is_no_key_in_any_reading(kind, side):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(B, T, E)
    real = torch.arange(T)[None] < LENGTHS[:, None]
    real = real if side == "right" else real.flip(1)
    with torch.no_grad(), attviz.capture(model, read=READ) as cap:
        model(x, attention_mask=real.long())
    with torch.no_grad():
        logits, _ = model.logits(x, real.long())
    assert_readings(cap.records[0], truth(logits, T, real, real))


@pytest.mark.parametrize("kind", [OfTokens, Capped, Several, NullKey, Learned])
def test_a_sink_behind_a_cache(kind):
    """A prompt, then one token after the other: the own key is the last before the sink."""
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(B, T, E)
    past = None
    with torch.no_grad(), attviz.capture(model, read=READ, keep="all") as cap:
        for start, stop in ((0, 4), (4, 5), (5, 6), (6, 8)):
            _, past = model(x[:, start:stop], torch.ones(B, stop, dtype=torch.long), past)
    for step, (start, stop) in zip(cap.steps, ((0, 4), (4, 5), (5, 6), (6, 8)), strict=True):
        with torch.no_grad():
            logits, _ = model.logits(x[:, start:stop], torch.ones(B, stop), heads(model.k(x[:, :start])) if start else None)
        (record,) = step
        everything = torch.ones(B, stop, dtype=torch.bool)
        assert_readings(record, truth(logits, stop, everything[:, start:], everything))
        own = logits.double().softmax(-1)[..., :stop].diagonal(start, -2, -1)
        torch.testing.assert_close(record.diagonal.double(), own, rtol=0, atol=1e-5)


class OneMore(Sunk):
    """The last logit is that of a token of another input, or of one that was kept from before; both are keys."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.other, self.how = nn.Linear(E, E), how

    def column(self, x, query, key):
        other = heads(self.other(self.one))
        if self.how == "feature by feature":
            return (query * other).sum(-1, keepdim=True) * D**-0.5
        return query @ other.mT * (1 + x.norm(dim=-1))[:, None, :, None].log() * D**-0.5  # warmer or colder for each text and token

    def forward(self, x, attention_mask, one=None):
        self.one = self.held if one is None else one
        logits, key = self.logits(x, attention_mask)
        everything = torch.cat([key, heads(self.other(self.one))], 2)
        return (logits.softmax(-1) @ everything).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("how", ["feature by feature", "product of matrices"])
def test_a_token_behind_the_scores_is_a_key(how, given):
    torch.manual_seed(0)
    model, x, ones = OneMore(how).eval(), torch.randn(B, T, E), torch.ones(B, T, dtype=torch.long)
    model.held = torch.randn(B, 1, E)
    with torch.no_grad(), attviz.capture(model, read=READ) as cap:
        model(x, ones, torch.randn(B, 1, E) if given else None)
        logits, _ = model.logits(x, ones)
    weights = logits.double().softmax(-1)
    (record,) = cap.records
    everything = {"rows(-1)": weights[:, :, -1:], "row_entropy": torch.special.entr(weights).sum(-1), "received": weights.sum(2)}
    assert_readings(record, truth(logits, T, ones.bool(), ones.bool()) | everything)
