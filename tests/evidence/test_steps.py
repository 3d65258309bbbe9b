"""What one forward is, where the model is not called as a whole; threads and coroutines."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch
from torch import nn

import attviz
from attviz.errors import CaptureError
from tests.tiny import Encoder, reference


@pytest.fixture
def model() -> Encoder:
    return Encoder().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 32)


def blocks(model, x):
    for block in model.blocks:
        x = block(x)
    return x


def encode(model, x):
    return model.forward(x)


def generated(model, x):
    def forward():
        hidden = x
        for block in model.blocks:
            hidden = block(hidden)
            yield hidden

    return list(forward())[-1]


def attentions(model, x):
    for block in model.blocks:
        x = x + block.attention(x)
        x = x + block.mlp(x).relu()
    return x


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("run", [blocks, encode, generated, attentions])
def test_model_that_is_not_called_as_a_whole(run, by_hand, x):
    model = Encoder(by_hand=by_hand).eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        run(model, x)
        run(model, 0.5 * x)
    assert len(cap.steps) == 2
    for step, given in zip(cap.steps, (x, 0.5 * x), strict=True):
        assert [record.layer for record in step] == [f"blocks.{place}.attention" for place in range(3)]
        found = torch.stack([record.diagonal for record in step])
        torch.testing.assert_close(found.double(), reference(model, given), rtol=0, atol=1e-6)


class Threaded(nn.Module):
    """Three branches, each on a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Encoder().blocks

    def forward(self, x):
        out = [x] * 3

        def run(place):
            with torch.no_grad():
                out[place] = self.blocks[place](x)

        threads = [threading.Thread(target=run, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(out)


def test_blocks_in_worker_threads_belong_to_the_forward(x):
    model = Threaded().eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x)
        model(x)
    assert len(cap.steps) == 2
    for step in cap.steps:
        assert {record.layer for record in step} == {f"blocks.{place}.attention" for place in range(3)}
    for record in cap.records:
        block = model.blocks[int(record.layer.split(".")[1])]
        query, key, _ = block.attention.split(x)
        truth = (query.double() @ key.double().mT * 8**-0.5).softmax(-1).diagonal(0, -2, -1)
        torch.testing.assert_close(record.diagonal.double(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("in_thread", [True, False])
def test_coroutines_see_their_own_forward(model, in_thread):
    async def one(x, found):
        with attviz.capture(model) as cap:
            await asyncio.sleep(0.01)
            if in_thread:
                await asyncio.to_thread(run, x)
            else:
                run(x)
            await asyncio.sleep(0.02)
            found.append((x, cap.diagonal.clone()))

    def run(x):
        with torch.no_grad():
            model(x)

    async def both():
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        await asyncio.gather(one(torch.randn(2, 5, 32), found), one(torch.randn(2, 9, 32), found))
        return found

    for x, diagonal in asyncio.run(both()):
        torch.testing.assert_close(diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_task_started_inside_the_context_belongs_to_it(model, x):
    async def run():
        with torch.no_grad():
            model(x)

    async def outer():
        with attviz.capture(model) as cap:
            await asyncio.gather(asyncio.create_task(run()))
        return cap

    torch.testing.assert_close(asyncio.run(outer()).diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", [(True, False), (False, True), (True,)])
def test_a_layer_that_skips_itself_is_no_miss(x, order):
    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.beside, self.skip = Encoder(1).blocks[0].attention, Encoder(1).blocks[0], False
            self.attn.__class__ = type("MaybeAttention", (type(self.attn),), {"forward": maybe})

        def forward(self, x):
            return self.beside(self.attn(x))

    def maybe(attention, x):
        return x if model.skip else super(type(attention), attention).forward(x)

    model = Drop().eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        for model.skip in order:
            model(x)
    assert [len(step) for step in cap.steps] == [1 if skip else 2 for skip in order]


@pytest.mark.parametrize("by_hand", [True, False])
def test_empty_batch_is_no_fault(by_hand, x):
    model = Encoder(by_hand=by_hand).eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        model(x[:0])
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
    assert all(record.diagonal.shape == (0, 4, 7) for record in cap.steps[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules(x):
    net = torch.nn.Sequential(Encoder(1).eval(), Encoder(1).eval())
    expected = torch.cat([reference(net[0], x), reference(net[1], net[0](x))])
    part = torch.jit.trace(net[1], (x,), check_trace=False)
    whole = torch.jit.trace(net, (x,), check_trace=False)
    for model in (nn.Sequential(net[0], part), whole):
        with torch.no_grad():
            plain = model(x)
            with attviz.capture(model) as cap:
                assert torch.equal(model(x), plain)
        torch.testing.assert_close(cap.diagonal.double(), expected, rtol=0, atol=1e-6)


def test_loop_over_the_texts_of_a_batch_is_loud():
    class Graphs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            return torch.stack([(self.q(row) @ self.k(row).mT).softmax(-1) @ row for row in x])

    model = Graphs().eval()
    with pytest.raises(CaptureError, match="one after the other"), torch.no_grad(), attviz.capture(model):
        model(torch.randn(3, 8, 32))


def test_weights_that_are_offloaded(x):
    accelerate = pytest.importorskip("accelerate")
    model = Encoder().eval()
    expected = reference(model, x)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    torch.testing.assert_close(cap.diagonal.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("run", [blocks, encode])
def test_model_that_is_run_in_a_thread_which_has_ended(run, x):
    """Nobody announces the forward, and nobody of its thread is left to end it."""
    model = Encoder().eval()

    def work():
        with torch.no_grad():
            run(model, x)

    with attviz.capture(model, keep="all") as cap:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(cap.steps) == 1
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
