"""What an operator entry is, and the open table that holds them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from attviz.calls.call import AttentionCall
from attviz.registry import Registry

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Reader = Callable[[Arguments, Keywords, Any], "AttentionCall | str | None"]
Preparer = Callable[[Arguments, Keywords], "tuple[Arguments, Keywords]"]
Restorer = Callable[[Arguments, Keywords, Any], Any]


@dataclass(frozen=True, slots=True)
class Operator:
    """One dispatcher operator that computes attention, or the softmax inside one.

    Attributes:
        name: ``"namespace::operator"`` or ``"namespace::operator.overload"``.
        read: Turns ``(args, kwargs, result)`` into an :class:`AttentionCall`; into None if this call is not attention; or into
            the reason (a str) why it cannot have a diagonal, for ``cap.skipped``, if its module does not attend otherwise.
        kind: A ``"fused"`` operator always is attention; a ``"softmax"`` must be distinguished from a router or a pooling
            head by its shape and its module.
        keys: Dispatch keys to tap, if this process has them.
        prepare: Changes the arguments before the kernel runs, to make it return its log-sum-exp or its weights.
        restore: Turns ``(original args, original kwargs, result)`` back into the result that the caller requested.
    """

    name: str
    read: Reader
    kind: Literal["fused", "softmax"]
    keys: tuple[str, ...] = ("CPU", "CUDA")
    prepare: Preparer | None = None
    restore: Restorer | None = None


_FAMILIES = ("sdpa", "softmax", "fast_path", "flash", "raw")
_table: Registry[Operator] = Registry("operator")


def register_operator(operator: Operator, *, replace: bool = False) -> Operator:
    """Add an operator to the table; captures entered from now on see it.

    Args:
        operator: The entry. Its ``read`` runs under ``no_grad``, on the thread of the model, for every call of the operator.
        replace: Replace an entry of the same name, which is refused otherwise.

    Returns:
        The same entry.

    Raises:
        ArgumentError: If the name is taken.
    """
    _load_families()
    return _table.add(operator, replace=replace)


def unregister_operator(name: str) -> None:
    """Remove an operator from the table; unknown names are ignored."""
    _table.remove(name)


def registered() -> tuple[Operator, ...]:
    """All entries, built-in families first."""
    _load_families()
    return _table.entries[::-1]


def _load_families() -> None:
    if _table.entries:
        return
    with _table.lock:  # a second thread must not find a table half filled
        if _table.entries:
            return
        found = [importlib.import_module(f"attviz.hooks.tap.operators.{family}").OPERATORS for family in _FAMILIES]
        by_name = {operator.name: operator for operators in found for operator in operators}
        _table.entries = tuple(by_name.values())[::-1]
