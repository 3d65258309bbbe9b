"""Every reading, end to end, against the eager weights of the same model: padding, grouped heads, sinks, soft caps, windows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2Model,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
)

import attviz
from attviz import readings as r

SIZES = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTH, MISSING = 13, 4
MODELS = {
    "bert": lambda: BertModel(BertConfig(**SIZES, cls_token_id=1, sep_token_id=2), add_pooling_layer=False),
    "llama": lambda: LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "gpt2": lambda: GPT2Model(
        GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
    ),
    "gpt_oss": lambda: GptOssModel(
        GptOssConfig(**SIZES, num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=5)
    ),
    "gemma2": lambda: Gemma2Model(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, attn_logit_softcapping=2.0, sliding_window=5)),
}


def build(name: str) -> nn.Module:
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 1.2 * parameter.shape[-1] ** -0.5)
            elif parameter.shape == (4,):
                parameter.normal_()  # the sinks
    return model


def batch(side: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.randint(1, 20, (2, LENGTH)), torch.ones(2, LENGTH, dtype=torch.long)
    if side is not None:
        mask[1, slice(0, MISSING) if side == "left" else slice(LENGTH - MISSING, LENGTH)] = 0
    return ids, mask


def eager_weights(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    return torch.stack(attentions)[..., : ids.shape[1]].double()


def everything() -> list[r.Reading]:
    return [
        r.Own(),
        r.Offset(-1, name="previous"),
        r.Offset(2),
        r.At(torch.arange(LENGTH).flip(0).repeat(2, 1), name="mirrored"),
        r.Rows(-1),
        r.Rows((0, -2)),
        r.RowEntropy(),
        r.Received(),
        r.Received(mean=True),
        r.Keys(first=1, name="sink"),
        r.Keys(first=3),
        r.Keys(first=20, name="long start"),
        r.Keys(special=True),
        r.Keys(torch.arange(LENGTH) % 3 == 0),
        r.Induction(),
        r.Duplicate(),
        r.Window(2),
        r.Window(9),
        r.TopKeys(3),
        r.Distance(),
        r.Segments(lambda tokens: tokens.key_ids % 2, 2),
    ]


def expected(weights: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every reading, from the matrix, one token at a time where that is plainer."""
    layers, texts, heads, length, _ = weights.shape
    real = mask.bool()
    places = torch.arange(length)
    distance = (places[:, None] - places).abs()
    seen = (weights > 0) & real[None, :, None, :, None]

    def of_queries(values: torch.Tensor) -> torch.Tensor:
        return values.masked_fill(~real.view(1, texts, 1, length, *(1,) * (values.ndim - 4)), torch.nan)

    def at(index: list[list[int]]) -> torch.Tensor:
        found = torch.full((layers, texts, heads, length), torch.nan, dtype=torch.float64)
        for text in range(texts):
            for query in range(length):
                if 0 <= index[text][query] < length:
                    found[:, text, :, query] = weights[:, text, :, query, index[text][query]]
        return of_queries(found)

    def first(count: int) -> torch.Tensor:
        keys = torch.zeros(texts, length)
        for text in range(texts):
            keys[text, real[text].nonzero()[:count, 0]] = 1
        return of_queries((weights * keys[None, :, None, None]).sum(-1))

    earlier = [
        [
            max((j for j in range(i) if ids[b, j] == ids[b, i] and real[b, j]), default=-1) if real[b, i] else -1
            for i in range(length)
        ]
        for b in range(texts)
    ]  # fmt: skip
    last = [int(real[text].nonzero().max()) for text in range(texts)]
    rows = {offset: torch.stack([weights[:, b, :, last[b] + offset] for b in range(texts)], 1) for offset in (0, -1)}
    zeroth = weights[:, :, :, 0].masked_fill(~real[None, :, None, :1], torch.nan)
    received = (weights * real[None, :, None, :, None]).sum(-2).masked_fill(~real[None, :, None], torch.nan)
    strongest = weights.sort(-1, descending=True)
    return {
        "own": at([list(range(length))] * texts),
        "previous": at([[i - 1 for i in range(length)]] * texts),
        "offset(2)": at([[i + 2 for i in range(length)]] * texts),
        "mirrored": at([list(range(length))[::-1]] * texts),
        "rows(-1)": rows[0].unsqueeze(3),
        "rows(0, -2)": torch.stack([zeroth, rows[-1]], 3),
        "row_entropy": of_queries(torch.special.entr(weights).sum(-1)),
        "received": received,
        "received(mean)": received / seen.sum(-2),
        "sink": first(1),
        "keys(first=3)": first(3),
        "long start": first(20),
        "keys(special)": of_queries((weights * torch.isin(ids, torch.tensor([1, 2]))[None, :, None, None]).sum(-1)),
        "keys(mask)": of_queries(weights[..., ::3].sum(-1)),
        "induction": at([[-1 if j < 0 else j + 1 for j in row] for row in earlier]),
        "duplicate": at(earlier),
        "window(2)": of_queries((weights * (distance <= 2)).sum(-1)),
        "window(9)": of_queries((weights * (distance <= 9)).sum(-1)),
        "top_keys(3).weights": of_queries(strongest.values[..., :3]),
        "distance": of_queries((weights * distance).sum(-1)),
        "segments": of_queries(torch.stack([(weights * (ids % 2 == kind)[None, :, None, None]).sum(-1) for kind in (0, 1)], -1)),
    }


def assert_readings(cap: attviz.Capture, truth: dict[str, torch.Tensor]) -> None:
    for name, want in truth.items():
        found = cap.reading(name)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert not found.is_inference()
        torch.testing.assert_close(
            found.double(), want, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("bert", "sdpa"),
        ("bert", "eager"),
        ("llama", "sdpa"),
        ("llama", "eager"),
        ("gpt2", "sdpa"),
        ("gpt_oss", "eager"),
        ("gemma2", "eager"),
    ],
)
def test_every_reading_is_that_of_the_eager_weights(family, path, side):
    model, (ids, mask) = build(family), batch(side)
    truth = expected(eager_weights(model, ids, mask), ids, mask)
    model.set_attn_implementation(path)
    with torch.inference_mode(), attviz.capture(model, read=everything()) as cap:
        model(ids, attention_mask=mask)
    assert_readings(cap, truth)
    torch.testing.assert_close(cap.diagonal, cap.reading("own"), rtol=0, atol=1e-6, equal_nan=True)
    index = cap.reading("top_keys(3).index")
    there = index >= 0
    chosen = eager_weights(model, ids, mask).gather(-1, index.clamp(min=0))
    torch.testing.assert_close(chosen[there].float(), cap.reading("top_keys(3).weights").nan_to_num(0.0)[there], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_query_and_key_make_the_weights_again(family, side):
    model, (ids, mask) = build(family), batch(side)
    read = [r.QueryKey(dtype=torch.float32), r.MaxLogit(), r.Visible()]
    with torch.no_grad(), attviz.capture(model, read=read) as cap:
        model(ids, attention_mask=mask)
    query, key, logsumexp, scale, bias = (cap.reading(f"query_key.{part}") for part in ("query", "key", "logsumexp", "scale", "bias"))
    logits = scale[:, None, None, None, None] * query @ key.repeat_interleave(query.shape[2] // key.shape[2], 2).mT + bias
    made = (logits - logsumexp[..., None]).exp().double()
    real = mask.bool()[None, :, None, :, None].expand(made.shape)
    torch.testing.assert_close(made[real], eager_weights(model, ids, mask)[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        cap.reading("max_logit"), logits.amax(-1).where(real[..., 0], torch.nan), rtol=1e-5, atol=1e-5, equal_nan=True
    )
    visible = (bias > -1e30).sum(-1).float().where(real[..., 0], torch.nan)
    torch.testing.assert_close(cap.reading("visible"), visible, rtol=0, atol=0, equal_nan=True)


def test_largest_logit_of_an_eager_model_is_read_off_its_softmax():
    model, (ids, mask) = build("llama"), batch(None)
    found = {}
    for path in ("sdpa", "eager"):
        model.set_attn_implementation(path)
        with torch.no_grad(), attviz.capture(model, read=r.MaxLogit()) as cap:
            model(ids, attention_mask=mask)
        found[path] = cap.reading("max_logit")
    torch.testing.assert_close(found["eager"], found["sdpa"])


def test_half_types_autocast_and_training_are_read_and_change_nothing():
    model, (ids, mask) = build("llama").train(), batch(None)

    def run() -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(ids, attention_mask=mask).last_hidden_state
        out.float().square().sum().backward()
        return [out.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    plain = run()
    with attviz.capture(model, read=everything()) as cap:
        captured = run()
    assert all(torch.equal(one, other) for one, other in zip(plain, captured, strict=True))
    truth = expected(eager_weights(model, ids, mask), ids, mask)
    torch.testing.assert_close(
        cap.reading("row_entropy").double(), truth["row_entropy"], rtol=0, atol=5e-2
    )  # the truth is float32, the model bfloat16
    assert cap.reading("row_entropy").dtype == torch.float32


def test_image_patches_have_a_distance_in_two_dimensions():
    weights = torch.zeros(1, 1, 7, 7)
    weights[..., 1] = 0.5  # patch (0, 0) of a grid of 2 x 3 behind one [CLS]
    weights[..., 6] = 0.25  # patch (1, 2)
    weights[..., 0] = 0.25
    call = attviz.calls.SoftmaxCall("softmax", weights)
    found = r.Distance(grid=(2, 3)).read(call, r.Tokens())[0, 0]
    assert found[0].isnan()
    for patch in range(6):
        row, column = divmod(patch, 3)
        want = (0.5 * (row**2 + column**2) ** 0.5 + 0.25 * ((1 - row) ** 2 + (2 - column) ** 2) ** 0.5) / 0.75
        assert found[1 + patch].item() == pytest.approx(want)


def test_a_reading_of_ones_own():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True, eq=False)
    class TwoBack(r.Reading):
        def read(self, call, tokens):
            return call.own(-2)

    model, (ids, mask) = build("bert"), batch("right")
    with torch.no_grad(), attviz.capture(model, read=[TwoBack(), r.Offset(-2)]) as cap:
        model(ids, attention_mask=mask)
    torch.testing.assert_close(cap.reading("two_back"), cap.reading("offset(-2)"), rtol=0, atol=0, equal_nan=True)
