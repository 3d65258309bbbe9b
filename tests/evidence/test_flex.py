"""flex_attention, compiled: what its query and key are, and what its mask hides, is seen as with any other operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import attviz
from attviz.calls import scored
from attviz.hooks.session import padding
from tests.evidence.judge import B, D, E, H, T, assert_right, diagonal, heads, is_loud, seen, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LENGTHS = torch.tensor([T, 5, 3])
REAL = torch.arange(T)[None] < LENGTHS[:, None]
compiled = torch.compile(flex_attention, backend="eager")


@pytest.fixture(autouse=True)
def _uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


class Flex(nn.Module):
    """Attention whose mask is a function of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        self.fused = False

    def attend(self, x, keys, sees=None):
        query, key, value = heads(self.q(x)), heads(self.k(keys)), heads(self.v(keys))
        if self.fused:
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mask = None if sees is None else create_block_mask(sees, len(x), None, x.shape[1], keys.shape[1], device="cpu", BLOCK_SIZE=4)
        return compiled(query, key, value, block_mask=mask).transpose(1, 2).flatten(2)

    def truth(self, x, keys, sees=None, offset=0):
        mask = None if sees is None else torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)
        return diagonal(weights(heads(self.q(x)), heads(self.k(keys)), mask), offset)[..., : x.shape[1]]


class OwnMask(Flex):
    """Makes its mask of the lengths of the texts, and puts a class token before them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, E)) if first else None

    def tokens(self, x):
        return x if self.first is None else torch.cat([self.first.expand(len(x), -1, -1), x], 1)

    def real(self, real):
        return F.pad(real, (int(self.first is not None), 0), value=True)

    def forward(self, x, attention_mask):
        x, real = self.tokens(x), self.real(attention_mask.bool())
        return self.attend(x, x, lambda b, h, q, k: real[b, k])


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_padding_that_a_mask_function_hides(first, gpu, monkeypatch):
    """On a GPU the mask is asked once for all layers: here the same code runs on the CPU."""
    monkeypatch.setattr(scored, "on_gpu", lambda tensor: gpu)
    monkeypatch.setattr(padding, "on_gpu", lambda tensor: gpu)
    model, x = OwnMask(first).eval(), torch.randn(B, T, E)
    cap = seen(model, x, REAL.long())
    tokens, real = model.tokens(x), model.real(REAL)
    expected = model.truth(tokens, tokens, real[:, None, None].expand(B, 1, real.shape[1], -1))
    assert_right(cap, torch.where(real[:, None], expected, torch.nan))
    assert torch.equal(cap.query_mask, real)


class Graph(Flex):
    def forward(self, x, sees):
        return self.attend(x, x, lambda b, h, q, k: sees[q, k])


def test_a_token_hidden_from_itself_that_others_see_is_no_padding():
    sees = (torch.rand(T, T, generator=torch.Generator().manual_seed(3)) < 0.5) | torch.eye(T).roll(1, 0).bool()
    sees[torch.arange(T), torch.arange(T)] = torch.arange(T) % 3 != 0
    model, x = Graph().eval(), torch.randn(B, T, E)
    cap = seen(model, x, sees)
    assert_right(cap, model.truth(x, x, sees.expand(B, 1, T, T)))
    assert (cap.diagonal == 0).any()


def test_a_token_that_nobody_sees_is_padding():
    sees = (torch.arange(T) < T - 2).expand(T, T) | torch.zeros(T, T).bool()
    model, x = Graph().eval(), torch.randn(B, T, E)
    cap = seen(model, x, sees)
    expected = model.truth(x, x, sees.expand(B, 1, T, T)).clone()
    expected[..., T - 2 :] = torch.nan
    assert_right(cap, expected)


class Draft(Flex):
    """Drafts tokens behind a context that is given with them; both are keys."""

    def forward(self, x, context):
        return self.attend(x, torch.cat([context, x], 1))


def test_own_keys_behind_a_context():
    model = Draft().eval()
    for length in (5, 2, T):
        x, context = torch.randn(B, T, E), torch.randn(B, length, E)
        assert_right(seen(model, x, context), model.truth(x, torch.cat([context, x], 1), offset=length))


class Reads(Flex):
    def forward(self, x, memory):
        return self.attend(x, memory)


def test_another_sequence_of_the_same_length_is_no_self_attention():
    cap = seen(Reads().eval(), torch.randn(B, T, E), torch.randn(B, T, E))
    assert not cap.records
    assert "different inputs" in cap.skipped[""]


class Moved(Flex):
    def forward(self, x):
        return self.attend(x, x.flip(1))


def test_keys_in_another_order_are_loud():
    assert "in a different order" in is_loud(Moved().eval(), torch.randn(B, T, E))


class Halves(Flex):
    """Writes its keys into memory of their own size, half of the features at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: list[bool] = []

    def forward(self, x):
        self.followed.append(bool(_get_current_dispatch_mode_stack()))
        key = self.k(x)
        whole = torch.empty_like(key)
        whole[..., : E // 2].copy_(key[..., : E // 2])
        whole[..., E // 2 :] = key[..., E // 2 :]
        query, key, value = heads(self.q(x)), heads(whole), heads(self.v(x))
        attend = F.scaled_dot_product_attention if self.fused else compiled
        return attend(query, key, value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kernels", [(True, False, True), (False, True, False), (True, True)])
def test_features_written_in_parts_are_no_cache_whatever_kernel_runs(kernels):
    model = Halves().eval()
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        for model.fused in kernels:
            model(x := torch.randn(B, T, E))
            torch.testing.assert_close(cap.steps[-1][0].diagonal.double(), model.truth(x, x), rtol=0, atol=1e-5)
            assert "same tokens" in cap.steps[-1][0].evidence
    assert model.followed == [True] + [False] * (len(kernels) - 1)  # the keys of a cache would be looked for in every forward


class Static(Flex):
    """A cache of fixed length of its own, written at a position that the caller gives."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = torch.zeros(B, H, 2 * T, D)

    def forward(self, x, start):
        self.keys[:, :, start : start + T] = heads(self.k(x))
        query, key = heads(self.q(x)), self.keys
        attend = F.scaled_dot_product_attention if self.fused else compiled
        return attend(query, key, key).transpose(1, 2).flatten(2)


def test_own_keys_in_a_buffer_whatever_kernel_runs():
    model = Static().eval()
    with torch.no_grad():
        for start, model.fused in ((0, True), (3, False), (5, True), (T, False), (1, True)):
            with attviz.capture(model) as cap:
                model(x := torch.randn(B, T, E), start)
            expected = diagonal(weights(heads(model.q(x)), model.keys), start)[..., :T]
            assert_right(cap, expected)
