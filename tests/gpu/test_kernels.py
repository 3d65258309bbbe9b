"""The operators on a GPU, where their Triton twins serve, against float64 on the same device."""

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch

from attviz.kernels import (
    TokenOrder,
    TokenState,
    diagonal_from_logsumexp,
    diagonal_from_qk,
    mass_from_logsumexp,
    merge_by_token,
    received_from_logsumexp,
    small_calls,
    summary_from_logsumexp,
    summary_from_qk,
    summary_from_weights,
)
from attviz.kernels.references import (
    dense_logits,
    diagonal_from_logsumexp_reference,
    diagonal_from_weights_reference,
    summary_from_qk_reference,
)
from attviz.kernels.summary import head_aggregates
from attviz.kernels.tokens import merge_by_token_reference
from tests.kernels.passes import assert_passes, rows_of

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-4, torch.bfloat16: 2e-4, torch.float64: 2e-6}


def heads(batch, num_heads, length, head_dim, dtype):
    return torch.randn(batch, length, num_heads, head_dim, device="cuda").to(dtype).transpose(1, 2)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where anything waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [16, 40, 64, 80, 128, 256, 320])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_diagonal_and_summary_from_logsumexp(dtype, head_dim, num_kv_heads):
    query, key = heads(2, 4, 131, head_dim, dtype), heads(2, num_kv_heads, 150, head_dim, dtype)
    expected = summary_from_qk_reference(query, key)
    rows = summary_from_logsumexp(query, key, expected.logsumexp.float())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(rows.diagonal.double(), expected.diagonal, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(rows.first_token.double(), expected.first_token, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(rows.aggregates, head_aggregates(rows.diagonal), rtol=1e-4, atol=1e-6)
    alone = diagonal_from_logsumexp(query, key, expected.logsumexp.float())
    torch.testing.assert_close(alone, rows.diagonal, rtol=1e-6, atol=1e-7)


OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "top left": {"is_causal": True, "causal_alignment": "top_left"},
    "window": {"window_size": (70, 3)},
    "softcap": {"softcap": 2.0, "is_causal": True},
    "sinks": {"sinks": torch.linspace(-2, 3, 4)},
    "alibi": {"alibi_slopes": torch.linspace(0.01, 0.1, 4), "is_causal": True},
    "bias": {"bias": torch.linspace(-1, 1, 300 * 333).view(300, 333)},
    "bool bias": {"bias": torch.arange(300 * 333).view(300, 333) % 3 > 0},
    "padding": {"key_mask": torch.arange(666).view(2, 333) % 5 > 0, "is_causal": True},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("name", OPTIONS)
def test_diagonal_and_summary_from_qk(dtype, head_dim, name):
    options = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in OPTIONS[name].items()}
    query, key = heads(2, 4, 300, head_dim, dtype), heads(2, 2, 333, head_dim, dtype)
    expected, actual = summary_from_qk_reference(query, key, **options), summary_from_qk(query, key, **options)
    tolerance = 5 * TOLERANCE[dtype]
    for field in ("diagonal", "first_token", "logsumexp", "row_entropy", "row_max_logit"):
        have, want = getattr(actual, field).double(), getattr(expected, field)
        torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance, msg=lambda text, field=field: f"{field}: {text}")
    alone = diagonal_from_qk(query, key, **options)
    torch.testing.assert_close(alone, actual.diagonal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "sinks"])  # the log-sum-exp holds them
def test_passes_over_all_pairs(dtype, head_dim, name):
    options = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in OPTIONS[name].items()}
    query, key = heads(2, 4, 300, head_dim, dtype), heads(2, 2, 333, head_dim, dtype)
    query_mask = torch.rand(2, 300, device="cuda") > 0.3
    assert_passes(query, key, rows_of(query, key, options), options, query_mask, tolerance=5 * max(TOLERANCE[dtype], 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_small_calls_of_several_layers(dtype, biased):
    layers = range(5)
    queries, keys = [heads(2, 4, 3, 64, dtype) for _ in layers], [heads(2, 2, 20 + n, 64, dtype)[:, :, :20] for n in layers]
    biases = [torch.randn(2, 1, 3, 20, device="cuda") for _ in layers] if biased else []
    added = biases or [None] * len(queries)
    given = list(zip(queries, keys, added, strict=True))
    lses = [dense_logits(query, key, scale=0.1, bias=bias).logsumexp(-1).float() for query, key, bias in given]
    found = small_calls._calls_op(queries, keys, lses, biases, 0.1, [17, 16, 17, 3, 0], None, False)
    for (query, key, bias), lse, offset, one in zip(given, lses, (17, 16, 17, 3, 0), found, strict=True):
        expected = diagonal_from_logsumexp_reference(query, key, lse, scale=0.1, bias=bias, kv_offset=offset)
        torch.testing.assert_close(one.double(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_keys_and_packed_texts(dtype):
    query, key = heads(1, 4, 300, 64, dtype), heads(1, 2, 300, 64, dtype)
    edges = torch.tensor([0, 100, 100, 300], dtype=torch.int32, device="cuda")
    lse = dense_logits(query, key).logsumexp(-1).float()
    index = torch.randint(0, 300, (1, 4, 300), device="cuda")
    for options in ({"index": -1}, {"index": index}, {"index": -2, "cu_seqlens_q": edges, "cu_seqlens_k": edges}):
        expected = diagonal_from_logsumexp_reference(query, key, lse, **options)
        actual = diagonal_from_logsumexp(query, key, lse, **options)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_packed_sequences():
    edges = torch.tensor([0, 100, 100, 333], dtype=torch.int32, device="cuda")
    query, key = heads(1, 4, 333, 64, torch.bfloat16), heads(1, 2, 333, 64, torch.bfloat16)
    expected = summary_from_qk_reference(query, key, cu_seqlens_q=edges, is_causal=True)
    actual = diagonal_from_qk(query, key, cu_seqlens_q=edges, is_causal=True, max_seqlen=233)
    torch.testing.assert_close(actual.double(), expected.diagonal, rtol=1e-3, atol=1e-3)  # bfloat16 products


@pytest.mark.parametrize("convention", [0.0, math.inf, -math.inf])
def test_dead_rows_are_zero_under_every_convention(convention):
    query = heads(2, 2, 65, 64, torch.float16)
    alive = torch.rand(2, 65, device="cuda") > 0.3
    logsumexp = dense_logits(query, query).logsumexp(-1).float().masked_fill(~alive[:, None], convention)
    actual = diagonal_from_logsumexp(query, query, logsumexp, row_mask=alive)
    expected = summary_from_qk_reference(query, query).diagonal * alive[:, None]
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)  # float16 products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diagonal_from_weights(dtype):
    weights = torch.randn(2, 12, 131, 140, device="cuda").softmax(-1).to(dtype)
    rows = summary_from_weights(weights)
    torch.testing.assert_close(rows.diagonal.double(), diagonal_from_weights_reference(weights), rtol=0, atol=0)
    torch.testing.assert_close(rows.aggregates, head_aggregates(rows.diagonal), rtol=1e-4, atol=1e-6)


def test_merge_by_token_is_right_deterministic_and_never_waits():
    ids = torch.randint(-1, 40, (4, 700), device="cuda")
    ids[:, :300] = 7  # one segment longer than a chunk
    diagonal = 1e-4 + 1e-7 * torch.randn(4, 3, 700, device="cuda")
    first, second = TokenState.empty(40, 3, "cuda"), TokenState.empty(40, 3, "cuda")
    merge_by_token(first, ids, diagonal)  # compiles
    with no_waiting():
        merge_by_token(second, TokenOrder.of(ids), diagonal)
    expected = merge_by_token_reference(TokenState.empty(40, 3), ids.cpu(), diagonal.cpu())
    for one, two, want in zip(first, second, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one.double().cpu(), want.double(), rtol=1e-11, atol=1e-13)


def test_no_operator_waits_for_the_device():
    query = heads(1, 4, 300, 64, torch.bfloat16)
    logsumexp, weights = torch.zeros(1, 4, 300, device="cuda"), torch.rand(1, 4, 300, 300, device="cuda")

    def everything() -> None:
        summary_from_logsumexp(query, query, logsumexp)
        summary_from_qk(query, query, is_causal=True)
        summary_from_weights(weights)
        received_from_logsumexp(query, query, logsumexp, is_causal=True)
        mass_from_logsumexp(query, query, logsumexp, weights[0, 0, :, :3], is_causal=True)
        small_calls._calls_op([query] * 2, [query] * 2, [logsumexp] * 2, [], 0.1, [0, 0], None, False)

    everything()
    with no_waiting():
        everything()


def test_offsets_past_2_to_the_31():
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    storage = torch.empty(66000, 66000, dtype=torch.float16, device="cuda")
    key = storage.as_strided((1, 1, 66000, 64), (0, 0, 66000, 1))
    key.copy_(torch.randn(1, 1, 66000, 64, device="cuda"))
    logsumexp = torch.full((1, 1, 66000), 12.0, device="cuda")
    expected = torch.exp(key.float().square().sum(-1) / 8 - 12).clamp(max=1)
    torch.testing.assert_close(diagonal_from_logsumexp(key, key, logsumexp), expected, rtol=1e-4, atol=1e-6)


def test_compiles_fullgraph_with_inductor():
    query = heads(1, 4, 130, 64, torch.float32)

    def step(query):
        return diagonal_from_qk(query * 2, query, is_causal=True) + 1

    torch.testing.assert_close(torch.compile(step, fullgraph=True)(query), step(query))
