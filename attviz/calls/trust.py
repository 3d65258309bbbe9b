"""Checks each kernel's log-sum-exp once: some kernels have returned another base, zeros, or padding.

The first call of each (operator, dtype, device) in the process is compared, in a few sampled rows, with a direct computation. A kernel
that differs is not used again: diagonals then come from query and key alone, which is slower but correct.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.errors import CaptureWarning, ShapeError
from attviz.kernels import rows_of_logsumexp

if TYPE_CHECKING:
    from attviz.calls.fused import FusedCall


_ROWS = 4  # sampled per text; the last rows see the most keys under a causal mask
_TEXTS = 2
_HEADS = 2  # the first and the last: the keys of all heads in float64 would dwarf a long context's own memory
_DEAD = -1e30  # rows that see no key: every backend writes something else there

_verdicts: dict[tuple[str, torch.dtype, torch.device], bool] = {}


def checked(call: FusedCall) -> FusedCall:
    """The call itself if its kernel is known to be right; the call without its log-sum-exp if it is known to be wrong.

    Waits for the device once per kernel, never afterwards.
    """
    good = call.logsumexp is None or agrees(call.operator, call.query, lambda: _returned(call), lambda: _direct(call))
    return call if good else call.replace(logsumexp=None)


def known(operator: str, query: Tensor) -> bool:
    """Whether the first call of this kernel has shown that its log-sum-exp is right."""
    return _verdicts.get((operator, query.dtype, query.device), False)


def settled(operator: str, query: Tensor, by_hand: Callable[[], Tensor], *ways: Callable[[], Tensor]) -> Tensor:
    """The diagonal by the interpretation of a kernel's log-sum-exp that was right at its first call; computed directly if none was.

    Two interpretations can be close if sinks weigh little: until a call tells them apart, the diagonal is computed directly.
    """
    keys = [(operator if way is ways[-1] else f"{operator} ({number})", query.dtype, query.device) for number, way in enumerate(ways)]
    for key, way in zip(keys, ways, strict=True):
        if _verdicts.get(key, False):
            return way()
    if all(key in _verdicts for key in keys):
        return by_hand()
    if _recording(query.device):
        return ways[0]()
    exact = by_hand()
    alive = exact > _DEAD
    if bool(alive.any()):
        _tell_apart(keys, [_or_nan(way, exact) for way in ways], exact, alive)
    return exact


def _tell_apart(keys: list[tuple[str, torch.dtype, torch.device]], found: list[Tensor], exact: Tensor, alive: Tensor) -> None:
    """Note which interpretation is right, or that none is; nothing if the best is not ten times as close as the next."""
    distances = [float(torch.where(alive, (one - exact).abs().nan_to_num(torch.inf), 0.0).max()) for one in found]
    nearest = distances.index(min(distances))
    if not _close(found[nearest], exact, alive):
        _verdicts.update(dict.fromkeys(keys, False))
        _warn(keys[-1])
    elif all(other > 10 * max(distances[nearest], 1e-6) for number, other in enumerate(distances) if number != nearest):
        _verdicts.update({key: number == nearest for number, key in enumerate(keys)})


def _close(given: Tensor, exact: Tensor, alive: Tensor) -> bool:
    """Whether all rows that see a key are right, within TensorFloat-32 and half-precision inputs; a wrong base is off by a third."""
    return bool((((given - exact).abs() <= 1e-2 + 2e-3 * exact.abs()) | ~alive).all())


def _recording(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded: nothing may wait for the device then, so the next ordinary call decides."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _or_nan(way: Callable[[], Tensor], exact: Tensor) -> Tensor:
    """What a kernel returned, as precise as the reference; NaN if its shape makes no sense."""
    try:
        return way().to(exact.dtype)
    except ShapeError:
        return torch.full_like(exact, torch.nan)


def agrees(operator: str, query: Tensor, given: Callable[[], Tensor], exact: Callable[[], Tensor]) -> bool:
    """Whether a kernel returned what its definition says; both are computed at its first call only.

    Args:
        operator: Its name, for the warning.
        query: Its dtype and device are those of the call.
        given: Sampled log-sum-exps, or a diagonal, from the kernel.
        exact: The same, computed directly.
    """
    key = (operator, query.dtype, query.device)
    good = _verdicts.get(key)
    if good is not None:
        return good
    if _recording(query.device):
        return True
    expected = exact()
    alive = expected > _DEAD
    if not bool(alive.any()):
        return True  # no row sees a key: undecided
    good = _verdicts[key] = _close(_or_nan(given, expected), expected, alive)
    if not good:
        _warn(key)
    return good


def forget() -> None:
    """Check every kernel again at its next call (for tests, and after a driver or a backend was replaced)."""
    _verdicts.clear()


def _warn(key: tuple[str, torch.dtype, torch.device]) -> None:
    warnings.warn(
        f"attviz: the log-sum-exp that {key[0]} returned for {key[1]} on {key[2]} does not match a direct computation, so "
        "diagonals are computed from query and key instead: slower, but correct. Please report your versions of torch and the backend.",
        CaptureWarning,
        stacklevel=3,
    )


def _sampled(call: FusedCall) -> tuple[Tensor, Tensor]:
    """The heads and the rows that are compared."""
    _, num_heads, q_len, _ = call.query.shape
    heads = torch.linspace(0, num_heads - 1, min(_HEADS, num_heads), device=call.query.device).round().long()
    return heads, torch.linspace(0, q_len - 1, min(_ROWS, q_len), device=call.query.device).round().long()


def _returned(call: FusedCall) -> Tensor:
    """What the kernel returned for the sampled rows ``[texts, heads, rows]``."""
    assert call.logsumexp is not None
    heads, rows = _sampled(call)
    return rows_of_logsumexp(call.logsumexp, *call.query.shape[:3])[:_TEXTS, heads][..., rows]


def _direct(call: FusedCall) -> Tensor:
    """The same from the definition of a log-sum-exp."""
    heads, rows = _sampled(call)
    _, num_heads, q_len, _ = call.query.shape
    groups, kv_len = num_heads // call.key.shape[1], call.key.shape[2]
    exact = torch.float32 if rows.device.type == "mps" else torch.float64
    query, key = call.query[:_TEXTS][:, heads][:, :, rows].to(exact), call.key[:_TEXTS][:, heads // groups].to(exact)
    scores = query @ key.mT * call.scale
    if call.bias is not None:
        bias = call.bias.expand(*torch.broadcast_shapes(call.bias.shape, (1, num_heads, q_len, kv_len)))
        bias = bias[:_TEXTS][:, heads][:, :, rows]
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype is torch.bool else scores + bias
    if call.is_causal:
        hidden = torch.arange(kv_len, device=rows.device) > rows[:, None]
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.logsumexp(scores, -1)
