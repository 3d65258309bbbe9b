"""diagonal_from_logsumexp on other keys than the own one, and on packed texts, against float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, DtypeError, ShapeError
from attviz.kernels import diagonal_from_logsumexp
from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference, summary_from_qk_reference


@st.composite
def gathered(draw):
    """Query, key, log-sum-exp and options of one attention that is read at some index."""
    batch, num_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    q_len, extra, heads = draw(st.integers(1, 9)), draw(st.integers(0, 3)), num_kv_heads * group
    kv_len = q_len + extra
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    query = torch.randn(batch, q_len, heads, 8).to(dtype).transpose(1, 2)
    key = torch.randn(batch, num_kv_heads, kv_len, 8).to(dtype)
    options = {"softcap": draw(st.sampled_from([0.0, 2.0])), "kv_offset": draw(st.sampled_from([None, 0]))}
    shapes = [None, (kv_len,), (q_len, kv_len), (heads, 1, kv_len), (batch, 1, q_len, 1), (batch, heads, q_len, kv_len)]
    shape = draw(st.sampled_from(shapes))
    if shape is not None:
        options["bias"] = torch.randn(shape) if draw(st.booleans()) else torch.rand(shape) > 0.3
    if draw(st.booleans()):
        options["sinks"] = torch.randn(heads)
    rows = {name: option for name, option in options.items() if name in ("softcap", "bias")}
    logsumexp = dense_logits(query, key, **rows).logsumexp(-1)
    shapes = {"one": (batch, q_len), "each head": (batch, heads, q_len), "all heads": (batch, 1, q_len)}
    kind = draw(st.sampled_from(["before", "after", *shapes]))
    number = draw(st.integers(1, 3))
    options["index"] = {"before": -number, "after": number}.get(kind)
    if options["index"] is None:
        options["index"] = torch.randint(-2, kv_len + 2, shapes[kind])
    options["window_size"] = draw(st.sampled_from([(-1, -1), (-1, 0), (1, 0), (2, 1)]))
    return query, key, logsumexp, options


@settings(max_examples=80, deadline=None)
@given(gathered())
def test_any_index_gives_what_the_matrix_holds(case):
    query, key, logsumexp, options = case
    actual = diagonal_from_logsumexp(query, key, logsumexp, **options)
    index = options["index"]
    if isinstance(index, torch.Tensor) and index.dim() == 3:
        options["index"] = index.expand(query.shape[:3])
    expected = diagonal_from_logsumexp_reference(query, key, logsumexp.masked_fill(logsumexp == -math.inf, 0.0), **options)
    alive = (logsumexp > -math.inf) | expected.isnan()
    torch.testing.assert_close(actual.double()[alive], expected[alive], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert (actual[~alive] == 0).all()  # a row that sees no key


def packed(edges_q, edges_k, num_kv_heads=1, is_causal=True):
    query, key = torch.randn(1, 2, edges_q[-1] + 2, 8), torch.randn(1, num_kv_heads, edges_k[-1] + 1, 8)
    cu_q, cu_k = torch.tensor(edges_q, dtype=torch.int32), torch.tensor(edges_k, dtype=torch.int32)
    rules = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "is_causal": is_causal}
    expected = summary_from_qk_reference(query[:, :, : edges_q[-1]], key[:, :, : edges_k[-1]], **rules)
    logsumexp = torch.nn.functional.pad(expected.logsumexp.float(), (0, 2), value=7.0)
    return query, key, logsumexp, {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}, expected


EDGES = [([0, 5], [0, 5]), ([0, 3, 3, 10], [0, 4, 6, 13]), ([0, 1, 2, 9, 17], [0, 1, 2, 9, 17])]


@pytest.mark.parametrize("layout", ["heads first", "heads last", "row of each text"])
@pytest.mark.parametrize(("edges_q", "edges_k"), EDGES)
def test_packed_texts_in_every_layout_of_the_logsumexp(edges_q, edges_k, layout):
    query, key, logsumexp, bounds, expected = packed(edges_q, edges_k)
    pieces = [logsumexp[0, :, a:b] for a, b in itertools.pairwise(edges_q)]
    longest = max(piece.shape[1] for piece in pieces)
    layouts = {
        "heads first": logsumexp[0],
        "heads last": logsumexp[0].mT.contiguous(),
        "row of each text": torch.stack([torch.nn.functional.pad(one, (0, longest - one.shape[1]), value=math.inf) for one in pieces]),
    }
    actual = diagonal_from_logsumexp(query, key, layouts[layout], **bounds)
    assert actual[..., edges_q[-1] :].isnan().all()  # behind the last text
    torch.testing.assert_close(actual[..., : edges_q[-1]].double(), expected.diagonal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("edges_q", "edges_k"), EDGES)
def test_the_key_before_is_never_another_texts(edges_q, edges_k):
    query, key, logsumexp, bounds, _ = packed(edges_q, edges_k)
    actual = diagonal_from_logsumexp(query, key, logsumexp, index=-1, **bounds)
    expected = diagonal_from_logsumexp_reference(query, key, logsumexp, index=-1, **bounds)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    slots = torch.randint(-1, edges_k[-1] + 1, (1, 2, query.shape[2]))
    actual = diagonal_from_logsumexp(query, key, logsumexp, index=slots, window_size=(-1, 0), **bounds)
    expected = diagonal_from_logsumexp_reference(query, key, logsumexp, index=slots, window_size=(-1, 0), **bounds)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_no_text_at_all_has_no_weights():
    query = torch.randn(1, 2, 3, 8)
    assert diagonal_from_logsumexp(query, query, torch.zeros(2, 3), cu_seqlens_q=torch.tensor([0])).isnan().all()


def test_options_that_do_not_fit_are_named():
    query, logsumexp, edges = torch.randn(1, 2, 4, 8), torch.zeros(1, 2, 4), torch.tensor([0, 4])
    with pytest.raises(ShapeError, match=r"index must be \[batch, q_len\] = \(1, 4\) or (.*) = \(1, 2, 4\), got \(4,\)"):
        diagonal_from_logsumexp(query, query, logsumexp, index=torch.zeros(4, dtype=torch.long))
    with pytest.raises(DtypeError, match=r"index must be an integer tensor of key slots on cpu, got torch\.float32"):
        diagonal_from_logsumexp(query, query, logsumexp, index=torch.zeros(1, 4))
    with pytest.raises(ArgumentError, match="kv_offset cannot be combined with cu_seqlens_q"):
        diagonal_from_logsumexp(query, query, logsumexp, cu_seqlens_q=edges, kv_offset=0)
    with pytest.raises(ArgumentError, match="bias and row_mask cannot be combined with cu_seqlens_q"):
        mask = torch.ones(1, 4, dtype=torch.bool)
        diagonal_from_logsumexp(query, query, logsumexp, cu_seqlens_q=edges, bias=torch.zeros(4, 4), row_mask=mask)


@pytest.mark.parametrize("kind", ["shift", "index", "packed"])
def test_operator_passes_opcheck(kind):
    query, key, edges = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 7, 8), torch.tensor([0, 2, 5])
    index = torch.randint(0, 7, (1, 4, 5)) if kind == "index" else None  # a NaN would differ from itself
    bounds = (edges, torch.tensor([0, 3, 7])) if kind == "packed" else (None, None)
    bias = None if kind == "packed" else torch.randn(5, 7)
    rest = (0.3, bias, None, 2, 1.5, torch.zeros(4), index, *bounds, -1 if kind == "shift" else 0, -1, 0, False)
    torch.library.opcheck(torch.ops.attviz.diagonal_from_logsumexp.default, (query, key, torch.zeros(1, 4, 5), *rest))


@pytest.mark.parametrize("name", ["plain", "heads before tokens", "large"])
def test_the_fake_has_the_strides_of_the_real_one(name):
    length = 2048 if name == "large" else 5  # above 2**17 elements a batch of matrix products serves
    query = torch.randn(1, 4, length, 32) if name == "plain" else torch.randn(1, length, 4, 32).transpose(1, 2)
    arguments = (query, query, torch.zeros(1, 4, length), 0.3, None, None, 0, 0.0, None, None, None, None, 0, -1, -1)
    for extras in (False, True):
        torch.library.opcheck(torch.ops.attviz.diagonal_from_logsumexp.default, (*arguments, extras))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def read(query):
        return diagonal_from_logsumexp(query, query, torch.zeros(query.shape[:3])).view(-1)

    torch.testing.assert_close(read(query), read._torchdynamo_orig_callable(query))


def test_the_fake_of_weights_has_the_strides_of_the_real_one():
    matrix = torch.rand(2, 3, 4, 5).permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    for extras in (False, True):
        torch.library.opcheck(torch.ops.attviz.diagonal_from_weights.default, (matrix, 1, extras))
