"""Null keys that are joined before a fused kernel: the same readings as in an eager softmax, and no column of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attviz
from attviz import readings as r
from tests.evidence.judge import D, E, H, heads
from tests.evidence.test_sinks import assert_readings, truth

READ = (r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Received(), r.Keys(first=1))
MORE = (
    r.Offset(1),
    r.Window(2),
    r.Distance(),
    r.TopKeys(3),
    r.Received(mean=True),
    r.Visible(),
    r.Segments(torch.arange(8).remainder(2).expand(3, 8), 2),
    r.QueryKey(),
)
OPTIONS = [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}]


class Torch(nn.Module):
    def __init__(self, fused: bool, causal: bool, **options: bool) -> None:
        super().__init__()
        self.attention, self.fused, self.causal = nn.MultiheadAttention(E, H, batch_first=True, **options), fused, causal

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() if self.causal else None
        return self.attention(x, x, x, padding, need_weights=not self.fused, attn_mask=mask, average_attn_weights=False)[0]

    def logits(self, x: Tensor, padding: Tensor) -> Tensor:
        attention = self.attention
        query, key, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        if attention.bias_k is not None:
            key = torch.cat([key, attention.bias_k.expand(len(x), 1, E)], 1)
        if attention.add_zero_attn:
            key = torch.cat([key, torch.zeros(len(x), 1, E)], 1)
        return hide(heads(query).double() @ heads(key).double().mT * D**-0.5, padding, self.causal)


class ByHand(nn.Module):
    def __init__(self, fused: bool, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.fused, self.causal = nn.Linear(E, E), nn.Linear(E, E), fused, causal
        self.null = nn.Parameter(torch.randn(2, H, 2, D))

    def products(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        null = self.null[:, None].expand(-1, len(x), -1, -1, -1)
        key = heads(self.k(x))
        return heads(self.q(x)), torch.cat([key, null[0]], 2), torch.cat([key, null[1]], 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        query, key, value = self.products(x)
        shown = hide(torch.zeros(len(x), 1, x.shape[1], key.shape[2]), padding, self.causal)
        if self.fused:
            return F.scaled_dot_product_attention(query, key, value, shown == 0).transpose(1, 2).flatten(2)
        return ((query @ key.mT * D**-0.5 + shown).softmax(-1) @ value).transpose(1, 2).flatten(2)

    def logits(self, x: Tensor, padding: Tensor) -> Tensor:
        query, key, _ = self.products(x)
        return hide(query.double() @ key.double().mT * D**-0.5, padding, self.causal)


def hide(scores: Tensor, padding: Tensor, causal: bool) -> Tensor:
    batch, _, q_len, kv_len = scores.shape
    hidden = F.pad(padding, (0, kv_len - q_len), value=False)[:, None, None].expand(batch, 1, q_len, kv_len)
    if causal:
        hidden = hidden | F.pad(torch.ones(q_len, q_len).triu(1).bool(), (0, kv_len - q_len))
    return scores.masked_fill(hidden, -torch.inf)


def read(model: nn.Module, x: Tensor, padding: Tensor, readings: tuple[r.Reading, ...]) -> attviz.records.DiagonalRecord:
    with torch.no_grad(), attviz.capture(model, read=readings) as cap:
        model(x, padding)
    (record,) = cap.records
    return record


def both(options: dict[str, bool] | None, causal: bool) -> list[nn.Module]:
    models = [ByHand(fused, causal) if options is None else Torch(fused, causal, **options) for fused in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    return [model.eval() for model in models]


@pytest.mark.parametrize("length", [8, 96])  # blocks of rows, and a pass over all pairs
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [*OPTIONS, None])
def test_a_null_key_of_a_fused_kernel_is_a_sink(options, causal, length):
    torch.manual_seed(0)
    x, padding = torch.randn(3, length, E), torch.arange(length)[None] >= length - torch.tensor([0, 2, 3])[:, None]
    for model in both(options, causal):
        record = read(model, x, padding, READ)
        with torch.no_grad():
            logits = model.logits(x, padding)
        assert_readings(record, truth(logits, length, ~padding, ~padding))
        own = torch.where(~padding[:, None], logits.softmax(-1).diagonal(0, -2, -1), torch.nan)
        torch.testing.assert_close(record.diagonal.double(), own, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [*OPTIONS, None])
def test_every_reading_is_that_of_an_eager_softmax(options, causal):
    torch.manual_seed(0)
    x, padding = torch.randn(3, 8, E), torch.zeros(3, 8, dtype=torch.bool)
    fused, eager = (read(model, x, padding, MORE) for model in both(options, causal))
    assert fused.operator != eager.operator
    assert not fused.reasons
    assert set(fused.readings) == set(eager.readings)
    for name, want in eager.readings.items():
        torch.testing.assert_close(
            fused.readings[name], want, rtol=0, atol=1e-5, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_largest_logit_is_that_of_a_key():
    torch.manual_seed(0)
    x, padding = torch.randn(3, 8, E), torch.zeros(3, 8, dtype=torch.bool)
    fused, eager = both(None, False)
    with torch.no_grad():
        for model in (fused, eager):
            model.null.mul_(10)  # the null keys have larger ones
        want = fused.logits(x, padding)[..., :8].amax(-1).float()
    torch.testing.assert_close(read(fused, x, padding, (r.MaxLogit(),)).readings["max_logit"], want, rtol=0, atol=1e-5)
    assert "max_logit" in read(eager, x, padding, (r.MaxLogit(),)).reasons
