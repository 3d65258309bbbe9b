"""A stopped run is taken up as the same run, or refused with the difference named: 16 kinds of changed halves."""

import copy
import json
import os

import numpy as np
import pytest
import torch

import attviz
from attviz import metrics
from attviz.analysis import analyze, metric_states
from attviz.errors import ArgumentError, FormatError
from attviz.io import load, save
from attviz.records import Analysis, Document

TEXTS = ["the old bridge", "match", "a good film , a bad film .", "storms", "the river bank"]
LABELS = [2, 1, 0, 2, 2]
NAMES = [f"n{n}" for n in range(5)]


def run(model, tokenizer, path, **changes):
    options = {"labels": LABELS, "names": NAMES, "batch_size": 2, "progress": False, "archive": path}
    texts = changes.pop("texts", TEXTS)
    return analyze(model, tokenizer, texts, **(options | changes))


def stopped(model, tokenizer, path, forward=2, **changes):
    """Half a run: Ctrl-C at the n-th forward."""
    left = [forward]

    def stop(*_):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(model, tokenizer, path, **changes)
    finally:
        handle.remove()
    assert path.with_name(path.name + ".part").is_dir()


def trained_on(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[7, 9] += 1e-3  # one value, deep inside a matrix
    return other


def buffered(model):
    other = copy.deepcopy(model)
    other.register_buffer("shift", torch.ones(3))
    return other


def configured(model, name, value):
    other = copy.deepcopy(model)
    setattr(other.config, name, value)
    return other


def eps(model):
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3
    return other


def other_tokenizer(tokenizer):
    from tokenizers import normalizers

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return other


CHANGES = {
    "one weight": (lambda m, t: (trained_on(m), t, {}), "weights"),
    "a buffer": (lambda m, t: (buffered(m), t, {}), "weights"),
    "type of the weights": (lambda m, t: (copy.deepcopy(m).bfloat16(), t, {}), "weights"),
    "activation in the configuration": (
        lambda m, t: (configured(m, "hidden_act", "relu"), t, {}),
        r"config.hidden_act: was 'gelu', now 'relu'",
    ),
    "epsilon in the configuration": (
        lambda m, t: (configured(m, "layer_norm_eps", 1e-3), t, {}),
        "config.layer_norm_eps: was 1e-12, now 0.001",
    ),
    "epsilon in the modules": (lambda m, t: (eps(m), t, {}), "structure"),
    "attention implementation": (lambda m, t: (_eager(m), t, {}), "attention: was 'sdpa', now 'eager'"),
    "tokenizer": (lambda m, t: (m, other_tokenizer(t), {}), "tokenizer"),
    "a text": (lambda m, t: (m, t, {"texts": [*TEXTS[:-1], "the town"]}), "texts: was '5, sha256"),
    "order of the texts": (lambda m, t: (m, t, {"texts": TEXTS[::-1]}), "texts: was"),
    "limit": (lambda m, t: (m, t, {"texts": TEXTS[:4], "labels": LABELS[:4], "names": NAMES[:4]}), r"texts: was '5, .*, now '4, "),
    "a label": (lambda m, t: (m, t, {"labels": [0, *LABELS[1:]]}), r"\(labels: was"),
    "order of the labels": (lambda m, t: (m, t, {"label_names": ["town", "sport", "film"]}), "label_names"),
    "a name": (lambda m, t: (m, t, {"names": [*NAMES[:-1], "x"]}), r"\(names: was"),
    "length": (lambda m, t: (m, t, {"max_length": 9}), "max_length: was '24', now '9'"),
    "batch size": (lambda m, t: (m, t, {"batch_size": 3}), "batch_size: was '2', now '3'"),
    "layers": (lambda m, t: (m, t, {"layers": [0]}), r"layers: was 'None', now '\[0\]'"),
    "precision": (lambda m, t: (m, t, {"precision": "float32"}), "precision: was 'float16', now 'float32'"),
    "metrics": (lambda m, t: (m, t, {"metrics": [metrics.HeadStatistics()]}), r"metrics: was '\[\]', now .*HeadStatistics"),
}


def _eager(model):
    other = (
        type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    )  # transformers 4.57 cannot switch BERT
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("kind", CHANGES)
def test_another_half_is_refused_and_the_difference_named(classifier, tokenizer, tmp_path, kind):
    change, message = CHANGES[kind]
    stopped(classifier, tokenizer, tmp_path / "run")
    model, own, options = change(classifier, tokenizer)
    with pytest.raises(
        ArgumentError, match=rf"holds a stopped run that differs from this one \(.*{message.removeprefix(chr(92) + '(')}.*remove the folder"
    ):
        run(model, own, tmp_path / "run", **options)
    run(classifier, tokenizer, tmp_path / "run")  # and the true other half still fits
    run(classifier, tokenizer, tmp_path / "whole")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_other_versions_are_named(classifier, tokenizer, tmp_path, monkeypatch):
    stopped(classifier, tokenizer, tmp_path / "run")
    monkeypatch.setattr(attviz, "__version__", "9.9")
    with pytest.raises(ArgumentError, match=r"versions\.attviz: was '[^']+', now '9\.9'"):
        run(classifier, tokenizer, tmp_path / "run")


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["the old bridge", "goal", *TEXTS[2:]], LABELS, "document 'n1' has changed: its text"),
        (TEXTS, [2, 0, 0, 2, 2], "document 'n1' has changed: its label"),
        (["the old bridge"], LABELS[:1], "document 'n0' is where the stopped run had another one"),
        (["match"], LABELS[1:2], "document 'n0' is where the stopped run had another one"),
    ],
)
def test_a_generator_is_compared_as_it_is_read(classifier, tokenizer, tmp_path, texts, labels, message):
    stopped(classifier, tokenizer, tmp_path / "run", texts=iter(TEXTS), labels=iter(LABELS), names=iter(NAMES))
    with pytest.raises(ArgumentError, match=message):
        run(classifier, tokenizer, tmp_path / "run", texts=iter(texts), labels=iter(labels), names=iter(NAMES[: len(texts)]))
    run(classifier, tokenizer, tmp_path / "run", texts=iter(TEXTS), labels=iter(LABELS), names=iter(NAMES))


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_a_resumed_run_gives_the_same_statistics(classifier, tokenizer, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(metric_states, "_SECONDS", seconds)
    monkeypatch.setattr(metric_states, "_SHARE", 0)
    whole, halves = metrics.HeadStatistics(), metrics.HeadStatistics()
    run(classifier, tokenizer, tmp_path / "whole", metrics=whole)
    stopped(classifier, tokenizer, tmp_path / "run", forward=3, metrics=metrics.HeadStatistics())
    halves.update(torch.rand(2, 1, 4, 3))  # whatever it has seen before is not part of the run
    run(classifier, tokenizer, tmp_path / "run", metrics=halves)
    for name in ("mean", "std", "min", "max"):
        assert torch.equal(getattr(whole.compute(), name), getattr(halves.compute(), name))
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_metric_that_cannot_be_restored_is_refused(classifier, tokenizer, tmp_path):
    class Count:
        def update(self, record):
            pass

    stopped(classifier, tokenizer, tmp_path / "run", metrics=Count())
    with pytest.raises(ArgumentError, match=r"whose metrics \(Count\) cannot be restored: each needs save_state"):
        run(classifier, tokenizer, tmp_path / "run", metrics=Count())


def test_a_finished_archive_is_replaced_only_when_asked(classifier, tokenizer, tmp_path):
    path = tmp_path / "run"
    run(classifier, tokenizer, path)
    before = path.read_bytes()
    for again in (lambda: run(classifier, tokenizer, path), lambda: save(load(path), path)):
        with pytest.raises(ArgumentError, match="already exists.*--overwrite"):
            again()
    assert path.read_bytes() == before
    run(classifier, tokenizer, path, texts=TEXTS[:2], labels=None, names=None, overwrite=True)
    assert len(load(path).documents) == 2


def test_a_stopped_run_over_a_finished_archive_leaves_it_until_the_new_one_is_whole(classifier, tokenizer, tmp_path):
    path = tmp_path / "run"
    run(classifier, tokenizer, path, texts=["match"], labels=None, names=None)
    stopped(classifier, tokenizer, path, overwrite=True)
    assert load(path).documents[0].text == "match"
    with pytest.raises(ArgumentError, match="already exists"):
        run(classifier, tokenizer, path)
    run(classifier, tokenizer, path, overwrite=True)
    assert len(load(path).documents) == 5


def test_saving_beside_a_stopped_run_leaves_it_alone(classifier, tokenizer, tmp_path):
    path = tmp_path / "run"
    stopped(classifier, tokenizer, path)
    before = sorted((entry.name, entry.read_bytes()) for entry in (tmp_path / "run.part").iterdir())
    save(Analysis(("a",), [Document("x", ("x",), np.ones((1, 1, 1), np.float16))]), path)
    assert sorted((entry.name, entry.read_bytes()) for entry in (tmp_path / "run.part").iterdir()) == before


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "older attviz"])
def test_a_folder_that_is_not_ours_stays_as_it_is(classifier, tokenizer, tmp_path, kind):
    part, theirs = tmp_path / "run.part", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.bin").write_text("years")
    if kind == "link":
        part.symlink_to(theirs)
    elif kind == "file":
        part.write_text("mine")
    else:
        part.mkdir()
        if kind == "folder":
            (part / "diagonal.bin").write_text("mine")
        if kind == "older attviz":
            (part / "run.json").write_text(json.dumps({"model": "m", "precision": "float16"}))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ArgumentError, match=r"run\.part: exists and is not a stopped run of attviz, so it is left alone"):
        run(classifier, tokenizer, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_somebody_put_into_our_folder_is_not_removed(classifier, tokenizer, tmp_path):
    stopped(classifier, tokenizer, tmp_path / "run")
    (tmp_path / "run.part" / "notes.txt").write_text("mine")
    run(classifier, tokenizer, tmp_path / "run")
    assert (tmp_path / "run.part" / "notes.txt").read_text() == "mine"
    assert len(load(tmp_path / "run").documents) == 5


def test_a_link_inside_a_stopped_run_is_not_followed(classifier, tokenizer, tmp_path):
    stopped(classifier, tokenizer, tmp_path / "run")
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "run.part" / "diagonal.bin").unlink()
    (tmp_path / "run.part" / "diagonal.bin").symlink_to(tmp_path / "theirs")
    with pytest.raises((FormatError, OSError)):
        run(classifier, tokenizer, tmp_path / "run")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_child_forked_from_a_run_cannot_write_into_it(tmp_path):
    from attviz.io.partial import PartialArchive

    document = Document("x", ("x",), np.ones((1, 1, 1), np.float16))
    with PartialArchive(tmp_path / "run", {}) as growing:
        growing.append([(0, document)], ("a",))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                growing.append([(1, document)], ("a",))
            except FormatError as error:
                code = 0 if "only the process that opened this archive may write to it" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        growing.finish(layers=("a",), label_names=None, model_name="")
    assert len(load(tmp_path / "run").documents) == 1
