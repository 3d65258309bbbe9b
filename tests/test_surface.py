"""What the package shows, and that a misspelt keyword argument is an error wherever one can be given."""

from __future__ import annotations

import inspect

import pytest
import torch

import attviz
import attviz.integrations
import attviz.metrics
import attviz.readings
from attviz.errors import AttvizError

SKIPPED = {"Reading", "Tokens"}  # to be subclassed; made by a capture


def public(module):
    names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
    return {name: getattr(module, name) for name in names}


def makers():
    found = {}
    for module in (attviz.readings, attviz.metrics):
        for name, thing in public(module).items():
            if inspect.isclass(thing) and name not in SKIPPED and not issubclass(thing, (BaseException, tuple)):
                found[f"{module.__name__}.{name}"] = thing
    for name in ("AttentionMonitor", "AttentionCallback", "LightningAttentionCallback"):
        found[f"attviz.integrations.{name}"] = getattr(attviz.integrations, name)
    return found


def test_dir_shows_what_there_is_to_use_and_nothing_else():
    shown = dir(attviz)
    assert {"capture", "check", "compare", "register_cache", "register_layout", "register_operator", "readings", "plots"} <= set(shown)
    assert not {"Any", "importlib", "annotations"} & set(shown)
    assert all(hasattr(attviz, name) for name in shown)


@pytest.mark.parametrize("name", makers())
def test_a_misspelt_argument_of_a_constructor_is_an_error(name):
    with pytest.raises((TypeError, ValueError, AttvizError), match="evry"):
        makers()[name](evry=5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: attviz.capture(torch.nn.Linear(1, 1), evry=5),
        lambda: attviz.analyze(torch.nn.Linear(1, 1), None, ["a"], evry=5),
        lambda: attviz.head_roles(torch.nn.Linear(1, 1), None, evry=5),
        lambda: attviz.io.save(None, "x", evry=5),
        lambda: attviz.view(None, evry=5),
        lambda: attviz.compare(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), ["a"], object(), evry=5),
    ],
)
def test_a_misspelt_argument_of_a_function_is_an_error(call):
    with pytest.raises((TypeError, AttvizError), match="evry"):
        call()
