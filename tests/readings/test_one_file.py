"""A reading that is defined in this file only, used everywhere: capture, padding, metrics, figures, tables, files, comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attviz
from attviz.calls import FusedCall
from attviz.kernels.references import dense_logits
from attviz.metrics import HeadStatistics, TokenStatistics
from attviz.readings import Reading
from tests.readings.test_readings import batch, build, eager_weights


@dataclass(frozen=True, eq=False)
class Ahead(Reading):
    """Mass on the ``n`` keys before a query, its own left out."""

    n: int
    of_cross: ClassVar[bool] = False

    def read(self, call, tokens):
        return sum(call.own(-step).nan_to_num(0.0) for step in range(1, self.n + 1))


def of_weights(weights: torch.Tensor, n: int) -> torch.Tensor:
    places = torch.arange(weights.shape[-1])
    behind = places[:, None] - places
    return (weights * ((behind >= 1) & (behind <= n))).sum(-1)


@given(seed=st.integers(0, 999), length=st.integers(1, 9), n=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_against_the_float64_matrix(seed, length, n):
    torch.manual_seed(seed)
    query, key = torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
    weights = dense_logits(query, key, is_causal=True).softmax(-1)
    found = Ahead(n).read(FusedCall("kernel", query, key, None, 8**-0.5, None, True), attviz.readings.Tokens())
    torch.testing.assert_close(found.double(), of_weights(weights, n), rtol=0, atol=1e-6)


def test_it_goes_wherever_the_built_in_ones_go(tmp_path):
    model, (ids, mask) = build("llama"), batch("right")
    weights = eager_weights(model, ids, mask)
    want = of_weights(weights, 2).masked_fill(~mask.bool()[None, :, None], torch.nan)
    model.set_attn_implementation("sdpa")
    reading = Ahead(2)
    heads, tokens = HeadStatistics(reading=reading), TokenStatistics(reading=reading)
    with torch.no_grad(), attviz.capture(model, read=[reading], metrics=[heads, tokens]) as cap:
        model(ids, attention_mask=mask)
    found = cap.reading("ahead")
    torch.testing.assert_close(found.double(), want, rtol=0, atol=1e-5, equal_nan=True)

    mean = heads.compute().mean
    torch.testing.assert_close(mean.double(), want.nanmean((1, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.compute()["mean"].double(), want.mean((0, 2)), rtol=0, atol=1e-5, equal_nan=True)
    ax = attviz.plots.head_map(mean.numpy(), label="mass on the two before")
    np.testing.assert_allclose(ax.images[0].get_array(), mean.numpy())
    plt.close("all")

    torch.save({record.layer: record.readings["ahead"] for record in cap.records}, tmp_path / "readings.pt")
    loaded = torch.load(tmp_path / "readings.pt", weights_only=True)
    assert torch.equal(torch.stack(list(loaded.values())).nan_to_num(-1), found.nan_to_num(-1))
    heads.save_state(tmp_path / "heads.state")
    again = HeadStatistics(reading=Ahead(2))
    again.load_state(tmp_path / "heads.state")
    torch.testing.assert_close(again.compute().mean, mean)
