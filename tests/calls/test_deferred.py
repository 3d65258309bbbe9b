"""What is finished only when somebody reads it: weights, whatever rounding did to them meanwhile."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import attviz
from attviz.calls.deferred import Deferred


class Sharp(nn.Module):
    """Logits near 2e4, where one unit in the last place of the log-sum-exp is 2e-3."""

    def forward(self, x):
        return scaled_dot_product_attention(300 * x, x, x)


@pytest.mark.parametrize("tokens", [64, 512])  # few weights wait as scores, many as logarithms
def test_weights_of_huge_logits_stay_weights(tokens):
    x = nn.functional.normalize(torch.randn(1, 4, tokens, 16, generator=torch.Generator().manual_seed(0)), dim=-1) * 16
    model = Sharp()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    truth = (300 * x.double() @ x.double().mT / 4).softmax(-1).diagonal(0, -2, -1)
    assert cap.diagonal.max() <= 1
    torch.testing.assert_close(cap.diagonal[0].double(), truth, rtol=0, atol=2e-2)  # some units in the last place of 2e4: 2e-3 each


def test_sums_that_are_taken_for_weights_stay_weights():
    """A registered layout may add weights up."""
    above, below = torch.tensor(1.0) + 3e-7, torch.tensor(-1e-9)
    found = Deferred(torch.stack([above, below, torch.tensor(torch.nan)])[None, None]).finish()
    assert found[0, 0, :2].tolist() == [1.0, 0.0]
    assert found[0, 0, 2].isnan()
