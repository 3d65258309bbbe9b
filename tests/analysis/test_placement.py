"""Models that accelerate spreads over devices, weights on the disk among them."""

import numpy as np
import pytest
import torch

from attviz.analysis import analyze
from attviz.analysis.fingerprint import weights_digest
from attviz.analysis.placement import input_device

TEXTS = ["the old bridge", "match", "storms"]


@pytest.fixture
def offloaded(classifier, tmp_path):
    pytest.importorskip("accelerate")
    classifier.save_pretrained(tmp_path / "model")
    parts = {
        "bert.embeddings": "disk",
        "bert.encoder.layer.0": "cpu",
        "bert.encoder.layer.1": "disk",
        "bert.pooler": "cpu",
        "classifier": "cpu",
    }
    return type(classifier).from_pretrained(tmp_path / "model", device_map=parts, offload_folder=tmp_path / "offloaded").eval()


def test_a_model_with_weights_on_the_disk_gives_the_same_archive(classifier, tokenizer, offloaded, tmp_path):
    assert any(parameter.is_meta for parameter in offloaded.parameters())
    found = analyze(offloaded, tokenizer, TEXTS, archive=tmp_path / "run", progress=False)
    expected = analyze(classifier, tokenizer, TEXTS, progress=False)
    for one, other in zip(found.documents, expected.documents, strict=True):
        np.testing.assert_array_equal(one.diagonal, other.diagonal)


def test_its_weights_are_hashed_where_they_are_kept(classifier, offloaded):
    assert weights_digest(offloaded) == weights_digest(classifier)
    with torch.no_grad():
        classifier.bert.encoder.layer[1].output.dense.weight[0, 0] += 1e-3
    try:
        assert weights_digest(offloaded) != weights_digest(classifier)
    finally:
        with torch.no_grad():
            classifier.bert.encoder.layer[1].output.dense.weight[0, 0] -= 1e-3


def test_inputs_go_where_the_model_runs(classifier, offloaded):
    assert input_device(offloaded) == torch.device("cpu")
    assert input_device(classifier) == torch.device("cpu")
    assert input_device(torch.nn.Linear(1, 1, device="meta")) == torch.device("cpu")
