"""A model folder from somebody else: its code is not run, its pickles are not read, what it lacks is named."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch

from attviz.analysis.models import load_model
from attviz.errors import ArgumentError

WITNESS = "open({path!r}, 'w').write('ran')\n"


@pytest.fixture
def folder(classifier, tokenizer, tmp_path):
    place = tmp_path / "model"
    classifier.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize("command", ["analyze", "bench"])
def test_the_code_of_a_model_is_not_run_whatever_stdin_says(folder, tmp_path, command):
    witness = tmp_path / "witness"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForSequenceClassification": "evil.M"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(WITNESS.format(path=str(witness)))
    (tmp_path / "texts.txt").write_text("match\n")
    arguments = {"analyze": [str(folder), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "a.attviz")], "bench": ["--model", str(folder)]}
    shown = subprocess.run(
        [sys.executable, "-m", "attviz", command, *arguments[command]], input="y\nyes\n" * 50, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 2, shown.stderr
    assert "after reading it, allow it with --trust-remote-code" in shown.stderr.splitlines()[-1]
    assert not witness.exists()


def test_pickled_weights_are_read_only_when_asked(folder, classifier, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save(classifier.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ArgumentError, match=r"no safetensors weights. Pickled ones \(\.bin\) can run code: .*--allow-pickle"):
        load_model(str(folder))
    model, _ = load_model(str(folder), allow_pickle=True)
    torch.testing.assert_close(model.classifier.weight, classifier.classifier.weight)


def test_weights_that_the_checkpoint_lacks_are_named(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArgumentError, match=r"lacks 1 weights, which would be random: bert.encoder.layer.1.attention.self.query.weight"):
        load_model(str(folder))


def test_a_missing_head_is_named_and_a_missing_pooler_is_taken_off(config, tokenizer, tmp_path):
    from transformers import BertModel

    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path))
    assert model.pooler is None
    assert model(torch.tensor([[2, 4, 3]])).last_hidden_state.isfinite().all()
    with pytest.raises(ArgumentError, match=r"classifier.bias.*classify=False"):
        load_model(str(tmp_path), classify=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b"[]", b'{"model_type": 7}'])
def test_a_damaged_folder_ends_in_our_error(folder, file, damage):
    (folder / file).write_bytes(damage)
    before = os.environ.copy()
    try:
        load_model(str(folder))
    except ArgumentError as error:
        assert "could not be loaded" in str(error) or "lacks" in str(error)  # noqa: PT017
    assert os.environ == before


def test_nothing_is_asked_on_stdin(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    load_model(str(folder))
