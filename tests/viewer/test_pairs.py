"""Query and key in 16 bits: what is written, how exact it is, how large, and what is refused."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attviz.errors import ArgumentError, ShapeError
from attviz.records import Analysis, AttvizDocument, AttvizSet, AttvizVector, Document
from attviz.viewer import view
from attviz.viewer.pairs import WORST_ERROR, PairLayer, pair_parts
from attviz.viewer.pairs_bias import take_apart


def weights_of(scores):
    scores = scores - scores.max(-1, keepdims=True)
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(-1, keepdims=True)


def made(heads=2, q_len=5, kv_len=5, dim=8, kv_heads=None, seed=0, **more):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(heads, q_len, dim)).astype(np.float32)
    key = rng.normal(size=(kv_heads or heads, kv_len, dim)).astype(np.float32)
    return PairLayer("layer", query, key, scale=dim**-0.5, **more)


def read(meta, data):
    """Weights of every head, from what the page carries, in float64."""
    raw = base64.b64decode(data)
    heads, dim, (q_len, kv_len) = len(meta["heads"]), meta["dim"], meta["size"]
    kv_heads = max(meta["kv"]) + 1
    number = np.dtype("<f4" if meta["form"] == "f32" else "<f2")
    at = 4 * kv_heads * dim
    bias = np.zeros((1, q_len, kv_len))
    ahead = np.arange(kv_len) - np.arange(q_len)[:, None]
    if meta.get("bias", [""])[0] == "line":
        size = meta["bias"][1] * (q_len + kv_len - 1)
        bias = np.frombuffer(raw, "<f4", size, at).reshape(meta["bias"][1], -1)[:, ahead + q_len - 1]
        at += 4 * size
    query = np.frombuffer(raw, number, heads * q_len * dim, at).reshape(heads, q_len, dim)
    at += query.nbytes
    key = np.frombuffer(raw, number, kv_heads * kv_len * dim, at).reshape(kv_heads, kv_len, dim)
    at += key.nbytes
    if meta.get("bias", [""])[0] == "full":
        full = np.frombuffer(raw, "<f2", meta["bias"][1] * q_len * kv_len, at)
        bias, at = full.reshape(-1, q_len, kv_len), at + full.nbytes
    low, high = meta["band"]
    hidden = np.zeros((1, q_len, kv_len), bool)
    hidden |= ahead < (-(10**9) if low is None else low)
    hidden |= ahead > (10**9 if high is None else high)
    if "hidden" in meta:
        bits = np.frombuffer(raw, np.uint8, offset=at).reshape(meta["hidden"], q_len, -1)
        hidden = hidden | np.unpackbits(bits, axis=-1, bitorder="little")[..., :kv_len].astype(bool)
        at = len(raw)
    assert at == len(raw)
    scores = meta["scale"] * query.astype(np.float64) @ key.astype(np.float64)[meta["kv"]].swapaxes(1, 2) + bias
    return weights_of(np.where(hidden, -np.inf, scores))


def exact(layer):
    heads, q_len, kv_len = layer.shape
    key = np.repeat(layer.key, heads // len(layer.key), axis=0).astype(np.float64)
    scores = layer.scale * layer.query.astype(np.float64) @ key.swapaxes(1, 2) + (0 if layer.bias is None else layer.bias)
    if layer.is_causal:
        scores = np.where(np.arange(kv_len) > np.arange(q_len)[:, None], -np.inf, scores)
    return weights_of(scores)


def coded(layer, heads=None):
    tokens = tuple(f"w{i}" for i in range(layer.shape[1]))
    keys = None if layer.shape[1] == layer.shape[2] else tuple(f"k{i}" for i in range(layer.shape[2]))
    meta, data = pair_parts([replace(layer, keys=keys)], tokens, [], heads, "documents[0]")
    return meta["layers"][0], data[0]


@given(
    seed=st.integers(0, 1000),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    q_len=st.integers(1, 9),
    kv_len=st.integers(1, 20),
    form=st.sampled_from(["none", "causal", "band", "line", "shared", "full", "hidden", "both"]),
)
def test_any_bias_comes_back(seed, heads, q_len, kv_len, form):
    rng = np.random.default_rng(seed)
    ahead = np.arange(kv_len) - np.arange(q_len)[:, None]
    bias = {
        "none": None,
        "causal": None,
        "band": np.where((ahead > 1) | (ahead < -3), -1e4, 0.0)[None],
        "line": rng.normal(size=(heads[0], q_len + kv_len))[:, ahead + q_len - 1],
        "shared": rng.normal(size=(1, q_len + kv_len))[:, ahead + q_len - 1],
        "full": rng.normal(size=(heads[0], q_len, kv_len)),
        "hidden": np.where(rng.random((1, q_len, kv_len)) < 0.3, np.finfo(np.float32).min, 0.0),
        "both": rng.normal(size=(heads[0], q_len, kv_len)) + np.where(rng.random((heads[0], q_len, kv_len)) < 0.3, -np.inf, 0.0),
    }[form]
    if bias is not None:
        bias = bias.copy()
        bias[:, np.arange(q_len), np.minimum(np.arange(q_len), kv_len - 1)] = np.maximum(bias.max(), 0)  # each query sees a key
    layer = made(heads[0], q_len, kv_len, kv_heads=heads[1], seed=seed, bias=bias, is_causal=form == "causal")
    assert np.abs(read(*coded(layer)) - exact(layer)).max() < WORST_ERROR


def test_what_depends_on_the_distance_alone_is_small():
    causal = np.triu(np.full((1, 400, 400), np.finfo(np.float32).min), 1)
    assert take_apart(causal, 400, 400).band == (None, 0)
    window = take_apart(np.where(np.abs(np.arange(9) - np.arange(9)[:, None]) > 2, -np.inf, 0.0)[None], 9, 9)
    assert (window.band, window.hidden, window.form) == ((-2, 2), None, "none")
    relative = np.random.default_rng(0).normal(size=(4, 799))[:, np.arange(400) - np.arange(400)[:, None] + 399]
    found = take_apart(relative + causal, 400, 400)
    assert (found.band, found.form, found.values.shape) == ((None, 0), "line", (4, 799))


def test_keys_with_a_large_common_part_stay_exact_in_16_bits():
    layer = made(q_len=40, kv_len=40)
    shifted = PairLayer("layer", layer.query, layer.key + 300, scale=layer.scale)
    meta, data = coded(shifted)
    assert meta["form"] == "f16"
    assert np.abs(read(meta, data) - exact(shifted)).max() < 1e-3  # query and key travel in 16 bits
    rounded = PairLayer("layer", layer.query, (layer.key + 300).astype(np.float16).astype(np.float32), scale=layer.scale)
    assert np.abs(exact(rounded) - exact(shifted)).max() > 0.005, "without the mean it would be off"


@pytest.mark.parametrize("size", [10.0, 1e6])  # scores of hundreds, whose ties rounding turns; more than 16 bits can say
def test_what_16_bits_cannot_hold_is_kept_in_32(size):
    layer = made(q_len=30, kv_len=30)
    sharp = PairLayer("layer", layer.query * size, layer.key * 10, scale=layer.scale)
    meta, data = coded(sharp)
    assert meta["form"] == "f32"
    assert np.abs(read(meta, data) - exact(sharp)).max() < WORST_ERROR


def test_chosen_heads_bring_only_their_keys():
    layer = made(6, 7, 7, kv_heads=3)
    meta, data = coded(layer, [5, 1])
    assert (meta["heads"], meta["kv"]) == ([5, 1], [1, 0])
    assert np.abs(read(meta, data) - exact(layer)[[5, 1]]).max() < WORST_ERROR


def documents(count=1, tokens=6, heads=2):
    names = tuple(f"w{i}" for i in range(tokens))
    return [Document(" ".join(names), names, np.full((1, heads, tokens), 0.5, np.float32)) for _ in range(count)]


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"documents\[0\]: pairs of 'layer' are 5 queries x 5 keys, but there are 6 query tokens"):
        view(documents(), pairs=[[made()]])
    with pytest.raises(ShapeError, match="neither query and key nor weights"):
        view(documents(), pairs=[[PairLayer("layer")]])
    with pytest.raises(ArgumentError, match="pairs has 1 entries for 2 documents"):
        view(documents(2), pairs=[[]])


def test_pairs_of_what_holds_diagonals_only_say_what_to_run():
    analysis = Analysis(("layer 0",), documents())
    vector = AttvizDocument("x", (AttvizSet(("x",), (AttvizVector((0.5,)),)),))
    for source in (analysis, documents(), [vector]):
        with pytest.raises(ArgumentError, match=r"(?s)holds diagonals only.*capture\(model, read=\[attviz.readings.QueryKey\(\)\]\)"):
            view(source, pairs=True)


def test_a_page_over_its_cap_names_the_ways_to_shrink_it():
    layer = made(2, 6, 6, dim=4096)
    ways = r"documents=slice\(0, 1\), layers=\[...\], heads=\[...\], shorter texts, or pairs=False"
    with pytest.raises(ArgumentError, match=ways) as caught:
        view(documents(2), pairs=[[layer], [layer]], max_bytes=400_000)
    assert "query and key take 0." in str(caught.value)
    assert view(documents(2), pairs=[[layer], [layer]], max_bytes=400_000, heads=[1], documents=slice(0, 1))
    with pytest.raises(ArgumentError, match=r'layers=\[...\], heads=\[...\], or precision="u8"'):
        view(documents(), max_bytes=10)


def test_the_second_script_comes_only_with_pairs():
    plain, paired = view(documents()).html, view(documents(), pairs=[[made(2, 6, 6)]]).html
    assert "attviz-pairs-0" not in plain
    assert plain.count("<script>") == 1
    assert paired.count("<script>") == 2
    assert json.loads(paired.split('id="attviz-pairs-0">')[1].split("</script>")[0])["layers"][0]["heads"] == [0, 1]


@pytest.mark.parametrize(("tokens", "limit"), [(64, 4e6), (512, 30e6)])
def test_bert_base_is_small(tokens, limit):
    rng = np.random.default_rng(0)
    names = tuple(f"w{i}" for i in range(tokens))
    query, key = rng.normal(size=(2, 12, tokens, 64)).astype(np.float32)
    layers = [PairLayer(f"layer.{i}", query, key, scale=0.125) for i in range(12)]
    page = view([Document("x", names, rng.random((12, 12, tokens)).astype(np.float32))], pairs=[layers])
    assert len(page.html) < limit
