"""Capture on a GPU: every CUDA attention operator against float64, and nothing changed in the model's own numbers."""

import copy
import inspect

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

import attviz
from attviz.errors import CaptureError
from benchmarks.small_calls import CASES, made
from tests.tiny import Encoder

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
DTYPES = [torch.float16, torch.bfloat16]


def model_and_input(dtype, **options):
    torch.manual_seed(0)
    return Encoder(**options).cuda().to(dtype).eval(), torch.randn(2, 70, 32, device="cuda").to(dtype)


def reference(model, x):
    """Diagonals of the same weights and inputs by hand, in float64; each block reads what the half-precision model fed it."""
    expected, hidden = [], x
    for block in model.blocks:
        query, key, _ = (part.double() for part in block.attention.split(hidden))
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT * block.attention.head_dim**-0.5
        if block.attention.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        expected.append(scores.softmax(-1).diagonal(dim1=-2, dim2=-1))
        hidden = block(hidden)
    return torch.stack(expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_every_backend_agrees_with_float64_and_keeps_the_outputs(backend, dtype, causal):
    model, x = model_and_input(dtype, causal=causal)
    with torch.no_grad(), sdpa_kernel(backend):
        plain = model(x)
        expected = reference(model, x)
        with attviz.capture(model) as cap:
            captured = model(x)
    assert torch.equal(captured, plain)
    torch.testing.assert_close(cap.diagonal.double(), expected, rtol=2e-3, atol=2e-3)  # float32 on a GPU may multiply in TF32


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_losses_and_gradients_stay_bit_identical(backend):
    model, x = model_and_input(torch.bfloat16)
    twin = copy.deepcopy(model)
    with sdpa_kernel(backend):
        model(x).float().square().mean().backward()
        with attviz.capture(twin):
            twin(x).float().square().mean().backward()
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=0, atol=0)


def test_softmax_written_by_hand_is_seen():
    model, x = model_and_input(torch.float32, by_hand=True)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=1e-5, atol=1e-5)


def test_compiled_model_is_captured():
    model, x = model_and_input(torch.float16)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        plain = compiled(x)
        expected = reference(model, x)
        with attviz.capture(compiled) as cap:
            captured = compiled(x)
    assert torch.equal(captured, plain)
    torch.testing.assert_close(
        cap.diagonal.double(), expected, rtol=5e-3, atol=5e-3
    )  # as above, through the compiler's own matrix products


def test_a_generation_is_the_diagonal_of_the_whole_text():
    """Its steps are small calls, which one launch finishes for all layers."""
    model = made(CASES["llama"]).cuda()
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # renamed in 5.24
    ids, cache = torch.randint(0, 99, (2, 12), device="cuda"), DynamicCache(config=model.config)
    with torch.no_grad():
        with attviz.capture(model) as whole:
            model(input_ids=ids)
        with attviz.capture(model, keep="all") as cap:
            for start, end in ((0, 6), *((place, place + 1) for place in range(6, 12))):
                model(input_ids=ids[:, start:end], use_cache=True, **{named: cache})
    torch.testing.assert_close(cap.sequence_diagonal(), whole.diagonal, rtol=0, atol=2e-3)  # other kernels, which may multiply in TF32


def test_replayed_cuda_graphs_are_a_loud_miss():
    model, x = model_and_input(torch.float16)
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for _ in range(4):  # warm up, record, replay
            compiled(x)
        with pytest.raises(CaptureError), attviz.capture(compiled):
            compiled(x)
