import numpy as np

from attviz.records import AttvizDocument, AttvizSet, AttvizVector
from attviz.viewer.attviz_json import attviz_entry, class_names
from attviz.viewer.codec import decode


def test_entry_keeps_names_colours_visibility_and_every_bit():
    values = (1 / 3, 2 / 3)
    vectors = (AttvizVector(values, "a", "#102030", False), AttvizVector((0.1, 0.2)))
    document = AttvizDocument(
        "x y", (AttvizSet(("x", "y"), vectors, "set", False), AttvizSet(("z",), (AttvizVector((1.0,), 3),))), "name", highlight=(1, 0)
    )
    entry = attviz_entry(document, 0, [])
    first, second = entry.chunk["sets"]
    assert first["rows"] == [{"name": "a", "color": "#102030", "visible": False}, {}]
    assert (first["name"], first["visible"], second["rows"]) == ("set", False, [{"name": 3}])
    assert entry.chunk["highlight"] == [1, 0]
    back = decode(entry.chunk["data"], "f32")
    np.testing.assert_array_equal(back, np.array([*values, 0.1, 0.2, 1.0], np.float32))
    assert (entry.row["name"], entry.row["tokens"]) == ("name", 2)


def test_a_document_without_sets_has_no_mean():
    entry = attviz_entry(AttvizDocument("only text"), 0, [])
    assert (entry.row["tokens"], entry.row["mean"], entry.chunk["sets"]) == (0, None, [])


def test_classes_are_joined_over_documents():
    one = AttvizDocument("a", activations=(("x", 1.0), ("y", 0.0)))
    two = AttvizDocument("b", activations=(("y", 1.0), ("z", 0.0)))
    classes = class_names([one, two])
    assert classes == ["x", "y", "z"]
    assert attviz_entry(two, 1, classes).row == {
        "name": "",
        "text": "b",
        "tokens": 0,
        "mean": None,
        "probabilities": [None, 1.0, 0.0],
        "prediction": 1,
    }
