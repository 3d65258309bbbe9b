"""The map of a model: every module once, in the order of registration, and read again where the model has changed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import attviz
from attviz.hooks.scope.model_map import modules_by_name, read_layout
from tests.tiny import Encoder, SelfAttention


class Shared(nn.Module):
    """One module under two names, an empty place, and lists within a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.none = None
        self.register_module("empty", None)
        self.parts = nn.ModuleDict({"b": nn.ModuleList([nn.ReLU(), self.first]), "a": nn.Sequential(nn.Linear(2, 3), nn.Sequential())})
        self.again = self.parts["a"]


class Renaming(nn.Linear):
    """Names its parts in its own way."""

    def named_modules(self, memo=None, prefix="", remove_duplicate=True):
        yield f"{prefix}_of_its_own", self


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script
def test_modules_are_those_of_torch_in_its_order():
    renaming = nn.Sequential(nn.ReLU(), Renaming(2, 2))
    for model in (Shared(), Encoder(), nn.ReLU(), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), renaming):
        assert modules_by_name(model) == list(model.named_modules())


def test_the_map_is_read_again_where_the_model_has_changed():
    model = Encoder()
    whole = tuple(f"blocks.{number}.attention" for number in range(3))
    assert read_layout(model).expected == read_layout(model).expected == whole
    model.blocks[1].attention = nn.Identity()
    assert read_layout(model).expected == (whole[0], whole[2])
    model.blocks.append(nn.ModuleDict({"attention": SelfAttention()}))
    assert read_layout(model).expected == (whole[0], whole[2], "blocks.3.attention")


def test_parameters_that_come_later_make_an_attention():
    class LateAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("weight", None)

    model = nn.Sequential(LateAttention(), nn.Linear(2, 2))
    assert read_layout(model).expected == ()
    model[0].weight = nn.Parameter(torch.zeros(2, 2))
    assert read_layout(model).expected == ("0",)


def test_what_is_remembered_of_a_model_does_not_keep_it():
    model = Encoder()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(torch.randn(1, 5, 32))
    gone = weakref.ref(model)
    del model, cap
    gc.collect()
    assert gone() is None
