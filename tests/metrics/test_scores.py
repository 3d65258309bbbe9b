"""Each published score against its definition on the whole float64 matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import attviz
from attviz.errors import ArgumentError, ShapeError
from attviz.metrics import AttentionHealth, scores
from attviz.readings import Keys, Received, Window


def causal(seed, batch=2, heads=3, length=7):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, heads, length, length, generator=generator, dtype=torch.float64)
    return logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_log_diagonal_is_the_log_determinant_per_token(seed):
    weights = causal(seed)
    expected = torch.linalg.slogdet(weights).logabsdet.sum(1) / weights.shape[-1]
    torch.testing.assert_close(scores.log_diagonal(weights.diagonal(0, -2, -1)), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_eigenvalues_are_those_of_the_laplacian(seed):
    weights = causal(seed)
    degree = weights.sum(-2) / torch.arange(7, 0, -1)
    laplacian = torch.diag_embed(degree) - weights
    expected = torch.linalg.eigvals(laplacian).real.sort(-1).values
    found = scores.laplacian_eigenvalues(weights.sum(-2), weights.diagonal(0, -2, -1))
    torch.testing.assert_close(found.sort(-1).values, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        scores.laplacian_eigenvalues(weights.sum(-2), weights.diagonal(0, -2, -1), k=2), expected.flip(-1)[..., :2], rtol=1e-6, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_shares_are_sums_over_the_matrix(seed):
    weights = causal(seed)
    far = torch.ones(7, 7).tril(-3).bool()  # outside the own key and the two before it
    far[:, 0] = False
    expected = (weights * far).sum(-1)[..., 3:].mean(-1)
    window = (weights * (torch.ones(7, 7).triu(-2).bool())).sum(-1)
    torch.testing.assert_close(scores.retrieval_score(weights[..., 0], window, skip=3), expected, rtol=1e-9, atol=1e-9)
    share = weights.diagonal(0, -2, -1).sum((0, 2)) / weights.sum((0, 2, 3))
    torch.testing.assert_close(scores.diagonal_share(weights.diagonal(0, -2, -1)), share, rtol=1e-9, atol=0)
    rate = torch.stack([weights[..., 0].mean((0, 2)) > 0.3]).double().mean()
    assert float(scores.sink_rate(weights[None, ..., 0])) == pytest.approx(float(rate))


def test_padding_and_masks_leave_tokens_out():
    weights = causal(0)
    diagonal = weights.diagonal(0, -2, -1).clone()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    padded = diagonal.masked_fill(~mask[:, None], torch.nan)
    torch.testing.assert_close(scores.log_diagonal(padded), scores.log_diagonal(diagonal, mask))
    torch.testing.assert_close(scores.log_diagonal(padded)[1], diagonal[1, :, :5].log().mean(-1).sum())
    torch.testing.assert_close(scores.diagonal_share(padded), scores.diagonal_share(diagonal, mask))


def test_self_similarity_with_grouped_heads():
    output, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    found = scores.self_similarity(output, value)
    for head in range(4):
        a, b = output[1, head, 3], value[1, head // 2, 3]
        assert float(found[1, head, 3]) == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 12}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, use_cache=False)).eval()


def test_they_take_what_a_capture_reads(model):
    ids = torch.randint(12, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attviz.capture(model, read=[Received(), Keys(first=1), Window(2)]) as cap:
        model(input_ids=ids)
    assert scores.log_diagonal(cap.diagonal).shape == (2, 2)
    received = cap.reading(next(name for name in cap.records[0].readings if name.startswith("received")))
    assert scores.laplacian_eigenvalues(received, cap.diagonal, k=3).shape == (2, 2, 4, 3)
    assert 0 <= float(scores.sink_rate(cap.reading("keys(first=1)"))) <= 1
    assert scores.retrieval_score(cap.reading("keys(first=1)"), cap.reading("window(2)"), skip=3).shape == (2, 2, 4)


def test_the_clip_of_the_query_brings_the_largest_logit_down_to_the_threshold(model):
    """The recipe of docs/howto/training.md, on a model whose logits exploded."""
    ids = torch.randint(12, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 1000
            layer.self_attn.k_proj.weight *= 30

    def largest():
        health = AttentionHealth(on_alarm="ignore")
        with torch.no_grad(), attviz.capture(model, metrics=health, keep="none"):
            model(input_ids=ids)
        return health.compute().max_logit

    before = largest()
    assert (before > 100).any()
    with torch.no_grad():
        layer, factors = model.model.layers[0].self_attn, scores.query_clip(before)[0]
        layer.q_proj.weight.view(4, layer.head_dim, -1).mul_(factors[:, None, None].float())
    torch.testing.assert_close(
        largest()[0], before[0].clamp(max=100), rtol=1e-3, atol=1e-3
    )  # a factor on float32 weights, then logits of 100


def test_what_does_not_fit_is_told():
    values = torch.rand(2, 3, 4)
    for call, error, message in (
        (
            lambda: scores.log_diagonal(values, torch.ones(3, 4, dtype=torch.bool)),
            ShapeError,
            r"query_mask must be \[batch, q_len\]",
        ),
        (lambda: scores.laplacian_eigenvalues(values, values[..., :3]), ShapeError, "must be equal"),
        (lambda: scores.laplacian_eigenvalues(values, values, k=5), ArgumentError, "k must be between 1 and the number of keys, 4; got 5"),
        (lambda: scores.retrieval_score(values, values, skip=4), ArgumentError, "skip=4 leaves none of the 4 queries"),
        (lambda: scores.sink_rate(values), ShapeError, r"needs \[num_layers, batch, num_heads, q_len\]"),
        (lambda: scores.self_similarity(torch.rand(1, 3, 2, 4), torch.rand(1, 2, 2, 4)), ShapeError, "do not belong to one attention"),
        (lambda: scores.query_clip(values, threshold=0), ArgumentError, "threshold must be above 0, got 0"),
    ):
        with pytest.raises(error, match=message):
            call()
