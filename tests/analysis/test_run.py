"""``attviz.analyze`` against the model run text by text, and against everything that can go wrong."""

import numpy as np
import pytest
import torch

import attviz
from attviz.analysis import analyze
from attviz.errors import ArgumentError
from attviz.io import load
from attviz.io.archive import ArchiveDocuments


def one_by_one(model, tokenizer, text):
    """Diagonals [num_layers, num_heads, num_tokens] and logits of one text, from the model's own eager attention."""
    inputs = tokenizer(text, return_tensors="pt")
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = model(**inputs, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return torch.stack([weights[0].diagonal(dim1=-2, dim2=-1) for weights in output.attentions]), output.logits[0]


def quiet(model, tokenizer, texts, **options):
    return analyze(model, tokenizer, texts, **({"progress": False, "batch_size": 2, "precision": "float32"} | options))


def test_every_text_has_the_diagonals_and_classes_of_the_model(classifier, tokenizer, texts):
    analysis = quiet(classifier, tokenizer, texts, labels=["town", "film", None, "sport", "town", None])
    assert analysis.label_names == ("film", "sport", "town")
    assert [document.text for document in analysis.documents] == texts
    assert [document.label for document in analysis.documents] == [2, 0, None, 1, 2, None]
    assert len(analysis.layers) == 2
    for document in analysis.documents:
        expected, logits = one_by_one(classifier, tokenizer, document.text)
        np.testing.assert_allclose(document.diagonal, expected, atol=1e-6)
        np.testing.assert_allclose(document.probabilities, logits.softmax(-1), atol=1e-6)
        assert document.prediction == int(logits.argmax())
        assert document.tokens == tuple(tokenizer.convert_ids_to_tokens(document.token_ids))


def test_offsets_and_special_tokens_point_into_the_text(classifier, tokenizer):
    document = quiet(classifier, tokenizer, ["the storms ."]).documents[0]
    assert document.tokens == ("[CLS]", "the", "storm", "##s", ".", "[SEP]")
    assert [document.text[begin:end] for begin, end in document.offsets] == ["", "the", "storm", "s", ".", ""]
    assert document.special.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_and_padding_do_not_count(classifier, tokenizer, texts, batch_size):
    expected = quiet(classifier, tokenizer, texts, batch_size=1)
    for one, other in zip(quiet(classifier, tokenizer, texts, batch_size=batch_size).documents, expected.documents, strict=True):
        np.testing.assert_allclose(one.diagonal, other.diagonal, atol=1e-6)


def test_a_generator_is_read_as_it_is_needed(classifier, tokenizer, texts):
    analysis = quiet(classifier, tokenizer, (text for text in texts), names=(f"text {n}" for n in range(6)))
    assert [document.name for document in analysis.documents] == [f"text {n}" for n in range(6)]


def test_texts_are_drawn_window_by_window_and_never_all_held(classifier, tokenizer):
    drawn, at_forward = [], []

    def endless():
        for number in range(200):
            drawn.append(number)
            yield "match"

    handle = classifier.register_forward_pre_hook(lambda *_: at_forward.append(len(drawn)))
    analysis = quiet(classifier, tokenizer, endless(), batch_size=1)
    handle.remove()
    assert len(analysis.documents) == 200
    assert at_forward[0] == 64  # a window of 64 batches is sorted by length, no more
    assert at_forward[64] == 128


def test_long_texts_are_truncated_or_split_as_asked(classifier, tokenizer):
    words = "the old bridge over the river bank was closed so late in town"
    short = quiet(classifier, tokenizer, [words], max_length=6).documents
    assert [document.tokens for document in short] == [("[CLS]", "the", "old", "bridge", "over", "[SEP]")]
    pieces = quiet(classifier, tokenizer, [words], max_length=8, long="split", overlap=2).documents
    assert [document.tokens[1:-1] for document in pieces][:2] == [tuple(words.split()[:6]), tuple(words.split()[4:10])]
    assert [document.name for document in pieces] == ["0[0]", "0[1]", "0[2]"]
    for document in pieces:
        assert document.text in words
        assert [document.text[begin:end] for begin, end in document.offsets[1:-1]] == list(document.tokens[1:-1])


def test_texts_are_divided_at_the_delimiter(classifier, tokenizer):
    documents = quiet(classifier, tokenizer, ["the bridge ||| a film |||  ", "match"], delimiter="|||", labels=[2, 1]).documents
    assert [(document.text.strip(), document.name, document.label) for document in documents] == [
        ("the bridge", "0[0]", 2),
        ("a film", "0[1]", 2),
        ("match", "1", 1),
    ]


def test_chosen_layers_only(classifier, tokenizer):
    analysis = quiet(classifier, tokenizer, ["match"], layers=[1])
    assert [layer.split(".")[3] for layer in analysis.layers] == ["1"]
    assert analysis.documents[0].diagonal.shape[0] == 1


def test_metrics_are_fed_along_the_way(classifier, tokenizer, texts):
    seen = []

    class Count:
        def update(self, record):
            seen.append((record.layer_index, int(record.query_mask.sum())))

    quiet(classifier, tokenizer, texts, metrics=Count())
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert [sum(count for layer, count in seen if layer == index) for index in (0, 1)] == [tokens, tokens]


def test_the_model_is_left_as_it_was(classifier, tokenizer):
    classifier.train()
    classifier.bert.embeddings.eval()
    modes = [module.training for module in classifier.modules()]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in classifier.modules())
    try:
        quiet(classifier, tokenizer, ["match"])
        assert [module.training for module in classifier.modules()] == modes
        assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in classifier.modules()) == hooks
    finally:
        classifier.eval()


class StopsAt:
    """A model wrapper that presses Ctrl-C at the n-th forward."""

    def __init__(self, model, forward):
        self.handle = model.register_forward_pre_hook(self)
        self.left = forward

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_stopped_run_is_taken_up_by_the_same_call(classifier, tokenizer, texts, tmp_path):
    path = tmp_path / "run.attviz"
    stop = StopsAt(classifier, 2)
    with pytest.raises(KeyboardInterrupt):
        quiet(classifier, tokenizer, texts, archive=path)
    stop.handle.remove()
    forwards = []
    handle = classifier.register_forward_pre_hook(lambda *_: forwards.append(1))
    resumed = quiet(classifier, tokenizer, texts, archive=path)
    handle.remove()
    assert len(forwards) == 2  # of three batches the first was done
    assert len(resumed.documents) == len(texts)
    quiet(classifier, tokenizer, texts, archive=tmp_path / "whole.attviz")
    assert path.read_bytes() == (tmp_path / "whole.attviz").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.attviz", "whole.attviz"]


def test_an_archive_is_read_lazily_and_a_large_result_stays_on_disk(classifier, tokenizer, texts, tmp_path, monkeypatch):
    analysis = quiet(classifier, tokenizer, texts, archive=tmp_path / "run")
    assert isinstance(analysis.documents, ArchiveDocuments)
    assert len(load(tmp_path / "run").documents) == 6
    monkeypatch.setattr("attviz.analysis.run._IN_MEMORY_BYTES", 0)
    spilled = quiet(classifier, tokenizer, texts)
    path = spilled.documents.path
    assert path.exists()
    assert spilled.documents[3].text == "match"
    del spilled
    assert not path.exists()


def test_a_tokenizer_of_another_model_is_named(config, classifier):
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    big = {f"w{n}": n for n in range(500)} | {"[PAD]": 500, "[UNK]": 501, "[CLS]": 502, "[SEP]": 503, "[MASK]": 504}
    other = BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(vocab=big)._tokenizer)
    with pytest.raises(ArgumentError, match=r"does not fit the model: it produced token id 503, the model has \d+ embeddings"):
        quiet(classifier, other, ["w1"])
    assert isinstance(config, BertConfig)
    assert isinstance(classifier, BertForSequenceClassification)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, r"got one: pass \[text\]"),
        ([None], {}, "text '0' must be a string, got NoneType"),
        (["a"], {"labels": ["music"]}, r"label 'music' must be one of the classes \(film, sport, town\)"),
        (["a"], {"labels": [3]}, "label 3 is outside the 3 classes"),
        (["a", "a"], {"labels": [0]}, "labels must be one per text, got 1 and more texts"),
        (["a"], {"labels": [0, 1]}, "got more labels than texts"),
        (["a"], {"names": []}, "names must be one per text"),
        (["a"], {"label_names": ["x"]}, r"one per class of the model \(3\), got 1: x"),
        (["a"], {"long": "drop"}, "'truncate', 'split'; got 'drop'"),
        (["a"], {"max_length": 99}, "max_length=99 is more than the model accepts .24 tokens."),
        (["a"], {"max_length": 2}, "at least 3"),
        (["a"], {"overlap": 22}, "overlap must be from 0 to max_length - 3 = 21 tokens, got 22"),
        (["a"], {"batch_size": 0}, "batch_size must be at least 1"),
        (["a"], {"precision": "int8"}, "'float32', 'float16', 'u16', 'u8'"),
    ],
)
def test_bad_input_is_named(classifier, tokenizer, texts, options, message):
    with pytest.raises(ArgumentError, match=message):
        quiet(classifier, tokenizer, texts, **options)


def test_no_texts_give_an_empty_analysis(classifier, tokenizer):
    analysis = quiet(classifier, tokenizer, [])
    assert len(analysis.documents) == 0
    assert attviz.Analysis is type(analysis)


def test_the_bar_is_on_stderr(classifier, tokenizer, capsys):
    quiet(classifier, tokenizer, ["match"], progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1/1" in shown.err
