"""Small calls whose situation is known: the short way gives what the general way gives, kept until the end of the forward or not."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StaticCache

import attviz
from attviz import readings
from attviz.calls import together
from attviz.errors import CaptureError
from attviz.hooks.session import waiting
from benchmarks.small_calls import CASES, forward, made
from tests.tiny import Encoder, SelfAttention, reference

FORWARDS = 4  # the first finds the owners, the second learns the ways, the third compares, the fourth is as all others


@pytest.fixture(params=["at once", "kept"])
def kept(request, monkeypatch):
    """On the CPU the own scores are made at once; on a GPU query and key wait for the end of the forward."""
    monkeypatch.setattr(waiting, "on_gpu", lambda tensor: request.param == "kept")
    return request.param == "kept"


def short(cap):
    """How many calls of the last forward took the short way."""
    return sum(isinstance(call, tuple) for call in cap._recorder.steps[-1].calls)


def run(model, x, **options):
    with attviz.capture(model, **options) as cap:
        for _ in range(FORWARDS):
            output = model(x)
    return cap, output


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "causal": True}], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_every_layer_is_right_and_outputs_are_the_same_bits(kept, options, mode):
    model = Encoder(**options)
    x = torch.randn(2, 7, 32)
    with mode():
        plain = model(x)
        cap, output = run(model, x)
    assert short(cap) == 3
    assert torch.equal(output, plain)
    assert not cap.diagonal.is_inference()
    assert not cap.diagonal.requires_grad
    torch.testing.assert_close(cap.diagonal, reference(model, x).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if "inference" not in name and "gradients" not in name])
def test_real_models_against_the_general_way(kept, name):
    """To the last bit where the scores are made at once; kept, sums may come in another order."""
    case = CASES[name]
    model = made(case)

    class Fed:  # a metric is fed in the forward, so nothing may wait
        def __init__(self):
            self.seen = []

        def update(self, record):
            self.seen.append(record.diagonal)

    with torch.no_grad():
        step = forward(model, case, padded=case.masked)
        metric = Fed()
        with attviz.capture(model, metrics=metric) as general:
            step()
            step()
        with attviz.capture(model) as cap:
            for _ in range(FORWARDS):
                step()
    assert short(general) == 0
    assert short(cap) == len(cap.layers) == 12
    torch.testing.assert_close(cap.diagonal, general.diagonal, rtol=0, atol=1e-6 if kept else 0, equal_nan=True)
    torch.testing.assert_close(cap.diagonal, torch.stack(metric.seen[-12:]), rtol=0, atol=1e-6, equal_nan=True)
    assert cap.diagonal.isnan().any() == case.masked
    assert torch.equal(cap.query_mask, general.query_mask)
    for one, other in zip(cap.records, general.records, strict=True):
        assert (one.layer, one.layer_index, one.operator, one.evidence) == (other.layer, other.layer_index, other.operator, other.evidence)


def test_a_static_cache_after_the_model_was_seen_without_one(kept):
    """What was learned without a cache does not say where the keys are in a buffer of fixed length."""
    model, ids = made(CASES["llama"]), torch.randint(0, 99, (1, 10))
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # renamed in 5.24
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        whole, _ = run(model, ids)
        with attviz.capture(model, keep="all") as cap:
            for start, end in ((0, 6), (6, 7), (7, 8), (8, 9), (9, 10)):
                model(input_ids=ids[:, start:end], use_cache=True, **{named: cache})
    torch.testing.assert_close(cap.sequence_diagonal(), whole.diagonal, rtol=0, atol=1e-6)


def test_half_types_under_autocast(kept):
    model = Encoder()
    x = torch.randn(1, 6, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cap, _ = run(model, x, keep="all")
    first, last = (torch.stack([record.diagonal for record in step]) for step in (cap.steps[0], cap.steps[-1]))
    assert short(cap) == 0  # keep="all" makes records of them when the forward ends
    torch.testing.assert_close(last, first, rtol=0, atol=1e-6)


class Reusing(nn.Module):
    """Attention that projects into buffers which the next layer uses again, or that clears them when it is done."""

    def __init__(self, how: str, buffers: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.how, self.buffers, self.late = SelfAttention(), how, buffers, False

    def forward(self, x):
        query, key, value = (tensor.contiguous() for tensor in self.inner.split(x))
        if self.how == "shared":
            for name, tensor in (("query", query), ("key", key)):
                self.buffers.setdefault(name, torch.empty_like(tensor)).data.copy_(tensor)  # .data: nobody counts that
            query, key = self.buffers["query"], self.buffers["key"]
        out = F.scaled_dot_product_attention(query, key, value)
        if self.how == "cleared" or self.late:
            key.zero_()
        return out.transpose(1, 2).flatten(2)


class Reuser(Encoder):
    def __init__(self, how: str) -> None:
        super().__init__()
        buffers: dict[str, torch.Tensor] = {}
        for block in self.blocks:
            block.attention = Reusing(how, buffers)

    def truth(self, x):
        plain = Encoder()
        for block, mine in zip(plain.blocks, self.blocks, strict=True):
            block.attention, block.mlp = mine.attention.inner, mine.mlp
        return reference(plain, x).float()


@pytest.mark.parametrize("how", ["shared", "cleared"])
def test_buffers_that_are_used_again_inside_the_forward(kept, how):
    model, x = Reuser(how), torch.randn(1, 5, 32)
    with torch.no_grad(), attviz.capture(model) as cap:
        for number in range(2 * FORWARDS):
            model(x)
            assert number < 2 or short(cap) == 3
    torch.testing.assert_close(cap.diagonal, model.truth(x), rtol=0, atol=1e-6)


def test_a_buffer_that_is_overwritten_later_on_is_loud_and_the_cure_helps(kept):
    model, x = Reuser("not at all"), torch.randn(1, 5, 32)
    with torch.no_grad():
        run(model, x)
        model.blocks[1].attention.late = True
        if kept:
            with pytest.raises(CaptureError, match=r"blocks\.1\.attention.*overwritten.*\n.*Cure"), attviz.capture(model) as cap:
                seen = [model(x) is not None and cap.layers for _ in range(FORWARDS)]
            assert [len(layers) for layers in seen] == [3, 3, 2, 3]
        cap, _ = run(model, x)
    torch.testing.assert_close(cap.diagonal, model.truth(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_forward_that_does_not_end_leaves_nothing_waiting(kept, error):
    model, x = Encoder(), torch.randn(1, 5, 32)
    queries = []
    model.blocks[0].attention.query.register_forward_hook(lambda module, args, output: queries.append(weakref.ref(output)))
    with torch.no_grad():
        with pytest.raises(error), attviz.capture(model) as cap:
            for _ in range(FORWARDS):
                model(x)
            whole = cap.diagonal
            model.blocks[2].mlp.register_forward_pre_hook(lambda module, args: raise_(error))
            model(x)
        gc.collect()
    assert all(query() is None for query in queries)
    with pytest.raises(CaptureError, match="did not finish"):
        _ = cap.diagonal
    assert whole.shape == (3, 1, 4, 5)


def raise_(error):
    raise error


def test_a_finished_forward_holds_no_activation(kept):
    model, x = Encoder(), torch.randn(1, 5, 32)
    queries = []
    model.blocks[0].attention.query.register_forward_hook(lambda module, args, output: queries.append(weakref.ref(output)))
    with torch.no_grad(), attviz.capture(model):
        for _ in range(FORWARDS):
            model(x)
            gc.collect()
            assert queries[-1]() is None


def test_a_forward_whose_keys_are_more_than_may_be_held_is_finished_in_parts(monkeypatch):
    monkeypatch.setattr(waiting, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(together, "HELD", 1)
    model, x = Encoder(), torch.randn(1, 5, 32)
    with torch.no_grad():
        cap, _ = run(model, x)
    torch.testing.assert_close(cap.diagonal, reference(model, x).float(), rtol=0, atol=1e-6)


def test_some_layers_only(kept):
    model, x = Encoder(), torch.randn(1, 5, 32)
    with torch.no_grad():
        cap, _ = run(model, x, layers="blocks.1.*")
    assert cap.layers == ("blocks.1.attention",)
    torch.testing.assert_close(cap.diagonal, reference(model, x)[1:2].float(), rtol=0, atol=1e-6)


def test_readings_are_read_in_the_forwards_in_which_they_are_due(kept):
    model, x = Encoder(), torch.randn(1, 5, 32)
    taken = []
    with torch.no_grad(), attviz.capture(model, read=readings.Offset(0, name="own", every=3)) as cap:
        for _ in range(7):
            model(x)
            taken.append(short(cap))
    assert taken == [0, 0, 3, 0, 3, 3, 0]
    torch.testing.assert_close(cap.reading("own"), cap.diagonal, rtol=0, atol=1e-6)


def test_another_length_goes_the_general_way_and_is_right(kept):
    model = Encoder(causal=True)
    with torch.no_grad(), attviz.capture(model) as cap:
        for length in (5, 5, 5, 3, 3, 9, 1, 1, 5):
            x = torch.randn(2, length, 32)
            model(x)
            torch.testing.assert_close(cap.diagonal, reference(model, x).float(), rtol=0, atol=1e-6)


def test_two_captures_and_two_threads_see_their_own(kept):
    models = [Encoder(), Encoder()]
    found = {}

    def work(number):
        x = torch.full((1, 4, 32), 0.1 * (number + 1)) * torch.arange(4)[None, :, None]
        with torch.no_grad():
            for _ in range(5):
                cap, _ = run(models[number], x)
        found[number] = cap.diagonal, reference(models[number], x).float()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for diagonal, expected in found.values():
        torch.testing.assert_close(diagonal, expected, rtol=0, atol=1e-6)


def test_nobody_elses_dispatch_mode_sees_our_arithmetic(kept):
    class Log(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    model, x = Encoder(), torch.randn(1, 5, 32)
    with torch.no_grad():
        with Log() as plain:
            model(x)
        with attviz.capture(model) as cap:
            for _ in range(FORWARDS):
                with Log() as log:
                    model(x)
    assert short(cap) == 3
    assert log.names == plain.names
