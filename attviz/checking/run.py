"""``attviz.check(model, *inputs)``: verifies every number, even for a model nobody has seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from attviz._capture import capture
from attviz.checking.compare import Captured, compare
from attviz.checking.disturb import Finding, findings_of
from attviz.checking.result import Check
from attviz.checking.untouched import evaluating, fresh, same_random_numbers, tensors_in, untouched
from attviz.checking.watch import Seen, watching
from attviz.errors import ArgumentError, CaptureWarning

_LEVELS = 3  # modules around an attention whose input is disturbed, from the inside out


def check(model: nn.Module, *args: Any, **kwargs: Any) -> Check:
    """Compare every diagonal that a capture of ``model`` records with an independent float64 reference.

    The forward runs about four times, in eval mode and without gradients, and each attention module a few more times on its own:

    - plain, and under ``attviz.capture``: outputs and random numbers must be bit-identical;
    - watched: every attention operator is observed with its arguments, and its weights are recomputed from them in float64, by
      code that shares nothing with the capture;
    - disturbed: one token of each module's input is changed. In self-attention that changes one row and one key, which shows which
      axes are texts, heads and queries, and which key is a query's own.

    Short inputs are enough: a few texts of 5 to 100 tokens, of unequal length so that there is padding. The reference holds the
    q_len x kv_len matrix of every layer in float64.

    Args:
        model: Any model that :func:`attviz.capture` accepts.
        *args: Inputs of its forward.
        **kwargs: Inputs of its forward.

    Returns:
        A :class:`Check`: print it for the table; ``.ok`` is the verdict.

    Raises:
        ArgumentError: If ``model`` is not a module, or there is no input.
        CaptureError: If the model cannot be captured at all.

    Example:
        >>> import attviz
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(2, 5, 8)
        >>> attviz.check(attention, x, x, x).ok
        True
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"check: model must be a torch.nn.Module, got {type(model).__name__}.")
    if not args and not kwargs:
        raise ArgumentError(f"check: pass the inputs of {type(model).__name__}, as for a forward: attviz.check(model, input_ids=ids).")

    def forward() -> Any:
        with same_random_numbers():
            output = model(*fresh(args), **fresh(kwargs))
            return [tensor.detach().clone() for tensor in tensors_in(output)], torch.get_rng_state()

    with evaluating(model), untouched(model), torch.no_grad():
        plain = forward()
        captured, output = _captured(model, forward)
        identical = _identical(plain, output) or not _identical(plain, forward())  # a forward that differs from itself tells nothing
        with same_random_numbers(), watching(model, with_scores=False) as seen:
            model(*fresh(args), **fresh(kwargs))
        findings = _probe(model, seen, captured, forward)
        masks = [tensor for tensor in tensors_in((args, kwargs)) if tensor.ndim == 2 and not tensor.is_floating_point()]
    return Check(type(model).__name__, compare(model, captured, seen, findings, masks), identical, captured.warnings)


def _captured(model: nn.Module, forward: Callable[[], Any]) -> tuple[Captured, Any]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with capture(model, strict=False) as cap:
            output = forward()
        records = cap.records if any(cap.steps) else ()
    texts = tuple(str(warning.message) for warning in said if issubclass(warning.category, CaptureWarning))
    return Captured(records, cap.skipped, dict(getattr(cap, "missed", {})), texts), output


def _identical(one: tuple[list[Tensor], Tensor], other: tuple[list[Tensor], Tensor]) -> bool:
    """Bit by bit, NaN included, and the random numbers behind the forward too."""
    (outputs, state), (others, other_state) = one, other
    return len(outputs) == len(others) and torch.equal(state, other_state) and all(map(_same_bits, outputs, others))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_nested or one.is_sparse:
        return all(map(_same_bits, one.unbind(), other.unbind()))
    return bool(((one == other) | (one.isnan() & other.isnan())).all()) if one.is_floating_point() else torch.equal(one, other)


def _probe(model: nn.Module, seen: list[Seen], captured: Captured, forward: Callable[[], Any]) -> dict[int, Finding]:
    """For each attention seen, by its index: what disturbing tokens showed, from the module that owns it outwards until it is clear."""
    modules = dict(model.named_modules())
    findings: dict[int, Finding] = {}
    for level in range(_LEVELS):
        wanted: dict[tuple[str, int], list[int]] = {}
        for index, attention in enumerate(seen):
            place = _owner(attention, captured) - level
            if place < 0 or (index in findings and findings[index].verdict == "self"):
                continue
            name, call = attention.modules[place]
            wanted.setdefault((name, call), [])
        for name, call in wanted:
            wanted[name, call] = [index for index, attention in enumerate(seen) if attention.call_of(name) == call]
        if wanted:
            _disturb_during(model, modules, wanted, seen, findings, forward)
    return findings


def _owner(attention: Seen, captured: Captured) -> int:
    """Place in its stack of the module that a record names; the innermost where none does."""
    named = {record.layer for record in captured.records} | set(captured.skipped) | set(captured.missed)
    return next((place for place, (name, _) in enumerate(attention.modules) if name in named), len(attention.modules) - 1)


def _disturb_during(
    model: nn.Module,
    modules: dict[str, nn.Module],
    wanted: dict[tuple[str, int], list[int]],
    seen: list[Seen],
    findings: dict[int, Finding],
    forward: Callable[[], Any],
) -> None:
    """One forward in which every wanted module, when its turn comes, is first run by itself with tokens disturbed."""
    calls: dict[str, int] = {}
    busy = False

    def before(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal busy
        if busy:
            return
        call = calls[name] = calls.get(name, -1) + 1
        if (name, call) not in wanted:
            return
        busy = True
        try:
            found = findings_of(model, name, module, args, kwargs)
        except Exception:  # a module that cannot run by itself tells nothing
            return
        finally:
            busy = False
        indices = wanted[name, call]
        if [finding.seen.shape for finding in found] != [seen[index].shape for index in indices]:
            return
        for index, finding in zip(indices, found, strict=True):
            old = findings.get(index)
            if old is None or (finding.verdict == "self" and old.verdict != "self"):
                findings[index] = finding

    with ExitStack() as stack:
        for name in {name for name, _ in wanted}:
            try:
                handle = modules[name].register_forward_pre_hook(
                    lambda module, args, kwargs, name=name: before(name, module, args, kwargs), with_kwargs=True
                )
            except Exception:  # scripted modules take no hooks
                continue
            stack.callback(handle.remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        forward()
