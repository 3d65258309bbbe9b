"""What the recorder does on a GPU with a backend's log-sum-exp; the function itself runs on any device."""

import warnings

import pytest
import torch

from attviz import recording
from attviz.errors import CaptureWarning
from attviz.kernels.references import summary_from_qk_reference
from attviz.records import AttentionCall


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    monkeypatch.setattr(recording, "_sound", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def attention(scale_of_logsumexp: float) -> tuple[AttentionCall, torch.Tensor]:
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    expected = summary_from_qk_reference(query, key, scale=0.5, is_causal=True)
    logsumexp = torch.nn.functional.pad(expected.logsumexp.float() * scale_of_logsumexp, (0, 23), value=torch.inf)
    return AttentionCall("backend", query, key, logsumexp, None, 0.5, None, True), expected.diagonal


def test_a_sound_logsumexp_is_used_without_a_word():
    call, expected = attention(1.0)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            actual = recording._on_gpu(call, call.query, call.key, call.logsumexp)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
    assert recording._sound == {("backend", torch.float32): True}


def test_a_faulty_backend_is_named_once_and_its_diagonals_are_computed_anew():
    call, expected = attention(1.4427)  # base 2 instead of the natural logarithm
    with pytest.warns(CaptureWarning, match=r"log-sum-exp of backend in torch\.float32 is not that of its queries and keys"):
        first = recording._on_gpu(call, call.query, call.key, call.logsumexp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = recording._on_gpu(call, call.query, call.key, call.logsumexp)
    for actual in (first, second):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
