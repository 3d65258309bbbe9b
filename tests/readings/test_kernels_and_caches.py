"""Readings of flash-attn, packed and flex calls, of decode steps over every cache, and of cross-attention, against eager weights."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartModel,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    StaticCache,
    T5Config,
    T5Model,
    WhisperConfig,
    WhisperModel,
)

import attviz
from attviz import readings as r
from attviz.calls import trust
from tests.hooks.session.test_launches import counter_on_the_device  # noqa: F401  (a fixture)
from tests.hooks.tap.test_transformers_flash import NAME, kernel, model_of  # noqa: F401  (the stand-in from the hub, for the tests that ask for it)
from tests.readings.test_readings import SIZES, eager_weights
from tests.test_decoding import CACHE, CONFIGS, MAJOR, NEW, PROMPT, WAYS, build, prompt

READ = (r.Offset(-1, name="previous"), r.RowEntropy(), r.Received(), r.Rows(-1), r.Keys(first=2), r.Duplicate(), r.Window(1), r.TopKeys(2))


def compare(cap: attviz.Capture, weights: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> None:
    from tests.readings.test_readings import expected

    truth = expected(weights, ids, mask)
    truth |= {"keys(first=2)": _first_two(weights, mask), "window(1)": _window(weights, mask)}
    for name in ("previous", "row_entropy", "received", "rows(-1)", "keys(first=2)", "duplicate", "window(1)"):
        found = cap.reading(name).double()
        torch.testing.assert_close(found, truth[name], rtol=0, atol=1e-5, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


def _first_two(weights, mask):
    first = ((mask.cumsum(1) <= 2) & mask.bool())[None, :, None, None]
    return (weights * first).sum(-1).masked_fill(~mask.bool()[None, :, None], torch.nan)


def _window(weights, mask):
    places = torch.arange(mask.shape[1])
    near = (places[:, None] - places).abs() <= 1
    return (weights * near).sum(-1).masked_fill(~mask.bool()[None, :, None], torch.nan)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", ["llama", "mistral", "bert"])
def test_flash_kernels_dense_and_packed(family, side):
    trust.forget()
    model = model_of(family)
    ids, mask = torch.randint(5, 99, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    if side is not None:
        mask[1, slice(0, 3) if side == "left" else slice(6, 9)] = 0
    weights = eager_weights(model, ids, mask)
    model.set_attn_implementation(NAME)
    for _ in range(2):  # the first call of a kernel is checked, later ones are read
        with torch.no_grad(), attviz.capture(model, read=READ) as cap:
            model(ids, attention_mask=None if side is None else mask)
        compare(cap, weights, ids, mask)
    trust.forget()


@pytest.mark.usefixtures("kernel")
def test_texts_packed_into_one_row_do_not_look_over_their_border():
    trust.forget()
    model = model_of("llama")
    one, other = torch.randint(5, 99, (1, 4)), torch.randint(5, 99, (1, 6))
    whole = [eager_weights(model, ids, torch.ones_like(ids)) for ids in (one, other)]
    model.set_attn_implementation(NAME)
    places = torch.cat([torch.arange(4), torch.arange(6)])[None]
    with torch.no_grad(), attviz.capture(model, read=[*READ, r.Rows((2, 5), name="rows")]) as cap:
        model(torch.cat([one, other], 1), position_ids=places, use_cache=False)
    entropy = torch.cat([torch.special.entr(weights).sum(-1) for weights in whole], -1)
    torch.testing.assert_close(cap.reading("row_entropy").double(), entropy, rtol=0, atol=1e-5)
    previous = torch.cat([torch.nn.functional.pad(weights.diagonal(-1, -2, -1), (1, 0), value=torch.nan) for weights in whole], -1)
    torch.testing.assert_close(cap.reading("previous").double(), previous, rtol=0, atol=1e-5, equal_nan=True)
    sink = torch.cat([weights[..., :2].sum(-1) for weights in whole], -1)
    torch.testing.assert_close(cap.reading("keys(first=2)").double(), sink, rtol=0, atol=1e-5)
    rows = cap.reading("rows").double()
    torch.testing.assert_close(rows[..., 0, :4], whole[0][..., 2, :], rtol=0, atol=1e-5)
    torch.testing.assert_close(rows[..., 1, 4:], whole[1][..., 1, :], rtol=0, atol=1e-5)
    assert (rows[..., 0, 4:] == 0).all()
    assert (rows[..., 1, :4] == 0).all()
    trust.forget()


@pytest.fixture
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about how transformers compiles its block mask
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("side", [None, "left"])
def test_flex_attention(side):
    config = LlamaConfig(**SIZES, num_key_value_heads=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="flex_attention").eval().model
    ids, mask = torch.randint(5, 20, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    if side is not None:
        mask[1, :3] = 0
    with torch.no_grad(), attviz.capture(model, read=READ) as cap:
        model(ids, attention_mask=mask)
    assert {record.operator for record in cap.records} == {"flex_attention"}
    compare(cap, eager_weights(model, ids, mask), ids, mask)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", ["grouped", "mixed", "positions"])
def test_rows_of_the_last_token_while_generating_with_every_cache(config, way, padded):
    padded = padded and not (way == "chunked" and MAJOR < 5)  # transformers 4.57 counts padding as positions there: another model
    model = build(CONFIGS[config])
    ids, mask = prompt(padded)
    read = [r.Rows(-1), r.Duplicate(), r.RowEntropy(), r.Keys(first=1, name="sink")]
    with attviz.capture(model, keep="all", read=read) as cap:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **WAYS[way])
    mask = torch.cat([mask, mask.new_ones(2, out.shape[1] - PROMPT)], 1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        whole = model(out, attention_mask=mask, position_ids=places, output_attentions=True, use_cache=False).attentions
    for number, step in enumerate(cap.steps[-NEW + 1 :], start=PROMPT):  # the steps after the prompt, one new token each
        for record, weights in zip(step, whole, strict=True):
            row = record.readings["rows(-1)"][:, :, 0]
            truth = weights[:, :, number, : number + 1]
            if row.shape[-1] < truth.shape[-1]:  # a sliding cache holds the last keys only
                assert (truth[..., : -row.shape[-1]] == 0).all()
                truth = truth[..., -row.shape[-1] :]
            torch.testing.assert_close(row[..., : truth.shape[-1]], truth, rtol=0, atol=1e-5)
            assert (row[..., truth.shape[-1] :] == 0).all()
            entropy = torch.special.entr(weights[:, :, number]).sum(-1)
            torch.testing.assert_close(record.readings["row_entropy"][..., -1], entropy, rtol=0, atol=1e-5)
            same = out[:, :number] == out[:, number : number + 1]
            held = max(0, number + 1 - record.readings["rows(-1)"].shape[-1])  # the first key of a sliding cache
            for text in range(2):
                first = weights[text, :, number, max(held, int(mask[text].argmax()))]
                torch.testing.assert_close(record.readings["sink"][text, :, -1], first, rtol=0, atol=1e-5)
                earlier = (same[text] & mask[text, :number].bool()).nonzero()
                if len(earlier) and "duplicate" in record.readings and record.readings["rows(-1)"].shape[-1] > number:
                    found = record.readings["duplicate"][text, :, -1]
                    torch.testing.assert_close(found, weights[text, :, number, int(earlier.max())], rtol=0, atol=1e-5)


@pytest.mark.parametrize("counted", ["by the host", "on the device"])
@pytest.mark.parametrize("cut", [(4, 5, 6, 7), (3, 5, 7), (7,)])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_keys_that_are_padding_in_a_cache(kind, window, side, cut, counted, request):
    """The mask is one of tokens, the keys may be slots: padding and unused slots have received nothing, and are not the first key."""
    if counted == "on the device":
        request.getfixturevalue("counter_on_the_device")
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window)
    model = AutoModelForCausalLM.from_config(config).eval().model
    ids, mask = torch.randint(5, 20, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, slice(0, 2) if side == "left" else slice(1, 2)] = 0
    weights = eager_weights(model, ids, mask)
    model.set_attn_implementation("sdpa")
    spans = list(zip((0, *cut[:-1]), cut, strict=True))
    cache = kind(config=config, **{"max_cache_len": 10} if kind is StaticCache else {})
    with torch.no_grad(), attviz.capture(model, read=[r.Received(), r.Keys(first=1)], keep="all") as cap:
        for start, stop in spans:
            model(ids[:, start:stop], attention_mask=mask[:, :stop], use_cache=True, **{CACHE: cache})
    for (start, stop), step in zip(spans, cap.steps, strict=True):
        real, shown = mask[:, :stop].bool(), mask[:, None, start:stop].bool()
        for record, whole in zip(step, weights, strict=True):
            kv_len = record.readings["received"].shape[-1]
            dropped = max(0, stop - kv_len)  # by a window
            rows = whole[:, :, start:stop, dropped:stop]
            received = torch.where(real[:, None, dropped:], (rows * shown[..., None]).sum(2), torch.nan)
            received = torch.nn.functional.pad(received, (0, kv_len - (stop - dropped)), value=torch.nan)
            first = torch.where(shown, rows[torch.arange(2), :, :, real[:, dropped:].int().argmax(1)], torch.nan)
            close = {"rtol": 0, "atol": 1e-5, "equal_nan": True}
            torch.testing.assert_close(record.readings["received"].double(), received, **close)
            torch.testing.assert_close(record.readings["keys(first=1)"].double(), first, **close)


CROSS = {
    "t5": lambda: T5Model(T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)),
    "bart": lambda: BartModel(
        BartConfig(
            vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [7, 5])
@pytest.mark.parametrize("family", CROSS)
def test_cross_attention_of_encoder_decoders(family, length, path):
    model = CROSS[family]().eval()
    if path not in ("eager",) and not getattr(model, "_supports_sdpa", True):
        pytest.skip("this family has no sdpa")
    source, mask = torch.randint(5, 99, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    target = torch.randint(5, 99, (2, length))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = torch.stack(model(source, mask, decoder_input_ids=target, output_attentions=True).cross_attentions)
    model.set_attn_implementation(path)
    read = [r.Rows((0, -1)), r.Received(), r.RowEntropy(), r.Keys(first=1), r.Segments(torch.arange(7) // 4, 2), r.Offset(-1)]
    with torch.no_grad(), attviz.capture(model, read=read, cross=True) as cap:
        model(source, mask, decoder_input_ids=target)
    assert len(cap.cross_records) == 2
    assert {record.layer for record in cap.cross_records} == set(cap.skipped)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(cap.reading("rows(0, -1)", cross=True), whole[:, :, :, [0, -1]], **close)
    torch.testing.assert_close(cap.reading("received", cross=True), whole.sum(-2), **close)
    torch.testing.assert_close(cap.reading("row_entropy", cross=True), torch.special.entr(whole).sum(-1), **close)
    torch.testing.assert_close(cap.reading("keys(first=1)", cross=True), whole[..., 0], **close)
    torch.testing.assert_close(cap.reading("segments", cross=True)[..., 1], whole[..., 4:].sum(-1), **close)
    assert "offset(-1)" not in cap.cross_records[0].readings
    assert cap.records[0].readings.keys() >= {"offset(-1)", "received"}


def test_alignment_heads_of_whisper_while_it_generates():
    config = WhisperConfig(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=10, max_target_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    model = WhisperModel(config).eval()
    sound, target = torch.randn(2, 8, 20), torch.randint(5, 99, (2, 5))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = torch.stack(model(sound, decoder_input_ids=target, output_attentions=True).cross_attentions)
    model.set_attn_implementation("sdpa")
    with torch.no_grad(), attviz.capture(model, read=r.Rows(-1), cross=True, keep="all") as cap:
        encoded = model.encoder(sound)
        cache = None
        for place in range(5):
            given = {} if cache is None else {_cache_name(model): cache}
            out = model(encoder_outputs=encoded, decoder_input_ids=target[:, place : place + 1], use_cache=True, **given)
            cache = next(out[name] for name in ("past_key_values", "cache") if name in out)
            torch.testing.assert_close(cap.reading("rows(-1)", cross=True)[:, :, :, 0], whole[:, :, :, place], rtol=0, atol=1e-5)


def _cache_name(model: torch.nn.Module) -> str:
    import inspect

    return next(name for name in ("past_key_values", "cache") if name in inspect.signature(model.forward).parameters)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_the_fast_path_of_torch_nn_gives_each_text_what_it_gives_it_alone():
    """A nested batch is as long as its longest text: the operator never sees the padding that all texts share."""
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x, lengths = torch.nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 7, 16), (6, 4)
    padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
    read = [r.Offset(-1), r.Rows(-1), r.RowEntropy(), r.Received(), r.Keys(first=1), r.TopKeys(2)]
    with torch.no_grad(), attviz.capture(model, read=read) as cap:
        model(x, src_key_padding_mask=padding)
    assert {record.operator for record in cap.records} == {"aten::_native_multi_head_attention"}
    for text, length in enumerate(lengths):
        with torch.no_grad(), attviz.capture(model, read=read) as alone:
            model(x[text : text + 1, :length])
        for name in ("offset(-1)", "row_entropy", "keys(first=1)", "top_keys(2).weights", "rows(-1)", "received"):
            found, want = cap.reading(name)[:, text : text + 1], alone.reading(name)
            if name in ("rows(-1)", "received"):
                assert found[..., length:].nan_to_num(0.0).eq(0).all()
                found = found[..., :length]
            else:
                assert found.shape[3] == 7
                assert found[:, :, :, length:].isnan().all()
                found = found[:, :, :, :length]
            torch.testing.assert_close(found, want, rtol=0, atol=1e-6, equal_nan=True, msg=lambda why, name=name: f"{name}: {why}")
