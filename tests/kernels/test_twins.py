"""A Triton kernel that cannot be compiled or launched: torch computes the same, and one warning names the cause."""

import pytest
import torch

from attviz.errors import CaptureWarning, ShapeError
from attviz.kernels import TokenOrder, TokenState, twins


@pytest.fixture(autouse=True)
def _forget():
    twins.forget_failures()
    yield
    twins.forget_failures()


def no_compiler():
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


HALF_64 = (torch.float16, 64)


def test_a_failed_launch_is_computed_by_torch_and_warned_of_once():
    launches = []

    def launch():
        launches.append(1)
        no_compiler()

    message = r"diagonal_from_qk could not be compiled or launched(.|\n)*Failed to find C compiler"
    with pytest.warns(CaptureWarning, match=message) as caught:
        results = [twins.twin("diagonal_from_qk", HALF_64, True, launch, lambda: "torch") for _ in range(3)]
    assert results == ["torch"] * 3
    assert len(launches) == len(caught) == 1


def test_another_size_is_tried_and_the_same_cause_is_not_repeated():
    kinds = (HALF_64, (torch.float16, 128))
    with pytest.warns(CaptureWarning) as caught:
        results = [twins.twin("diagonal_from_qk", kind, True, no_compiler, lambda: "torch") for kind in kinds]
    assert results == ["torch"] * 2
    assert len(caught) == 1
    assert twins.twin("diagonal_from_qk", (torch.float32, 64), True, lambda: "triton", lambda: "torch") == "triton"


def test_what_the_twin_does_not_serve_is_not_launched():
    assert twins.twin("diagonal_from_qk", HALF_64, False, no_compiler, lambda: "torch") == "torch"


@pytest.mark.parametrize("error", [ShapeError("wrong"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_faults_that_torch_would_share_pass_through(error):
    def launch():
        raise error

    with pytest.raises(type(error)):
        twins.twin("diagonal_from_qk", HALF_64, True, launch, lambda: "torch")
    assert twins.twin("diagonal_from_qk", HALF_64, True, lambda: "triton", lambda: "torch") == "triton"


@pytest.mark.parametrize("where", ["segment_kernel", "long_kernel"])
def test_a_merge_that_fails_leaves_the_state_as_it_was(where, monkeypatch):
    """The second kernel must not be found wanting after the first has changed the state, or torch would count the step twice."""
    from attviz.kernels.triton import tokens

    class Failing:
        def warmup(self, *_, **__):
            no_compiler()

        def __getitem__(self, grid):
            return lambda *_, **__: no_compiler()

    class Counting(Failing):
        def warmup(self, *_, **__):
            pass

        def __getitem__(self, grid):
            return lambda count, *_, **__: count.add_(1)

    monkeypatch.setattr(tokens, "segment_kernel", Counting())
    monkeypatch.setattr(tokens, "long_kernel", Counting())
    monkeypatch.setattr(tokens, where, Failing())
    monkeypatch.setattr(tokens, "_compiled", set())
    state, ids = TokenState.empty(3, 1), torch.zeros(1, 600, dtype=torch.long)
    with pytest.raises(RuntimeError, match="C compiler"):
        tokens.launch(*state, torch.rand(1, 1, 600), TokenOrder.of(ids).plan)
    assert state.count.sum() == 0
