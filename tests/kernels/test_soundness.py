"""logsumexp_is_sound lets right values pass and catches the faults that backends have had."""

import math

import pytest
import torch

from attviz.kernels.references import dense_logits
from attviz.kernels.soundness import logsumexp_is_sound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, "bool", "float", "broadcast"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_right_values_pass_and_known_faults_do_not(dtype, mask, is_causal):
    query, key = torch.randn(2, 4, 33, 16).to(dtype), torch.randn(2, 2, 33, 16).to(dtype)
    bias = {
        None: None,
        "bool": torch.rand(2, 1, 33, 33) > 0.2,
        "float": torch.randn(33, 33),
        "broadcast": torch.randn(2, 1, 1, 33),
    }[mask]
    right = dense_logits(query, key, scale=0.25, bias=bias, is_causal=is_causal, causal_alignment="top_left").logsumexp(-1).float()
    options = {"scale": 0.25, "bias": bias, "is_causal": is_causal}
    assert logsumexp_is_sound(query, key, right, **options)
    for wrong in (torch.zeros_like(right), right / math.log(2), right + math.log(2), right.roll(1, 1)):
        assert not logsumexp_is_sound(query, key, wrong, **options)


def test_rows_that_see_nothing_are_left_out():
    query = torch.randn(1, 1, 4, 8)
    bias = torch.full((4, 4), -math.inf)
    for convention in (0.0, math.inf, -math.inf):
        assert logsumexp_is_sound(query, query, torch.full((1, 1, 4), convention), scale=1.0, bias=bias)


def test_an_empty_attention_is_sound():
    query = torch.randn(1, 2, 0, 8)
    assert logsumexp_is_sound(query, query, torch.zeros(1, 2, 0), scale=1.0)
