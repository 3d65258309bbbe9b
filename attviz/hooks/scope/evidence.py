"""What is known about each attention of a module: gathered once by following its first forward, and reused by every later capture.

A name may raise an expectation; the evidence here decides. It is kept per module and process, never written to the model.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch

from attviz.hooks.scope.follow.answer import Answer, answer_fused, answer_softmax
from attviz.hooks.scope.follow.mode import Follow
from attviz.hooks.scope.follow.trace import SeenSoftmax, traceable
from attviz.hooks.scope.model_map import is_of_library
from attviz.hooks.scope.tokens import parameter_names
from attviz.names import NO_SEQUENCE, OWN_SEQUENCE

Situation = tuple[str, ...]
"""Names of the parameters through which a call was given another sequence than its own."""
_Key = tuple[Situation, str, int]  # and the family of the operator, and the number of the attention within the call

_answers: WeakKeyDictionary[nn.Module, dict[_Key, Answer | None]] = WeakKeyDictionary()
_followed: WeakKeyDictionary[nn.Module, set[Situation]] = WeakKeyDictionary()
_unshown: WeakKeyDictionary[nn.Module, dict[Situation, WeakKeyDictionary[nn.Module, bool]]] = WeakKeyDictionary()
_lock = threading.RLock()  # an interrupt may come while it is held


_QUERY_BY_QUERY = "it handles its queries one at a time, in one operator call each, so no call holds more than one row of the matrix"


def places_of_others(module: nn.Module) -> tuple[tuple[int, str], ...]:
    """Position and name of the parameters through which a module can be given another sequence to attend to.

    For unknown code they begin with a sign for a single token: such a call has other keys than its own, in an order that has to be seen.
    """
    others = _others_among(parameter_names(module))
    return others if is_of_library(module) else ((-1, ONE_TOKEN), *others)


@functools.cache
def _others_among(names: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((place, name) for place, name in enumerate(names) if place and not NO_SEQUENCE.search(name))


FLAG = "?"
ONE_TOKEN = "?one token"
COMPILED = "?compiled"  # nobody sees what a module is given inside compiled code


def of_one(situation: Situation) -> bool:
    """Whether a call was given only one sequence."""
    return all(name.startswith(FLAG) for name in situation)


def situation_of(others: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Situation:
    """The other sequences that a call was given, with ``=`` after those of equal values, and the flags that are set."""
    own = args[0] if args else next((kwargs[name] for name in OWN_SEQUENCE if name in kwargs), None)
    found: Situation = ()
    for place, name in others:
        if name is ONE_TOKEN:
            if isinstance(own, Tensor) and own.ndim > 1 and not torch._C._is_tracing() and own.shape[1] == 1:
                found = (ONE_TOKEN,)
            continue
        other = args[place] if place < len(args) else kwargs.get(name)
        if other is True or isinstance(other, str):
            found = (*found, f"{FLAG}{name}={other}")  # a flag may lead another way through the code
        elif other is not None and other is not own and isinstance(other, Tensor) and other.ndim > 1 and other.is_floating_point():
            found = (*found, name + "=" if _equal(own, other) else name)
    return found


def _equal(own: Any, other: Tensor) -> bool:
    """Whether two tensors on the CPU are equal; on other devices nothing waits for the answer."""
    if torch._C._is_tracing() or not isinstance(own, Tensor) or own.shape != other.shape or own.dtype != other.dtype or not own.numel():
        return False
    if own.device.type != "cpu" or other.device.type != "cpu" or not (traceable(own) and traceable(other)):
        return False
    first = (0,) * own.ndim
    return bool(own[first] == other[first]) and torch.equal(own, other)


def family(operator: str) -> str:
    """Operators that serve the same call, depending on available kernels and dropout, share their answers."""
    name = operator.partition("::")[2] or operator
    return "sdpa" if name.startswith("_scaled_dot_product") or name == "_safe_softmax" else name


def known(module: nn.Module, situation: Situation, operator: str, ordinal: int) -> Answer | None:
    """What is known about attention number ``ordinal`` of a call of the module; None if it was never followed.

    Args:
        module: The module.
        situation: From :func:`situation_of`.
        operator: Name of the operator. If only others were followed in this situation, what they agree on holds.
        ordinal: Number of the attention within the call.
    """
    answers = _answers.get(module)
    if answers is None:
        return None
    if COMPILED in situation:
        return _whatever_given([each for (_, *rest), each in answers.items() if rest == [family(operator), ordinal]])
    found = answers.get((situation, family(operator), ordinal))
    if ONE_TOKEN in situation and (found is None or (found.kind == "unsettled" and not found.apart)):
        # compiled, or out of a cache that nobody could follow: what a text showed holds for its tokens
        text = known(module, tuple(name for name in situation if name is not ONE_TOKEN), operator, ordinal)
        if text is not None and text.kind == "self":
            return text
    if found is not None:
        return found
    others = [answer for (when, _, _), answer in answers.items() if when == situation and answer is not None]
    if not others and answers and not was_followed(module, situation):
        return Answer("unsettled", "it was given different inputs or flags than when it was followed, and this call was not followed")
    if not others or any(answer.kind != others[0].kind for answer in others) or others[0].kind == "none":
        return None
    return replace(others[0], layout=None, single=False)


def _whatever_given(answers: list[Answer | None]) -> Answer | None:
    """What the same attention was found to be in every situation; None where it was not followed."""
    found = [answer for answer in answers if answer is not None and (answer.kind != "unsettled" or answer.apart)]
    if len({(answer.kind, answer.behind, answer.layout, answer.buffer, answer.moved) for answer in found}) > 1:
        return Answer("unsettled", "it attends in different ways, depending on what it is given, which compiled code does not show")
    return found[0] if found else None


def was_followed(module: nn.Module, situation: Situation) -> bool:
    """Whether a call of the module in this situation was followed."""
    answers = _answers.get(module)
    if answers is None or any(answer is not None and answer.buffer for answer in answers.values()):
        return False  # of keys in a buffer only the following shows where the queries' own are
    return any(when == situation for when, _, _ in answers)


def idle_before(module: nn.Module, situation: Situation) -> str | None:
    """Why a followed module does no attention; None if it does, or was not followed."""
    answer = _answers.get(module, {}).get((situation, "", 0))
    return None if answer is None else answer.why


def unshown(module: nn.Module, situation: Situation) -> list[tuple[nn.Module, bool]]:
    """Modules that weighed tokens without an attention operator when this one was followed, and whether by what looks like a softmax."""
    return list(_unshown.get(module, {}).get(situation, {}).items())


def forget() -> None:
    """Follow every model again at its next forward (for tests, and after the code of a module was replaced)."""
    _answers.clear()
    _followed.clear()
    _unshown.clear()


class Followed:
    """One followed call of a model or module, on one thread: asks what each attention is, and records the answers at the end."""

    def __init__(self, module: nn.Module, situation: Situation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module, self.situation, self.follow = module, situation, Follow()
        self._found: dict[nn.Module, dict[_Key, list[tuple[Answer, SeenSoftmax | None]]]] = {}
        self.follow.enter((args, kwargs))
        self.follow.start()

    def ask(
        self, module: nn.Module, situation: Situation, operator: str, ordinal: int, tensors: tuple[Any, ...], dim: int | None
    ) -> Answer | None:
        """Classify the attention that is running now; called from inside the operator.

        Args:
            module: The module that owns the attention.
            situation: Situation of the owner's call.
            operator: Name of the operator.
            ordinal: Number of the attention within the owner's call.
            tensors: Query and key, or the scores.
            dim: Dimension of a softmax; None for a fused operator.
        """
        if self.follow.broken is not None:
            return Answer(
                "unsettled", f"its first forward could not be followed ({type(self.follow.broken).__name__}: {self.follow.broken})"
            )
        if not all(traceable(tensor) for tensor in tensors):
            return None
        seen: SeenSoftmax | None = None
        try:
            if self.follow.traces.known(tensors[0]) is None:
                if self.follow.inside is None and not isinstance(tensors[0], nn.Parameter):
                    return None  # inside compiled code, or an operator that shows no more than its result
                if self.follow.inside is not None:
                    answer = replace(answer_fused(self.follow, *self.follow.inside, of_one(situation)), layout=None)
                else:
                    answer = Answer("none", "its softmax runs over what is learned, not over tokens")
            elif dim is None:
                answer = answer_fused(self.follow, tensors[0], tensors[1], of_one(situation))
                if operator.endswith("_native_multi_head_attention"):
                    answer = replace(answer, layout=None)  # it is given features, and splits them into heads itself
            else:
                answer = answer_softmax(self.follow, tensors[0], dim, of_one(situation))
                shown = self.follow.softmax = SeenSoftmax()
                seen = shown if answer.kind == "self" else None
        except Exception as fault:  # the book-keeping must not break the user's forward
            self.follow.broken = fault
            return None
        found = self._found.setdefault(module, {})
        before = found.get((situation, family(operator), ordinal - 1)) if ordinal else None
        if before and answer.single and before[-1][0].single and before[-1][0].tokens == answer.tokens:
            answer = replace(answer, several=True)
        if before and answer.alone and before[-1][0].alone:
            answer = replace(answer, kind="unsettled", why=_QUERY_BY_QUERY, apart=True)
        found.setdefault((situation, family(operator), ordinal), []).append((answer, seen))
        return answer

    def changed(self, names: dict[int, str]) -> list[tuple[str, str]]:
        """Modules whose softmax is not the matrix in use, by name, and what changed it."""
        return [
            (names[id(module)], changed_by(seen.changed))
            for module, found in self._found.items()
            for several in found.values()
            for _, seen in several
            if seen is not None and seen.changed is not None and id(module) in names
        ]

    def unshown(self, modules: Mapping[str, nn.Module]) -> None:
        """Write down who weighed tokens without an attention operator."""
        found = WeakKeyDictionary[nn.Module, bool]()
        for owners, as_softmax in ((self.follow.plain, False), (self.follow.unseen, True)):
            found.update({modules[owner]: as_softmax for owner in owners})
        with _lock:
            _unshown.setdefault(self.module, {})[self.situation] = found

    @property
    def counts(self) -> tuple[int, int]:
        """Exponentials and products of two inputs so far."""
        return self.follow.exponentials, self.follow.products

    def ran(self, module: nn.Module, situation: Situation, idle: str | None) -> None:
        """Note that a call of a module ended; ``idle`` says why it does no attention, if that was shown."""
        several = self._found.setdefault(module, {}).setdefault((situation, "", 0), [])
        if idle is not None:
            several.append((Answer("none", idle), None))

    def finish(self, completed: bool) -> None:
        """Stop, and record what was found."""
        self.follow.stop()
        one_token = {module for module, found in self._found.items() if any(a.one_token for several in found.values() for a, _ in several)}
        with _lock:
            if completed and self.follow.broken is None:
                for module, found in self._found.items():
                    if module in one_token:
                        continue
                    settled = {key: _agreed([_settled(answer, seen) for answer, seen in several]) for key, several in found.items()}
                    _answers.setdefault(module, {}).update(settled)
            buffers = any(answer.buffer for found in self._found.values() for several in found.values() for answer, _ in several)
            if completed and not one_token and not buffers:
                _followed.setdefault(self.module, set()).add(self.situation)


def _agreed(answers: list[Answer]) -> Answer | None:
    """What the calls of a shared module agree on, whatever tokens they had."""
    alike = [replace(answer, tokens=0) for answer in answers]
    if not alike or any(answer != alike[0] for answer in alike):
        return None if not alike else Answer("unsettled", "the same module was seen to attend in different ways")
    return alike[0]


def _settled(answer: Answer, seen: SeenSoftmax | None) -> Answer:
    if seen is None or seen.changed is None:
        return answer
    return replace(answer, kind="changed", why=changed_by(seen.changed))


def changed_by(operation: str) -> str:
    """Description of a softmax whose result is changed before it weighs the tokens."""
    return f"the result of its softmax is changed by {operation!r} before it weighs the values, so it is not the matrix in use"


def may_follow() -> bool:
    """Whether a dispatch mode may run here: not during tracing, compilation or function transforms."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or any("Fake" in type(mode).__name__ or "Proxy" in type(mode).__name__ or "Functional" in type(mode).__name__ for mode in _modes())
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )


def needs_following(model: nn.Module, situation: Situation) -> bool:
    """Whether no forward of this model with the same sequences and flags was followed yet."""
    return situation not in _followed.get(model, ())


def _modes() -> list[Any]:
    return _python_dispatch._get_current_dispatch_mode_stack()
