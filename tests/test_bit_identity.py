"""A captured model gives the same outputs, losses and gradients as before, to the last bit."""

import copy

import pytest
import torch
from torch import nn

import attviz
from tests.tiny import Encoder, Exact, Look, Rounding, reference

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}


def forward_and_backward(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    x = x.detach().requires_grad_()
    output = model(x)
    loss = output.float().square().mean()
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return [output.detach(), loss.detach(), x.grad, *gradients]


def assert_identical(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_training_step_is_identical(dtype, by_hand, training, num_kv_heads):
    model = Encoder(by_hand=by_hand, causal=True, num_kv_heads=num_kv_heads).to(dtype).train(training)
    x = torch.randn(2, 9, 32, dtype=dtype)
    plain = forward_and_backward(model, x)
    with attviz.capture(model) as cap:
        captured = forward_and_backward(model, x)
    assert_identical(plain, captured)
    # of the first layer; 1e-2 is how far the half types take its query and key from float64. Ours alone: the test above, TOLERANCE
    torch.testing.assert_close(cap.diagonal[:1].double(), reference(model, x)[:1], rtol=0, atol={torch.float32: 1e-6}.get(dtype, 1e-2))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [False, True])
def test_diagonal_agrees_with_float64_of_the_same_query_and_key(dtype, causal):
    model, metric = Encoder(causal=causal, num_kv_heads=2).to(dtype), Rounding()
    with attviz.capture(model, metrics=metric, keep="none"):
        model(torch.randn(2, 33, 32, dtype=dtype))
    assert 0 < metric.worst < TOLERANCE[dtype]


def test_autocast_is_identical_and_sees_the_compute_dtype():
    model, x = Encoder(), torch.randn(2, 9, 32)
    seen = []

    def run() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return forward_and_backward(model, x)

    plain = run()
    with attviz.capture(model, read=[Look(at=lambda call: seen.append(call.query.dtype)), Exact(name="exact")]) as cap:
        captured = run()
    assert_identical(plain, captured)
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(cap.diagonal.double(), cap.reading("exact"), rtol=0, atol=1e-4)  # of the query and key as they were cast


@pytest.mark.parametrize("by_hand", [False, True])
def test_inference_mode_is_identical(by_hand):
    model, x = Encoder(by_hand=by_hand).eval(), torch.randn(2, 9, 32)
    with torch.inference_mode():
        plain = model(x)
        with attviz.capture(model) as cap:
            captured = model(x)
    torch.testing.assert_close(plain, captured, rtol=0, atol=0)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_dropout_draws_the_same_numbers():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.3, batch_first=True), 2).train()
    x = torch.randn(2, 9, 32)
    torch.manual_seed(5)
    plain = forward_and_backward(model, x)
    torch.manual_seed(5)
    with attviz.capture(model) as cap:
        captured = forward_and_backward(model, x)
    assert_identical(plain, captured)
    assert cap.layers == ("layers.0.self_attn", "layers.1.self_attn")


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_counts_once(use_reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Encoder):
        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=use_reentrant)
            return x

    model, x = Checkpointed(), torch.randn(2, 9, 32)
    plain = forward_and_backward(model, x)
    with attviz.capture(model, keep="all") as cap:
        captured = forward_and_backward(model, x)
    assert_identical(plain, captured)
    assert [len(step) for step in cap.steps] == [3]
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_capture_in_a_training_loop_changes_no_step():
    def train(model: nn.Module, captured: bool) -> list[torch.Tensor]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        torch.manual_seed(1)
        for _ in range(5):
            x = torch.randn(2, 9, 32)
            if captured:
                with attviz.capture(model, every=2):
                    loss = model(x).square().mean()
            else:
                loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    model = Encoder()
    assert_identical(train(copy.deepcopy(model), captured=False), train(copy.deepcopy(model), captured=True))
