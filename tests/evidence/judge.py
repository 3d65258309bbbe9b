"""The independent reference of these tests: a module's own matrix in float64, and whether a capture told it or said that it could not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import attviz
from attviz.errors import CaptureError

B, T, E, H = 3, 8, 32, 4  # heads as many as a head has half of, tokens as many as a head is wide: sizes that meet on purpose
D = E // H


def heads(x: Tensor, num_heads: int = H) -> Tensor:
    """``[batch, tokens, features]`` as ``[batch, num_heads, tokens, head_dim]``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax of scaled scores, in float64."""
    scores = query.double() @ key.double().mT * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(-1)


def diagonal(matrix: Tensor, offset: int = 0) -> Tensor:
    return matrix.diagonal(offset, -2, -1)


def seen(model: nn.Module, *args: Any, layers: Any = None, call: Callable[..., Any] | None = None, **kwargs: Any) -> attviz.Capture:
    """A capture of one forward that leaves the output as it was, to the last bit, and the random numbers where they were."""
    twin, state = copy.deepcopy(model), torch.random.get_rng_state()
    with torch.no_grad():
        expected = (call or _call)(twin, *args, **kwargs)
        after = torch.random.get_rng_state()
        torch.random.set_rng_state(state)
        with attviz.capture(model, layers=layers) as cap:
            actual = (call or _call)(model, *args, **kwargs)
    assert torch.equal(torch.random.get_rng_state(), after)
    assert _same(actual, expected)
    return cap


def assert_right(cap: attviz.Capture, *expected: Tensor, atol: float = 1e-5) -> None:
    """Every record is the diagonal of its own matrix."""
    assert len(cap.records) == len(expected), (cap.layers, cap.skipped)
    for record, truth in zip(cap.records, expected, strict=True):
        assert record.diagonal.shape == truth.shape
        torch.testing.assert_close(record.diagonal.double(), truth, rtol=0, atol=atol, equal_nan=True)


def assert_skipped(cap: attviz.Capture, *layers: str) -> None:
    assert not cap.records
    assert set(cap.skipped) == set(layers)


def is_loud(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    """The message of the error with which the capture says that it could not tell."""
    with torch.no_grad():
        try:
            with attviz.capture(model):
                model(*args, **kwargs)
        except CaptureError as error:
            return str(error)
    raise AssertionError("nothing was said")


def _call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(123.0), two.nan_to_num(123.0))
    if isinstance(one, (tuple, list)):
        return all(_same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two) if one is not None else two is None
