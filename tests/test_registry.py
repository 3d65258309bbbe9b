"""One rule for the tables a user can add to: operators, layouts and caches."""

from __future__ import annotations

import re

import pytest

import attviz
from attviz.calls import layouts
from attviz.calls.layouts import WeightLayout, unregister_layout
from attviz.errors import ArgumentError
from attviz.hooks.scope import caches
from attviz.hooks.scope.caches import CacheKind, unregister_cache
from attviz.hooks.tap.operators import Operator, registry

TABLES = {
    "operator": (lambda: Operator("mine::one", lambda args, kwargs, result: None, "fused"), registry),
    "layout": (lambda: WeightLayout(lambda module: False, lambda module, weights: None, name="mine::one"), layouts),
    "cache": (lambda: CacheKind(lambda name, value: False, lambda cache: 0, name="mine::one"), caches),
}
UNREGISTER = {"operator": lambda entry: registry.unregister_operator(entry.name), "layout": unregister_layout, "cache": unregister_cache}


@pytest.mark.parametrize("what", TABLES)
def test_a_name_is_taken_once_and_the_latest_entry_is_asked_first(what):
    make, home = TABLES[what]
    register, unregister = getattr(attviz, f"register_{what}"), UNREGISTER[what]
    registry.registered()  # fills the table of operators
    before = home._table.entries
    first, second = make(), make()
    try:
        assert register(first) is first
        assert home._table.entries == (first, *before)
        message = f"register_{what}: {what} 'mine::one' is already registered. Pass replace=True to replace it, or give yours another name."
        with pytest.raises(ArgumentError, match=re.escape(message)):
            register(second)
        assert register(second, replace=True) is second
        assert home._table.entries == (second, *before)
    finally:
        unregister(second)
    assert home._table.entries == before
    unregister(second)  # what is not there is ignored


def test_an_entry_without_a_name_has_that_of_its_function():
    def length(cache):
        return 0

    assert (
        CacheKind(lambda name, value: False, length).name
        == f"{__name__}.test_an_entry_without_a_name_has_that_of_its_function.<locals>.length"
    )
