"""Archives: the same values back, damaged and hostile files named, stopped writers resumed."""

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, FormatError
from attviz.io import load, save
from attviz.io.partial import PartialArchive, text_hash
from attviz.records import Analysis, Document

LAYERS = ("encoder.0", "encoder.1")


def document(text="a b", num_tokens=3, seed=0, **more):
    values = np.random.default_rng(seed).random((2, 4, num_tokens)).astype(np.float32)
    return Document(text=text, tokens=tuple(f"t{n}" for n in range(num_tokens)), diagonal=values, **more)


def analysis(*documents):
    return Analysis(layers=LAYERS, documents=documents, label_names=("x", "y"), model_name="tiny", settings={"max_length": "8"})


def same(one: Document, other: Document) -> bool:
    np.testing.assert_array_equal(one.diagonal.astype(np.float16), other.diagonal.astype(np.float16))
    for name in ("token_ids", "offsets", "special", "probabilities"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b)
    return all(getattr(one, name) == getattr(other, name) for name in ("text", "tokens", "name", "label", "prediction", "grid"))


@given(st.lists(st.tuples(st.text(), st.integers(0, 7)), max_size=5))
@settings(max_examples=40, deadline=None)
def test_save_then_load_gives_the_same_documents(tmp_path_factory, contents):
    documents = [document(text, length, seed=n, name=str(n)) for n, (text, length) in enumerate(contents)]
    path = save(analysis(*documents), tmp_path_factory.mktemp("a") / "run.attviz")
    back = load(path)
    assert (back.layers, back.label_names, back.model_name, back.settings) == (LAYERS, ("x", "y"), "tiny", {"max_length": "8"})
    assert len(back.documents) == len(documents)
    assert all(same(one, other) for one, other in zip(documents, back.documents, strict=True))


def test_every_field_returns(tmp_path):
    full = document(
        token_ids=np.array([5, 6, 7]),
        offsets=np.array([[0, 0], [0, 1], [2, 3]]),
        special=np.array([True, False, False]),
        name="doc",
        label=1,
        prediction=0,
        probabilities=np.array([0.75, 0.25], dtype=np.float32),
        grid=(1, 3),
    )
    back = load(save(analysis(full), tmp_path / "run.attviz", precision="float32"))
    assert same(full, back.documents[0])
    np.testing.assert_array_equal(full.diagonal, back.documents[0].diagonal)
    assert back.documents[-1].text == "a b"
    assert [one.name for one in back.documents[0:5]] == ["doc"]
    assert same(full, pickle.loads(pickle.dumps(back.documents))[0])
    with pytest.raises(IndexError, match="document 1 of 1"):
        back.documents[1]


def test_no_trace_but_the_archive_remains(tmp_path):
    save(analysis(document()), tmp_path / "run.attviz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.attviz"]


def test_safetensors_itself_reads_the_file(tmp_path):
    from safetensors.numpy import load_file

    tensors = load_file(save(analysis(document(num_tokens=3), document(num_tokens=2)), tmp_path / "run.attviz"))
    assert tensors["diagonal"].shape == (5, 2, 4)
    assert tensors["token_start"].tolist() == [0, 3, 5]


def test_every_truncation_is_an_error_of_ours(tmp_path):
    whole = save(analysis(document()), tmp_path / "run.attviz").read_bytes()
    short = tmp_path / "short.attviz"
    for length in range(0, len(whole), 97):
        short.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="not an attviz archive"):
            load(short)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_never_crashes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    whole = bytearray(save(analysis(document(), document(num_tokens=2)), folder / "run.attviz").read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    hostile = folder / "hostile.attviz"
    hostile.write_bytes(whole)
    with contextlib.suppress(FormatError):  # any other exception fails the test
        for one in load(hostile).documents:
            assert one.diagonal.shape[2] == len(one.tokens)


def rewritten(path, metadata=None, **tensors):
    """The archive with some tensors or metadata replaced."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(path, "numpy") as file:
        old = dict(file.metadata())
    save_file({**load_file(path), **tensors}, path, {**old, **(metadata or {})})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"format": "other"}}, "not an attviz archive"),
        ({"metadata": {"version": "9"}}, "version 9, this attviz reads version 1. Update attviz"),
        ({"metadata": {"layers": "[1"}}, "metadata cannot be read"),
        ({"metadata": {"layers": "[1, 2]"}}, "layers are not names"),
        ({"token_start": np.array([0, 9])}, "token_start must rise from 0 to 3"),
        ({"token_start": np.array([0, 2, 1, 3])}, "token_start must rise"),
        ({"special": np.zeros(2, dtype=np.uint8)}, r"special must have shape \[3\], got \[2\]"),
        ({"diagonal": np.zeros((3, 5, 4), dtype=np.float16)}, "for 2 layers"),
    ],
)
def test_an_inconsistent_archive_is_named(tmp_path, change, message):
    path = rewritten(save(analysis(document()), tmp_path / "run.attviz"), **change)
    with pytest.raises(FormatError, match=message):
        load(path)


def test_damaged_details_are_named_with_their_document(tmp_path):
    path = save(analysis(document()), tmp_path / "run.attviz")
    from safetensors.numpy import load_file

    details = load_file(path)["details"].copy()
    details[:5] = 0
    rewritten(path, details=details)
    with pytest.raises(FormatError, match="document 0: its details cannot be read"):
        load(path).documents[0]


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such archive"):
        load(tmp_path / "none.attviz")
    with pytest.raises(FormatError, match="is a folder"):
        load(tmp_path)


def test_a_stopped_run_is_taken_up_again(tmp_path):
    path, documents = tmp_path / "run.attviz", [document(f"text {n}", n + 1, seed=n) for n in range(4)]
    with pytest.raises(KeyboardInterrupt), PartialArchive(path, {"model": "m"}) as partial:
        partial.append([(3, documents[3]), (0, documents[0])], LAYERS)
        raise KeyboardInterrupt
    with (tmp_path / "run.attviz.part" / "diagonal.bin").open("ab") as torn:
        torn.write(b"half a batch")
    with PartialArchive(path, {"model": "m"}) as partial:
        assert partial.done == {3: text_hash("text 3"), 0: text_hash("text 0")}
        assert partial.layers == LAYERS
        partial.append([(2, documents[2]), (1, documents[1])], LAYERS)
        partial.finish(layers=LAYERS, label_names=None, model_name="m")
    assert all(same(one, other) for one, other in zip(documents, load(path).documents, strict=True))


@given(st.integers(0, 400), st.sampled_from(["diagonal.bin", "index.jsonl", "details.bin", "offsets.bin"]))
@settings(max_examples=40, deadline=None)
def test_whatever_is_torn_off_only_whole_documents_stay(tmp_path_factory, length, victim):
    path = tmp_path_factory.mktemp("torn") / "run.attviz"
    documents = [document(f"text {n}", 2, seed=n) for n in range(4)]
    with PartialArchive(path, {}) as partial:
        for number in range(4):
            partial.append([(number, documents[number])], LAYERS)
    torn = path.with_name("run.attviz.part") / victim
    os.truncate(torn, min(length, torn.stat().st_size))
    with PartialArchive(path, {}) as partial:
        missing = [number for number in range(4) if number not in partial.done]
        for number in missing:
            partial.append([(number, documents[number])], LAYERS)
        partial.finish(layers=LAYERS, label_names=None, model_name="")
    assert all(same(one, other) for one, other in zip(documents, load(path).documents, strict=True))


def test_other_settings_do_not_resume(tmp_path):
    with PartialArchive(tmp_path / "run", {"max_length": "8"}) as partial:
        partial.append([(0, document())], LAYERS)
    with pytest.raises(ArgumentError, match=r"other settings \(max_length\): was {'max_length': '8'}"):
        PartialArchive(tmp_path / "run", {"max_length": "9"}).__enter__()
    with PartialArchive(tmp_path / "run", {"max_length": "9"}, fresh=True) as partial:
        assert partial.done == {}
    assert list(tmp_path.iterdir()) == []  # nothing done, nothing left


def _hold(path, ready, leave):
    with PartialArchive(path, {}) as partial:
        partial.append([(0, document())], LAYERS)
        ready.set()
        leave.wait(60)


def test_two_processes_cannot_share_an_archive(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", ready, leave))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(FormatError, match=f"another process .id {process.pid}. writes to this archive"):
            PartialArchive(tmp_path / "run", {}).__enter__()
    finally:
        leave.set()
        process.join(60)
    with PartialArchive(tmp_path / "run", {}) as partial:
        assert list(partial.done) == [0]


def test_a_full_disk_keeps_what_is_done(tmp_path):
    with PartialArchive(tmp_path / "run", {}) as partial:
        partial.append([(0, document())], LAYERS)
        real = partial._files["details"]
        partial._files["details"] = open("/dev/full", "wb", buffering=0)
        with pytest.raises(OSError, match=r"1 documents are kept in .*free some space") as caught:
            partial.append([(1, document())], LAYERS)
        assert caught.value.errno == errno.ENOSPC
        partial._files["details"].close()
        real.close()
    with PartialArchive(tmp_path / "run", {}) as partial:
        assert list(partial.done) == [0]


def test_another_model_in_the_same_run_is_refused(tmp_path):
    with PartialArchive(tmp_path / "run", {}) as partial:
        partial.append([(0, document())], LAYERS)
        with pytest.raises(FormatError, match="2 layers of 4 heads, document '' has 1 layers of 4 heads"):
            partial.append([(1, document())], LAYERS[:1])


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="'float16' or 'float32', got 'int8'"):
        save(analysis(document()), tmp_path / "run", precision="int8")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    header = json.dumps({"diagonal": {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2**41]}}).encode()
    path = tmp_path / "bomb.attviz"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FormatError, match="not an attviz archive, or cut short"):
        load(path)
