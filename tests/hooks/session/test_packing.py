"""Several texts packed into one row: each has the diagonal that it has alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DataCollatorWithFlattening

import attviz
from attviz.calls import trust
from tests.hooks.tap.test_flash import Attention, package  # noqa: F401  (the stand-in of flash-attn, for the tests that ask for it)
from tests.hooks.tap.test_transformers_flash import NAME, kernel  # noqa: F401  (the stand-in from the hub, for the tests that ask for it)

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": 3,
}  # fmt: skip
LENGTHS = (4, 1, 6)


def texts() -> list[list[int]]:
    return [torch.randint(1, 99, (length,)).tolist() for length in LENGTHS]


def flattened(parts: list[list[int]], **options: bool) -> dict[str, torch.Tensor]:
    batch = dict(DataCollatorWithFlattening(return_tensors="pt", **options)([{"input_ids": part} for part in parts]))
    del batch["labels"]
    return batch


def alone(model: nn.Module, parts: list[list[int]]) -> list[torch.Tensor]:
    """The diagonals ``[num_layers, num_heads, tokens]`` of each text in a forward of its own."""
    found = []
    for part in parts:
        with torch.no_grad(), attviz.capture(model) as cap:
            model(torch.tensor([part]), use_cache=False)
        found.append(cap.diagonal[:, 0])
    return found


def check(cap: attviz.Capture, model: nn.Module, parts: list[list[int]]) -> None:
    documents = cap.documents
    assert [document.token_ids.tolist() for document in documents] == parts
    for document, expected in zip(documents, alone(model, parts), strict=True):
        torch.testing.assert_close(document.diagonal, expected, rtol=0, atol=1e-5)


def model_of(family: str, implementation: str, auto: type = AutoModel) -> nn.Module:
    config = AutoConfig.for_model(family, **SIZES)
    if implementation != NAME:
        return auto.from_config(config, attn_implementation=implementation).eval()
    model = auto.from_config(config, attn_implementation="eager").eval()
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:flex_attention called without torch.compile:UserWarning")
def test_a_mask_between_the_texts_and_restarting_positions(family, implementation):
    model, parts = model_of(family, implementation), texts()
    with torch.compiler.set_stance("force_eager"):
        with torch.no_grad(), attviz.capture(model) as cap:
            model(**flattened(parts), use_cache=False)
        check(cap, model, parts)
    assert cap.diagonal.shape == (2, 1, 4, 11)


@pytest.mark.parametrize("options", [{}, {"return_flash_attn_kwargs": True}])
@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.usefixtures("kernel")
def test_flash_attention_without_padding(family, options):
    model, parts = model_of(family, NAME, AutoModelForCausalLM), texts()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(**flattened(parts, **options))
    assert cap.records[0].operator.endswith("flash_attn_varlen_func")
    assert cap.records[0].document_ids.tolist() == [[0] * 4 + [1] + [2] * 6]
    check(cap, model, parts)


def test_two_rows_of_packed_texts():
    model, parts = model_of("llama", "sdpa"), [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14]]
    ids = torch.tensor([parts[0] + parts[1], parts[2] + parts[3]])
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, position_ids=positions, use_cache=False)
    check(cap, model, parts)
    assert [document.row for document in cap.documents] == [0, 0, 1, 1]
    assert cap.documents[3].places.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"use_cache": True}, {"use_cache": False}])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_positions_alone_part_nothing(family, options):
    """With a cache, or in an encoder, transformers builds no mask between the texts: they attend to each other and are one text."""
    model, parts = model_of(family, "sdpa"), texts()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(**flattened(parts), **options)
    apart = family == "llama" and not options["use_cache"]
    assert len(cap.documents) == (3 if apart else 1)
    whole = torch.cat(alone(model, parts), -1)
    assert torch.allclose(cap.diagonal[:, 0], whole, rtol=0, atol=1e-5) == apart


def test_a_padded_batch_comes_apart_into_its_rows():
    model, ids, mask = model_of("llama", "sdpa"), torch.randint(1, 99, (2, 6)), torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with torch.no_grad(), attviz.capture(model) as cap:
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), use_cache=False)
    check(cap, model, [ids[0].tolist(), ids[1, 2:].tolist()])
    assert cap.documents[1].places.tolist() == [2, 3, 4, 5]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("bounds", [[0, 4, 5, 11], [0, 4, 4, 11], [0, 4, 9]])
def test_flash_operators_with_empty_texts_and_an_unused_end(bounds):
    model, x, starts = Attention(causal=True), torch.randn(11, 32), torch.tensor(bounds, dtype=torch.int32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x, starts)
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        document = cap.documents[number]
        assert document.places.tolist() == list(range(start, end))
        if end > start:
            torch.testing.assert_close(document.diagonal[0].double(), model.truth(x[start:end]).detach(), rtol=0, atol=1e-6)
    assert cap.diagonal[..., bounds[-1] :].isnan().all()


@pytest.mark.usefixtures("package")
def test_queries_packed_over_a_longer_cache():
    """As in continuous batching: the last queries of each text meet all of its keys."""

    class Cached(Attention):
        def forward(self, x, queries, keys):
            query, key, value = self.split(x)
            last = torch.cat([torch.arange(b - (d - c), b) for (_, b), (c, d) in zip(keys, queries, strict=True)])
            bounds = (torch.tensor([0, *[end for _, end in part]], dtype=torch.int32) for part in (queries, keys))
            return torch.ops.flash_attn._flash_attn_varlen_forward(query[last], key, value, *bounds, 3, 6, 0.0, *self.rules)[0]

    model, x = Cached(causal=True), torch.randn(10, 32)
    trust.forget()
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x, [(0, 1), (1, 4)], [(0, 4), (4, 10)])
    one, other = (document.diagonal[0].double() for document in cap.documents)
    torch.testing.assert_close(one, model.truth(x[:4])[:, -1:].detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(other, model.truth(x[4:])[:, -3:].detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_health_takes_the_first_token_of_each_text(implementation):
    model, parts = model_of("llama", implementation), [[5, 6, 7, 8], [9, 10, 11, 12]]

    def table(*batches: dict[str, torch.Tensor]) -> attviz.metrics.HealthTable:
        health = attviz.metrics.AttentionHealth(on_alarm="ignore")
        with torch.no_grad(), attviz.capture(model, metrics=[health], keep="none"):
            for batch in batches:
                model(**batch, use_cache=False)
        return health.compute()

    packed = table(flattened(parts))
    single = table(*({"input_ids": torch.tensor([part])} for part in parts))
    torch.testing.assert_close(packed.first_token, single.first_token, rtol=0, atol=1e-6)
    torch.testing.assert_close(packed.row_entropy, single.row_entropy, rtol=0, atol=1e-6)
    torch.testing.assert_close(packed.diagonal, single.diagonal, rtol=0, atol=1e-6)
