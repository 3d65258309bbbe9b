"""How many kernels a capture launches on a GPU for one decode step of a whole model, counted without one.

The model runs on the CPU, taken for a GPU by what decides about small calls; every operator that our hooks and our tap run is written down.
On a GPU they run the same lines.
"""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from transformers import DynamicCache, StaticCache

import attviz
from attviz.hooks.scope import caches
from attviz.hooks.session import waiting
from attviz.hooks.session.observer import Observer
from benchmarks.small_calls import CASES, made
from tests.calls.test_launches import Launches

LAUNCHES = {"weights_of_calls": 2}  # a table of addresses goes to the device, and one kernel; all others are one


@pytest.fixture
def launches(monkeypatch):
    """Names of the operators that ours have run, as a list that a test clears before the forward it counts."""
    names = ["not yet"]  # while a forward is followed, modes come and go in another order
    monkeypatch.setattr(waiting, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(waiting, "_without_modes", contextlib.nullcontext)

    def logged(method):
        def run(*args):
            if "not yet" in names:
                return method(*args)
            with Launches() as log:
                found = method(*args)
            names.extend(log.names)
            return found

        return run

    for name in ("enter", "leave", "enter_layer", "leave_layer", "observe"):
        monkeypatch.setattr(Observer, name, logged(getattr(Observer, name)))
    return names


@pytest.fixture
def counter_on_the_device(monkeypatch):
    """A static cache counts its tokens in a tensor, which only a device can read."""
    read = caches.cached

    def cached(given):
        with _disable_current_modes():  # this is not ours, the copy is
            found = read(given)
            counter = torch.tensor(found.past)
        return found._replace(past=counter.clone())

    monkeypatch.setattr(caches, "cached", cached)


def steps(family, cache_kind, launches, padded=False):
    """Launches of the last of five decode steps behind a prompt, whose diagonals are compared with those of the whole text."""
    torch.manual_seed(0)
    model = made(CASES[family])
    ids, length = torch.randint(0, 99, (2, 11)), 6
    cache = DynamicCache(config=model.config) if cache_kind is DynamicCache else StaticCache(config=model.config, max_cache_len=16)
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # renamed in 5.24
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :2] = 0
    with torch.no_grad():
        with attviz.capture(model) as whole:
            model(input_ids=ids, attention_mask=mask)
        with attviz.capture(model) as cap:
            for end in range(length, 12):
                if end > 9:
                    launches.clear()
                given = {"attention_mask": mask[:, :end]} if padded else {}
                model(input_ids=ids[:, 0 if end == length else end - 1 : end], use_cache=True, **{named: cache}, **given)
    assert all(isinstance(call, tuple) for call in cap._recorder.steps[-1].calls)
    torch.testing.assert_close(cap.diagonal, whole.diagonal[..., -1:], rtol=0, atol=1e-6)
    return sum(LAUNCHES.get(name, 1) for name in launches)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decode_step_with_a_growing_cache(family, launches):
    assert steps(family, DynamicCache, launches) <= 4, launches


def test_a_decode_step_with_a_static_cache(launches, counter_on_the_device):
    assert steps("llama", StaticCache, launches) <= 4, launches


def test_a_step_with_padding_copies_what_the_mask_says_once(launches):
    assert steps("llama", DynamicCache, launches, padded=True) <= 6, launches


def test_short_texts(launches):
    model, ids = made(CASES["bert"]), torch.randint(0, 99, (1, 8))
    with torch.no_grad(), attviz.capture(model):
        for number in range(5):
            if number > 2:
                launches.clear()
            model(input_ids=ids)
    assert sum(LAUNCHES.get(name, 1) for name in launches) <= 4, launches
