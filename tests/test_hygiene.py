"""Whatever happens inside, the model and the process are as before when the context ends."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest
import torch
from torch import nn

import attviz
from attviz.hooks.tap import dispatcher, functions, hub
from tests.tiny import Encoder, Look, hook_counts, reference


@pytest.fixture
def model() -> Encoder:
    return Encoder().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 10, 32)


@pytest.fixture(autouse=True)
def _nothing_left(model):
    before = hook_counts(model)
    yield
    assert hook_counts(model) == before
    assert not dispatcher.installed()
    assert not functions.installed()
    assert hub.listeners == ()


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["body", "forward", "hook"])
def test_exception_leaves_nothing(model, x, error, where):
    def raising(*_):
        raise error

    handle = None
    if where == "forward":
        model.blocks[1].mlp.forward = raising
    elif where == "hook":
        handle = model.blocks[1].attention.register_forward_hook(raising)
    with pytest.raises(error), attviz.capture(model):
        model(x)
        raise error
    if handle is not None:
        handle.remove()
    vars(model.blocks[1].mlp).pop("forward", None)
    with attviz.capture(model) as cap:  # and the next capture works
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_inside_a_metric_passes_through(model, x, error):
    class Interrupting:
        def update(self, record):
            raise error

    with pytest.raises(error), attviz.capture(model, metrics=Interrupting()):
        model(x)


def test_forward_that_failed_is_not_the_last_forward(model, x):
    with attviz.capture(model) as cap:
        model(x)
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 10, 31))
        with pytest.raises(attviz.errors.CaptureError, match="did not finish"):
            _ = cap.diagonal
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_forward_that_fails_after_some_layers_leaves_no_scope_behind(model, x):
    with attviz.capture(model) as cap:
        model.blocks[1].mlp.forward = lambda _: 1 / 0
        with pytest.raises(ZeroDivisionError):
            model(x)
        del model.blocks[1].mlp.forward
        model(x)
    assert cap.layers == tuple(f"blocks.{i}.attention" for i in range(3))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_overlapping_captures_leave_in_any_order(model, x, order):
    captures = [attviz.capture(model) for _ in range(3)]
    for cap in captures:
        cap.__enter__()
    model(x)
    for index in order:
        captures[index].__exit__(None, None, None)
        if index != order[-1]:
            model(x)
    for cap in captures:
        torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_nested_capture_of_a_part_and_of_another_model(model, x):
    other = Encoder(2)
    with attviz.capture(model) as outer, attviz.capture(model.blocks[1]) as inner, attviz.capture(other) as foreign:
        model(x)
        other(x)
        model(x)
    torch.testing.assert_close(outer.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
    torch.testing.assert_close(inner.diagonal, outer.diagonal[1:2], rtol=0, atol=0)
    torch.testing.assert_close(foreign.diagonal.double(), reference(other, x), rtol=0, atol=1e-6)
    assert inner.layers == ("attention",)


def test_two_threads_with_two_models(x):
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            torch.manual_seed(seed)
            model = Encoder()
            expected = reference(model, x)
            for _ in range(20):
                with attviz.capture(model) as cap:
                    model(x)
                torch.testing.assert_close(cap.diagonal.double(), expected, rtol=0, atol=1e-6)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_model_in_two_threads(model, x):
    inputs = {name: torch.randn(1, 4 + name, 32) for name in range(4)}
    with attviz.capture(model, keep="all") as cap:
        threads = [threading.Thread(target=lambda data=data: [model(data) for _ in range(5)]) for data in inputs.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(cap.steps) == 20
    for step in cap.steps:
        diagonal = torch.stack([record.diagonal for record in step])
        torch.testing.assert_close(diagonal.double(), reference(model, inputs[diagonal.shape[-1] - 4]), rtol=0, atol=1e-6)


def test_another_model_is_not_recorded(model, x):
    other = Encoder(5)
    with attviz.capture(model, keep="all") as cap:
        other(x)
        model(x)
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        x.softmax(-1)
        other(x)
    assert [len(step) for step in cap.steps] == [3]


def test_leaving_while_other_threads_attend_does_not_crash():
    """A thread may stand inside our kernel when it is taken off. Freed memory is overwritten here, so that a use of it shows."""
    script = """
        import threading, torch, attviz
        from torch.nn.functional import scaled_dot_product_attention as sdpa
        attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
        q, stop, faults = torch.randn(1, 4, 64, 8), threading.Event(), []
        def spin():
            try:
                while not stop.is_set():
                    sdpa(q, q, q)
            except RuntimeError as fault:
                faults.append(fault)
        threads = [threading.Thread(target=spin) for _ in range(6)]
        for thread in threads: thread.start()
        for _ in range(500):
            with attviz.capture(attention, strict=False): pass
        stop.set()
        for thread in threads: thread.join()
        print(faults or "clean")
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "clean"


def test_first_capture_of_a_process_survives_warnings_as_errors():
    script = """import torch, attviz
m = torch.nn.MultiheadAttention(8, 2)
with attviz.capture(m) as cap:
    m(*[torch.ones(3, 1, 8)] * 3)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_thousand_forwards_keep_one(model, x):
    with torch.no_grad(), attviz.capture(model) as cap:
        for _ in range(3):  # the first two find out how to read it
            model(x)
        _ = cap.records
        before = tensors_alive()
        for _ in range(1000):
            model(x)
        _ = cap.records
        assert tensors_alive() <= before


def test_no_activation_is_held(model, x):
    kept = []

    def look(call):
        kept.extend([weakref.ref(call.query), weakref.ref(call.key)])

    with torch.no_grad(), attviz.capture(model, read=Look(at=look)) as cap:
        model(x)
        gc.collect()
        assert [ref() for ref in kept] == [None] * 6
    storage = sum(record.diagonal.untyped_storage().nbytes() for record in cap.records)
    assert storage == cap.diagonal.nbytes


def test_weights_are_not_held_by_the_record(x):
    model = Encoder(by_hand=True)
    with attviz.capture(model) as cap:
        model(x)
    assert all(record.diagonal.untyped_storage().nbytes() == record.diagonal.nbytes for record in cap.records)


def test_copy_and_pickle_of_the_model_work_during_and_after(model, x):
    expected = model(x)
    with attviz.capture(model, keep="all") as cap:
        model(x)
        clones = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        clones.append(torch.load(buffer, weights_only=False))
        for clone in clones:
            torch.testing.assert_close(clone(x), expected, rtol=0, atol=0)
    assert len(cap.steps) == 1  # a copy is another model
    clones += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for clone in clones:
        torch.testing.assert_close(clone(x), expected, rtol=0, atol=0)


def test_hook_of_another_library_stays(model, x):
    calls = []
    handle = model.blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
    with attviz.capture(model) as cap:
        model(x)
    model(x)
    handle.remove()
    assert calls == [1, 1]
    assert len(cap.records) == 3


def test_no_recompute_of_parameters_or_config(model, x):
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    keys = {name: set(vars(module)) for name, module in model.named_modules()}
    with attviz.capture(model):
        model(x)
    assert keys == {name: set(vars(module)) for name, module in model.named_modules()}
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.state_dict().items())


def test_transformer_encoder_layer_as_the_model_keeps_its_fast_path(x):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    with torch.inference_mode():
        expected = layer(x)
        with attviz.capture(layer) as cap:
            actual = layer(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert cap.layers == ("self_attn",)
    assert layer._compiled_call_impl is None
