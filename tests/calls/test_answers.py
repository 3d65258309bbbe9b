"""All kinds of call give the same answers as the float64 oracle, on random input, in small blocks too."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from attviz.calls import (
    DiagonalCall,
    FusedCall,
    PackedCall,
    PaddedCall,
    ScoredCall,
    SoftmaxCall,
    call,
    compiled,
    fused,
    packed,
    padded,
    scored,
    trust,
)
from attviz.calls.padded import Padding
from attviz.errors import ReadingError
from attviz.kernels import weight_tiles
from attviz.kernels.references import dense_logits
from tests.calls.oracle import Truth, assert_answers

EXAMPLES = settings(max_examples=20, deadline=None)


@contextlib.contextmanager
def device_of(draw):
    """Now and then as on a GPU: the answers come by its launches and passes, which torch computes here."""
    with pytest.MonkeyPatch.context() as patch:
        if draw(st.booleans()):
            for module in (fused, packed, padded, scored):
                patch.setattr(module, "on_gpu", lambda tensor: True)
            patch.setattr(torch, "compile", lambda function, **_: function)  # what it compiles is compared in test_compiled.py
            for made in (compiled._compiled, compiled._compiled_flex):
                made.cache_clear()
        yield
    for made in (compiled._compiled, compiled._compiled_flex):
        made.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Several blocks even of small inputs."""
    patch = pytest.MonkeyPatch()
    patch.setattr(call, "TILE", 64)
    patch.setattr(fused, "FEW", 0)
    for name, size in (("_ROWS", 3), ("_COLUMNS", 4), ("_TILE", 30)):
        patch.setattr(weight_tiles, name, size)
    yield
    patch.undo()


@st.composite
def sizes(draw):
    batch, num_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    q_len, past = draw(st.integers(1, 9)), draw(st.integers(0, 4))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    query = torch.randn(batch, q_len, num_kv_heads * group, 8).transpose(1, 2)
    key = torch.randn(batch, num_kv_heads, q_len + past, 8)
    return query, key, past


def bias_of(draw, query, key):
    batch, heads, q_len, _ = query.shape
    kv_len = key.shape[2]
    shapes = [
        None,
        (kv_len,),
        (q_len, kv_len),
        (batch, 1, 1, kv_len),
        (batch, 1, q_len, kv_len),
        (batch, heads, q_len, kv_len),
        (1, heads, q_len, 1),
    ]
    shape = draw(st.sampled_from(shapes))
    if shape is None:
        return None
    return torch.rand(shape) > 0.3 if draw(st.booleans()) else torch.randn(shape).masked_fill(torch.rand(shape) > 0.8, -torch.inf)


@given(data=st.data())
@EXAMPLES
def test_fused_calls(data):
    query, key, past = data.draw(sizes())
    bias, is_causal, scale = bias_of(data.draw, query, key), data.draw(st.booleans()), data.draw(st.sampled_from([0.3, 1.0]))
    rules = {"scale": scale, "bias": bias, "is_causal": is_causal, "causal_alignment": "top_left"}
    logits = dense_logits(query, key, **rules)
    truth = Truth.of(logits, torch.arange(query.shape[2])[None] + past)
    given_lse = logits.logsumexp(-1).float() if data.draw(st.booleans()) else None
    offset = torch.tensor(past) if data.draw(st.booleans()) else past
    with device_of(data.draw):
        assert_answers(FusedCall("kernel", query, key, given_lse, scale, bias, is_causal, offset), truth)


def test_a_mass_is_at_most_one_however_coarse_the_kernels_logsumexp_is():
    query, key = 30 * torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    logits = dense_logits(query, key, scale=1.0)
    call = FusedCall("kernel", query, key, logits.logsumexp(-1).float() - 1e-4)
    weights = logits.softmax(-1)
    for found, expected in (
        (call.mass(torch.eye(9)), weights),
        (call.mass(torch.ones(9, 1)), torch.ones(1, 4, 9, 1)),
        (call.within()[..., :1], torch.ones(1, 4, 9, 1)),
    ):
        assert found.max() <= 1 + 1e-6
        torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=5e-5)  # of logits near 100 in float32


@pytest.mark.parametrize("with_logsumexp", [True, False])
@pytest.mark.parametrize("as_on_gpu", [True, False])
def test_fewer_keys_than_queries(with_logsumexp, as_on_gpu, monkeypatch):
    """As in cross-attention over a short text, whose queries have no key of their own."""
    monkeypatch.setattr(fused, "on_gpu", lambda tensor: as_on_gpu)
    query, key = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 5, 8)
    logits = dense_logits(query, key, scale=1.0, kv_offset=0)
    weights, close = logits.softmax(-1), {"rtol": 0, "atol": 1e-5}
    call = FusedCall("kernel", query, key, logits.logsumexp(-1).float() if with_logsumexp else None)
    torch.testing.assert_close(call.summary().entropy.double(), torch.special.entr(weights).sum(-1), **close)
    torch.testing.assert_close(call.mass(torch.eye(5)).double(), weights, **close)
    torch.testing.assert_close(call.received()[0].double(), weights.sum(-2), **close)


@given(data=st.data())
@EXAMPLES
def test_softmax_calls(data):
    query, key, past = data.draw(sizes())
    logits = dense_logits(query, key, bias=bias_of(data.draw, query, key))
    sinks = torch.randn(query.shape[1]) if data.draw(st.booleans()) else None
    truth = Truth.of(logits, torch.arange(query.shape[2])[None] + past, sinks)
    columns = logits.float()
    if sinks is not None:
        columns = torch.cat([columns, sinks[:, None, None].expand(*columns.shape[:3], 1)], -1)
    offset = torch.tensor(past) if data.draw(st.booleans()) else past
    found = SoftmaxCall("softmax", columns.softmax(-1).nan_to_num(0.0), columns, offset, int(sinks is not None))
    if found.summary().max_logit is None:
        assert sinks is not None
    truth.logits = truth.logits.masked_fill(truth.weights == 0, -torch.inf)  # which keys a softmax hid is seen by their weights alone
    assert_answers(found, truth)


def flash_options(draw, heads):
    return {
        "scale": draw(st.sampled_from([0.3, 1.0])),
        "is_causal": draw(st.booleans()),
        "window_size": draw(st.sampled_from([(-1, -1), (2, 0), (1, 2), (3, -1)])),
        "softcap": draw(st.sampled_from([0.0, 2.0])),
        "alibi_slopes": draw(st.sampled_from([None, torch.linspace(0.1, 0.5, heads)])),
        "sinks": torch.randn(heads) if draw(st.booleans()) else None,
    }


def without_sinks(options):
    return {name: value for name, value in options.items() if name != "sinks"}


@given(data=st.data())
@EXAMPLES
def test_dense_flash_calls(data):
    trust.forget()
    query, key, past = data.draw(sizes())
    options = flash_options(data.draw, query.shape[1])
    logits = dense_logits(query, key, **without_sinks(options))
    truth = Truth.of(logits, torch.arange(query.shape[2])[None] + past, options["sinks"])
    lse = data.draw(st.sampled_from([None, logits.logsumexp(-1).float()]))
    with device_of(data.draw):
        assert_answers(PackedCall("flash", query, key, lse, options), truth)
    trust.forget()


@st.composite
def texts(draw, batch=1):
    """Lengths of queries and keys of some texts."""
    count = draw(st.integers(1, 3)) if batch == 1 else batch
    queries = [draw(st.integers(1, 4)) for _ in range(count)]
    past = [draw(st.integers(0, 2)) for _ in range(count)]
    return queries, [q + p for q, p in zip(queries, past, strict=True)]


def bounds_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


@given(data=st.data())
@EXAMPLES
def test_packed_calls(data):
    trust.forget()
    queries, keys = data.draw(texts())
    heads = data.draw(st.sampled_from([2, 4]))
    torch.manual_seed(data.draw(st.integers(0, 999)))
    query, key = torch.randn(1, heads, sum(queries), 8), torch.randn(1, 2, sum(keys), 8)
    options = flash_options(data.draw, heads)
    logits = torch.full((1, heads, sum(queries), sum(keys)), -torch.inf, dtype=torch.float64)
    own, low, high = [], [], []
    edges_q, edges_k = bounds_of(queries).tolist(), bounds_of(keys).tolist()
    for a, b, c, d in zip(edges_q, edges_q[1:], edges_k, edges_k[1:], strict=False):
        logits[:, :, a:b, c:d] = dense_logits(query[:, :, a:b], key[:, :, c:d], **without_sinks(options))
        own += range(d - (b - a), d)
        low += [c] * (b - a)
        high += [d] * (b - a)
    truth = Truth.of(logits, torch.tensor([own]), options["sinks"], (torch.tensor(low), torch.tensor(high)))
    options |= {"cu_seqlens_q": bounds_of(queries), "cu_seqlens_k": bounds_of(keys)}
    lse = data.draw(st.sampled_from([None, logits.logsumexp(-1).float()]))
    with device_of(data.draw):
        assert_answers(PackedCall("varlen", query, key, lse, options), truth)
    trust.forget()


@given(data=st.data())
@EXAMPLES
def test_packed_calls_answer_in_the_padded_rows_they_came_from(data):
    trust.forget()
    lengths, _ = data.draw(texts(batch=data.draw(st.integers(1, 3))))
    left = data.draw(st.booleans())
    length, batch, heads = max(lengths), len(lengths), 4
    kept = torch.zeros(batch, length, dtype=torch.bool)
    for row, size in enumerate(lengths):
        kept[row, length - size if left else 0 : length if left else size] = True
    torch.manual_seed(data.draw(st.integers(0, 999)))
    query, key = torch.randn(batch, heads, length, 8), torch.randn(batch, 2, length, 8)
    options = flash_options(data.draw, heads)
    logits = dense_logits(query, key, **without_sinks(options), key_mask=kept)
    truth = Truth.of(logits, torch.arange(length)[None], options["sinks"])
    cut = [tensor.transpose(1, 2)[kept].transpose(0, 1)[None] for tensor in (query, key)]
    found = PaddedCall(PackedCall("varlen", *cut, None, options | {"cu_seqlens_q": bounds_of(lengths)}), Padding(kept, kept))
    here = kept[:, None].expand(batch, heads, length)

    def close(found, expected):
        torch.testing.assert_close(found[here].double(), expected[here], rtol=1e-5, atol=1e-5, equal_nan=True)

    with device_of(data.draw):
        assert found.shape == (batch, heads, length, length)
        close(found.defer().finish(), truth.own_at(0))
        assert found.defer().finish()[~here].isnan().all()
        for offset in (-1, 1):
            inside = (torch.arange(length) + offset).clamp(0, length - 1)
            expected = truth.own_at(offset)
            close(found.own(offset), expected)
            assert expected[here & ~kept[:, None, inside]].nan_to_num(0.0).eq(0).all()
        for shape in ((1, 1, length), (batch, heads, length)):
            index = torch.randint(-1, length + 1, shape)
            close(found.at(index), truth.at(index))
        close(found.rows(torch.arange(length)), truth.weights)
        close(found.summary().entropy, torch.special.entr(truth.weights).sum(-1))
        close(found.summary().max_logit, truth.logits.amax(-1))
        close(found.visible().expand(batch, heads, length), (truth.logits > -torch.inf).sum(-1).double())
        features = torch.randn(batch, length, 3)
        for given in (features, features[0]):
            close(found.mass(given), truth.weights @ (given.double() if given.ndim == 2 else given.double()[:, None]))
        near = (torch.arange(length) - torch.arange(length)[:, None]).abs().double()
        close(found.within(1), torch.stack([(truth.weights * kind).sum(-1) for kind in (near <= 1, near * (near <= 1))], -1))
        real = kept & (torch.rand(batch, length) > 0.3)
        for mask in (kept, real):
            received = found.received(mask)
            counted = mask[:, None, :, None] & here[..., None]
            torch.testing.assert_close(received[0].double(), (truth.weights * counted).sum(-2), rtol=1e-5, atol=1e-5)
            assert torch.equal(received[1].double(), ((truth.logits > -torch.inf) & counted).sum(-2).double())
    trust.forget()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@given(data=st.data())
@settings(max_examples=24, deadline=None)
def test_calls_scored_by_functions(data):
    trust.forget()
    query, key, past = data.draw(sizes())
    batch, heads, q_len, _ = query.shape
    kv_len = key.shape[2]
    slopes = torch.rand(batch, heads)
    score_mod = data.draw(st.sampled_from([None, lambda score, b, h, q, k: score - slopes[b, h] * (q + past - k).abs()]))
    hides = data.draw(st.sampled_from([None, lambda b, h, q, k: (q + past >= k) & ((k + b) % 3 < 2)]))
    mask = None if hides is None else create_block_mask(hides, batch, None, q_len, kv_len, device="cpu")
    logits = dense_logits(query, key, scale=0.3)
    b, h, q, k = torch.meshgrid(*(torch.arange(size) for size in logits.shape), indexing="ij")
    logits = logits if score_mod is None else score_mod(logits, b, h, q, k)
    logits = logits if hides is None else logits.masked_fill(~hides(b, h, q, k), -torch.inf)
    sinks = torch.randn(heads) if data.draw(st.booleans()) else None
    truth = Truth.of(logits, torch.arange(q_len)[None] + past, sinks)
    lse = data.draw(st.sampled_from([None, logits.logsumexp(-1).float()]))
    offset = torch.tensor(past) if data.draw(st.booleans()) else past
    with device_of(data.draw):
        assert_answers(ScoredCall("flex", query, key, score_mod, mask, 0.3, lse, sinks, offset), truth)
    trust.forget()


def test_a_call_with_its_diagonal_only_says_so():
    diagonal = torch.rand(1, 2, 3)
    found = DiagonalCall("aten::_softmax", diagonal)
    torch.testing.assert_close(found.own(), diagonal)
    for ask in (lambda: found.own(1), lambda: found.rows(torch.tensor([0])), lambda: found.summary(), lambda: found.received()):
        with pytest.raises(ReadingError, match="anything but the diagonal cannot be read from aten::_softmax: its softmax is banded"):
            ask()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_computed_in_float32_or_better(dtype):
    query, key = torch.randn(1, 4, 6, 8, dtype=dtype), torch.randn(1, 2, 6, 8, dtype=dtype)
    logits = dense_logits(query, key, scale=1.0)
    truth = Truth.of(logits, torch.arange(6)[None])
    assert_answers(FusedCall("kernel", query, key, logits.logsumexp(-1).float(), 1.0), truth)


def test_every_answer_is_a_tensor_of_its_own():
    """Nothing may keep an activation, or the matrix, alive."""
    query = torch.randn(1, 2, 5, 8)
    weights = torch.rand(1, 2, 5, 5)
    for found in (FusedCall("kernel", query, query, torch.zeros(1, 2, 5)), SoftmaxCall("softmax", weights)):
        theirs = {query.untyped_storage().data_ptr(), weights.untyped_storage().data_ptr()}
        answers = [
            found.own(),
            found.own(-1),
            found.at(torch.zeros(1, 1, 5, dtype=torch.long)),
            found.rows(torch.arange(5)),
            found.received(),
        ]
        assert not theirs & {answer.untyped_storage().data_ptr() for answer in answers}
