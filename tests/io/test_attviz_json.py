"""The AttViz JSON: files of the original open here, ours keep their values, every fault is named with its path."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, FormatError
from attviz.io import analysis_of, attviz_documents, parse_attviz, read_attviz_json, write_attviz_json
from attviz.records import Analysis, AttvizDocument, AttvizSet, AttvizVector, Document


def original(**change):
    """A document as the original tool writes it."""
    vector = {"name": 0, "vectors": ["0.8420699834823608", "0.3135645389556885"], "color": "#0ab1c2"}
    one_set = {"tokens": ["w", "##mc"], "attention_vectors": [vector]}
    activations = [{"value": "0.75", "name": "business"}, {"value": "0.25", "name": "sport"}]
    return {"text": "wmc", "sets": [one_set], "output_activations": activations} | change


def changed(path, value):
    """The original with one place replaced: ``sets.0.tokens.1``."""
    root = json.loads(json.dumps(original()))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = root
    for part in way:
        place = place[part]
    place[last] = value
    return [root]


def test_a_file_of_the_original_opens():
    (document,) = parse_attviz([original()])
    assert document.sets[0].tokens == ("w", "##mc")
    assert document.sets[0].vectors[0] == AttvizVector((0.8420699834823608, 0.3135645389556885), 0, "#0ab1c2")
    assert document.activations == (("business", "0.75"), ("sport", "0.25"))


def test_the_older_form_with_numbered_keys_opens_in_their_order():
    root = {str(n): original(text=f"text {n}") for n in (10, 2, 0)}
    assert [document.text for document in parse_attviz(root)] == ["text 0", "text 2", "text 10"]


def test_options_are_read():
    vector = {"name": "mean", "visible": False, "vectors": [0, 1]}
    one_set = {"name": "bert", "visible": False, "tokens": ["a", "b"], "attention_vectors": [vector]}
    (document,) = parse_attviz(
        [{"name": "first", "text": "a b", "sets": [one_set], "hilight": {"block": 1, "vectors": 2}, "source": "ours"}]
    )
    assert document.name == "first"
    assert document.highlight == (1, 2)
    assert document.extra == {"source": "ours"}
    assert document.sets[0] == AttvizSet(("a", "b"), (AttvizVector((0.0, 1.0), "mean", None, False),), "bert", False)


@pytest.mark.parametrize(("color", "read"), [("#ABC", "#aabbcc"), ("#ab1c2", "#0ab1c2"), ("#7", "#000007"), ("#0AB1C2", "#0ab1c2")])
def test_colours_that_lack_zeros_are_completed(color, read):
    (document,) = parse_attviz(changed("sets.0.attention_vectors.0.color", color))
    assert document.sets[0].vectors[0].color == read


PROBABILITY = st.floats(0, 1, width=32)
NAME = st.none() | st.text()


@st.composite
def documents(draw):
    tokens = tuple(draw(st.lists(st.text(), max_size=4)))
    values = st.tuples(*[PROBABILITY] * len(tokens))
    color = st.none() | st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06x}")
    vectors = st.builds(AttvizVector, values, st.none() | st.text() | st.integers(), color, st.booleans())
    one_set = AttvizSet(tokens, tuple(draw(st.lists(vectors, max_size=3))), draw(NAME), draw(st.booleans()))
    activations = st.lists(st.tuples(NAME, st.floats(-1e6, 1e6) | PROBABILITY.map(str)), max_size=3).map(tuple)
    highlight = st.none() | st.tuples(st.integers(), st.integers())
    return AttvizDocument(
        draw(st.text()), (one_set,), draw(NAME), draw(activations), draw(highlight), draw(st.dictionaries(st.just("extra"), st.text()))
    )


@given(st.lists(documents(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_writing_then_reading_gives_the_same_documents(tmp_path_factory, many):
    path = write_attviz_json(many, tmp_path_factory.mktemp("json") / "a.json")
    assert read_attviz_json(path) == tuple(many)


def test_values_are_written_as_the_original_writes_them(tmp_path):
    """As strings, the shortest that give the same float32: a reader of the original calls ``float`` on each."""
    vector = AttvizVector((float(np.float32(0.1)), 1.0))
    path = write_attviz_json([AttvizDocument("a b", (AttvizSet(("a", "b"), (vector,)),))], tmp_path / "a.json")
    (written,) = json.loads(path.read_text(encoding="utf-8"))
    assert written["sets"][0]["attention_vectors"][0]["vectors"] == ["0.1", "1.0"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("text", "the root must be a list of documents, got a string"),
        ({"text": "a"}, "keys must be '0', '1', ...; got 'text'. Is it one document without its list"),
        ([1], r"\[0\]: must be an object, got a whole number"),
        ([{}], r"\[0\].text: is missing"),
        (changed("text", None), r"\[0\].text: must be a string, got null"),
        (changed("sets", {}), r"\[0\].sets: must be a list, got an object"),
        (changed("sets.0.tokens.1", 7), r"\[0\].sets\[0\].tokens\[1\]: must be a string, got a whole number"),
        (
            changed("sets.0.attention_vectors.0.vectors.1", "abc"),
            r"\[0\].sets\[0\].attention_vectors\[0\].vectors\[1\]: not a number: 'abc'",
        ),
        (changed("sets.0.attention_vectors.0.vectors.1", "nan"), r"vectors\[1\]: not a number: 'nan'"),
        (changed("sets.0.attention_vectors.0.vectors.1", "1e999"), r"vectors\[1\]: must be finite, got '1e999'"),
        (changed("sets.0.attention_vectors.0.vectors.1", 10**400), r"vectors\[1\]: must be finite"),
        (changed("sets.0.attention_vectors.0.vectors.1", True), r"vectors\[1\]: not a number but true or false"),
        (changed("sets.0.attention_vectors.0.vectors.0", 1.5), r"vectors\[0\]: must be from 0 to 1, got 1.5"),
        (
            changed("sets.0.attention_vectors.0.vectors", ["0.1"]),
            r"attention_vectors\[0\].vectors: must have one value per token, but has 1 values for 2",
        ),
        (changed("sets.0.attention_vectors.0.color", "red"), r"color: must be like '#0072b2', got 'red'"),
        (changed("sets.0.attention_vectors.0.name", 1.5), r"name: must be a string or a whole number, got a number"),
        (changed("sets.0.attention_vectors.0.visible", 1), r"visible: must be true or false, got a whole number"),
        (changed("output_activations.1.value", []), r"output_activations\[1\].value: not a number but a list"),
        (changed("output_activations.1", {}), r"output_activations\[1\].value: is missing"),
        (changed("hilight", {"block": 1}), r"hilight.vectors: is missing"),
    ],
)
def test_a_fault_is_named_with_its_path(root, message):
    with pytest.raises(FormatError, match=message):
        parse_attviz(root)


def test_files_that_are_no_json_or_too_large_or_too_deep_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for content, message in [(b'[{"text": "a"', "not JSON"), (b"\xff\xfe", "not JSON"), (b"[" * 200_000, "nested too deeply|not JSON")]:
        path.write_bytes(content)
        with pytest.raises(FormatError, match=rf"a.json: ({message})"):
            read_attviz_json(path)
    with pytest.raises(FormatError, match="200000 bytes, more than max_bytes=100"):
        read_attviz_json(path, max_bytes=100)


def test_a_fault_in_writing_leaves_no_file(tmp_path):
    bad = AttvizDocument("a", (AttvizSet(("a",), (AttvizVector((0.1, 0.2)),)),))
    with pytest.raises(FormatError, match="has 2 values for 1 tokens"):
        write_attviz_json([bad], tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def analysis():
    values = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    document = Document("a b", ("a", "b"), values, name="first", prediction=1, probabilities=np.array([0.25, 0.75], dtype=np.float32))
    return Analysis(("l0", "l1"), [document], ("x", "y"), "m")


def test_an_analysis_becomes_attviz_documents_and_back():
    written = list(attviz_documents(analysis(), layers="l1", heads=[2, 0]))
    assert [vector.name for vector in written[0].sets[0].vectors] == ["layer 1 head 2", "layer 1 head 0"]
    back = analysis_of(written)
    np.testing.assert_array_equal(back.documents[0].diagonal[0], analysis().documents[0].diagonal[[1, 1], [2, 0]])
    assert (back.label_names, back.documents[0].prediction, back.documents[0].name) == (("x", "y"), 1, "first")
    np.testing.assert_array_equal(back.documents[0].probabilities, [0.25, 0.75])
    assert len(next(attviz_documents(analysis())).sets[0].vectors) == 6


def test_documents_that_do_not_fit_together_are_named():
    one, other = parse_attviz([original()])[0], parse_attviz([original(output_activations=[{"name": "z", "value": 1}])])[0]
    with pytest.raises(FormatError, match=r"\[1\].output_activations: must name the same classes as before \(business, sport\), got z"):
        analysis_of([one, other])
    more = AttvizDocument("a", (AttvizSet(("a",), (AttvizVector((0.1,)), AttvizVector((0.2,)))),))
    with pytest.raises(FormatError, match=r"\[1\].sets\[0\]: must have 1 vectors like the sets before, has 2"):
        analysis_of([one, more])
    with pytest.raises(ArgumentError, match="heads contains 5, but the model has heads 0 to 2"):
        list(attviz_documents(analysis(), heads=[5]))
