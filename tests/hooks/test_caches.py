"""Caches of a third party, made known with ``attviz.register_cache``: decode steps equal the full forward, and unknown ones are loud."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attviz
from attviz import readings as r
from attviz.errors import CaptureError
from attviz.hooks.scope.caches import CacheKind, unregister_cache

LENGTH, PROMPT, SLOTS = 9, 4, 12


class Notebook:
    """Somebody's cache: one buffer for all layers, a counter, none of the methods of transformers."""

    def __init__(self, growing: bool):
        self.growing, self.used = growing, 0
        self.pages = torch.full((2, 2, 2, 3, SLOTS, 8), 7.0)  # layer, key or value; unused slots are not zero

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.used + key.shape[2]
        self.pages[layer, :, : len(key), :, self.used : end] = torch.stack([key, value])
        return tuple(self.pages[layer, :, : len(key), :, : end if self.growing else SLOTS])


class Attention(nn.Module):
    def __init__(self, layer: int):
        super().__init__()
        self.layer, self.qkv, self.out = layer, nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x, notes):
        query, key, value = self.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        past = 0 if notes is None else notes.used
        if notes is not None:
            key, value = notes.write(self.layer, key, value)
        places = torch.arange(x.shape[1])[:, None] + past
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=torch.arange(key.shape[2]) <= places)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 24)
        self.layers = nn.ModuleList(Attention(layer) for layer in range(2))

    def forward(self, input_ids, notes=None):
        x = self.words(input_ids)
        for layer in self.layers:
            x = x + layer(x, notes)
        if notes is not None:
            notes.used += input_ids.shape[1]
        return x


@pytest.fixture
def known(request):
    kinds = [
        attviz.register_cache(
            CacheKind(lambda name, value, g=growing: isinstance(value, Notebook) and value.growing is g, lambda notes: notes.used,
                      is_static=not growing, name=f"notebook {growing}")
        )
        for growing in (False, True)
    ]  # fmt: skip
    yield
    for kind in kinds:
        unregister_cache(kind)


def steps(model, ids, notes):
    """The prompt in one forward, then one token at a time."""
    model(ids[:, :PROMPT], notes)
    for place in range(PROMPT, LENGTH):
        model(ids[:, place : place + 1], notes)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("growing", [True, False])
def test_decode_steps_over_a_cache_of_ones_own(growing):
    model, ids = Writer().eval(), torch.randint(0, 20, (2, LENGTH))
    read = [r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Duplicate()]
    with torch.no_grad(), attviz.capture(model, read=read) as whole:
        model(ids)
    with torch.no_grad(), attviz.capture(model, read=read, keep="all") as cap:
        steps(model, ids, Notebook(growing))
    torch.testing.assert_close(cap.sequence_diagonal(), whole.diagonal, rtol=0, atol=1e-6)
    for number, step in enumerate(cap.steps[1:], start=PROMPT):
        for layer, record in enumerate(step):
            full = whole.records[layer].readings
            for name in ("offset(-1)", "row_entropy", "duplicate"):
                found, want = record.readings[name][..., 0], full[name][..., number]
                torch.testing.assert_close(found, want, rtol=0, atol=1e-6, equal_nan=True)
            row = record.readings["rows(-1)"][:, :, 0]
            assert row.shape[-1] == (number + 1 if growing else SLOTS)
            assert (row[..., number + 1 :] == 0).all()
            torch.testing.assert_close(row[..., number], full["own"][..., number] if "own" in full else record.diagonal[..., 0])


@pytest.mark.parametrize("growing", [True, False])
def test_without_an_entry_the_own_key_is_the_last_one_that_the_mask_leaves_visible(growing):
    model, ids = Writer().eval(), torch.randint(0, 20, (2, LENGTH))
    with torch.no_grad(), attviz.capture(model) as whole:
        model(ids)
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        steps(model, ids, Notebook(growing))
    found = torch.cat([torch.stack([record.diagonal for record in step]) for step in cap.steps], -1)
    torch.testing.assert_close(found, whole.diagonal, rtol=0, atol=1e-6)


def test_where_nothing_tells_it_is_loud_and_the_message_names_the_cure():
    """Decoding is the first that is seen, one query at a time over a buffer that the forward is not given."""
    model, ids = Writer().eval(), torch.randint(0, 20, (2, LENGTH))
    notes = Notebook(False)
    with torch.no_grad():
        model(ids[:, :PROMPT], notes)
    with torch.no_grad(), pytest.raises(CaptureError, match="attviz.register_cache"), attviz.capture(model):
        model(ids[:, PROMPT : PROMPT + 1], notes)


def test_a_counter_that_a_forward_is_given_instead_of_a_cache():
    """As in models that keep their buffers to themselves: the position is all they are told."""

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.notes = Writer(), Notebook(False)

        def forward(self, input_ids, position):
            self.notes.used = int(position)
            return self.inner(input_ids, self.notes)

    model, ids = Told().eval(), torch.randint(0, 20, (2, LENGTH))
    kind = attviz.register_cache(CacheKind(lambda name, value: name == "position", lambda position: position, is_static=True, name="told"))
    try:
        with torch.no_grad(), attviz.capture(model, keep="all") as cap:
            for place in range(LENGTH):
                model(ids[:, place : place + 1], torch.tensor(place))
        found = cap.sequence_diagonal()
    finally:
        unregister_cache(kind)
    with torch.no_grad(), attviz.capture(model.inner) as whole:
        model.inner(ids)
    torch.testing.assert_close(found, whole.diagonal, rtol=0, atol=1e-6)
