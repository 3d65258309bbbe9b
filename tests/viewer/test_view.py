import html
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import attviz
from attviz.errors import ArgumentError, FormatError
from attviz.records import AttvizDocument, AttvizSet, AttvizVector, Document
from attviz.viewer import view
from tests.text_models import classifier, config, tokenizer  # noqa: F401  # fixtures

VECTOR = AttvizVector((0.5, 0.25))
ATTVIZ = AttvizDocument("a b", (AttvizSet(("a", "b"), (VECTOR,)),), activations=(("x", "0.25"), (None, 0.75)))


def head(page):
    return json.loads(re.search(r'id="attviz-head">(.*?)</script>', page.html)[1])


def test_analysis_becomes_a_page_with_its_classes(analysis):
    found = head(view(analysis))
    assert (found["title"], found["classes"], len(found["documents"])) == ("tiny-model", ["news", "sport"], 4)
    assert found["documents"][0]["label"] == 0
    assert [layer["name"] for layer in found["grid"]["layers"]] == list(analysis.layers)


def test_layers_heads_and_documents_are_cut(analysis):
    found = head(view(analysis, layers=["*.1.*"], heads=[0, 2], documents=slice(1, 3)))
    assert found["grid"] == {"layers": [{"index": 1, "name": "encoder.layer.1.attention"}], "heads": [0, 2]}
    assert [row["name"] for row in found["documents"]] == ["story 1", "story 2"]
    expected = np.concatenate([one.diagonal[1, 2, 1:-1] for one in analysis.documents[1:3]]).mean(dtype=np.float64)
    assert found["overall"]["mean"][1] == pytest.approx(expected, rel=1e-5)


def test_classes_without_names_are_numbered(analysis):
    analysis.label_names = ("news",)
    assert head(view(analysis))["classes"] == ["news", "class 1"]


def test_lazy_documents_are_read_one_at_a_time(analysis):
    class Lazy(list):
        alive = 0

        def __getitem__(self, index):
            Lazy.alive += 1
            return super().__getitem__(index)

    analysis.documents = Lazy(analysis.documents)
    view(analysis)
    assert Lazy.alive == 4


def test_attviz_documents_keep_their_scores():
    found = head(view([ATTVIZ]))
    assert found["classes"] == ["x", "class 1"]
    assert found["documents"][0]["probabilities"] == [0.25, 0.75]
    assert found["documents"][0]["prediction"] == 1


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([], {}, ArgumentError, "needs an Analysis, a Capture, or Documents, got an empty sequence"),
        (3, {}, ArgumentError, "got int"),
        ("run.attviz", {}, ArgumentError, r"source is a path. Use `attviz view FILE -o page.html`"),
        (SimpleNamespace(documents=[], layers=("a",)), {}, ArgumentError, "documents=None keeps none of the 0 documents"),
        (ATTVIZ, {"layers": [0]}, ArgumentError, "layers= does not apply to AttViz documents"),
        (
            AttvizDocument("a", (AttvizSet(("a",), (VECTOR,)),)),
            {},
            FormatError,
            r"\[0\].sets\[0\].attention_vectors\[0\].vectors: 2 values for 1 tokens",
        ),
        (AttvizDocument("a", activations=(("x", "abc"),)), {}, FormatError, r"\[0\].output_activations\[0\].value: not a number: 'abc'"),
        (Document("a", ("a",), np.zeros((1, 1, 1))), {"images": []}, ArgumentError, "images has 0 entries for 1 documents"),
        (Document("a", ("a",), np.zeros((1, 1, 1))), {"max_bytes": 10}, ArgumentError, "more than max_bytes=10"),
    ],
)
def test_bad_input_is_told(source, options, error, message):
    with pytest.raises(error, match=message):
        view(source, **options)


def test_a_capture_names_its_model_and_its_text(classifier, tokenizer):  # noqa: F811
    with attviz.capture(classifier) as cap, torch.no_grad():
        classifier(**tokenizer("the old bridge", return_tensors="pt"))
    found = head(view(cap, tokenizer=tokenizer))
    assert (found["title"], found["model"]) == ("BertForSequenceClassification: the old bridge", "BertForSequenceClassification")
    ids = " ".join(map(str, cap.token_ids[0].tolist()))
    assert head(view(cap))["title"] == f"BertForSequenceClassification: {ids}"
    assert head(view(cap, title="mine"))["title"] == "mine"
    with attviz.capture(classifier, read=[attviz.readings.QueryKey()]) as cap, torch.no_grad():
        classifier(**tokenizer(["the old bridge", "a film"], padding=True, return_tensors="pt"))
    assert head(view(cap, tokenizer=tokenizer))["title"] == "BertForSequenceClassification"


def test_page_saves_shows_and_describes_itself(page, tmp_path):
    path = page.save(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == page.html
    assert repr(page) == "<attviz.Page 'tiny-model': 4 documents, 0.0 MB of data>"
    frame = page._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == page.html
