"""Archives: the same values back, damaged and hostile files named, stopped writers resumed."""

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import re
import resource
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError, FormatError
from attviz.io import load, save, verify
from attviz.io.partial import PartialArchive
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
        with pytest.raises(FormatError, match="cut short|damaged"):
            load(short)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_never_crashes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    whole = bytearray(save(analysis(document(), document(num_tokens=2)), folder / "run.attviz").read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    hostile = folder / "hostile.attviz"
    hostile.write_bytes(whole)
    read = []
    with contextlib.suppress(FormatError):  # any other exception fails the test
        read = list(load(hostile).documents)
    for one, other in zip(read, load(folder / "run.attviz").documents, strict=False):
        assert same(one, other)  # never another number in silence


def rewritten(path, metadata=None, **tensors):
    """The archive as the first edition would have written it, without checksums, with some tensors or metadata replaced."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(path, "numpy") as file:
        old = dict(file.metadata()) | {"version": "1"}
    content = load_file(path)
    del content["checksums"]
    save_file({**content, **tensors}, path, {**old, **(metadata or {})})
    return path


def test_an_archive_of_the_first_edition_still_opens(tmp_path):
    one, other = document(num_tokens=3), document("c", num_tokens=2, seed=1)
    path = rewritten(save(analysis(one, other), tmp_path / "run.attviz"))
    back = load(path).documents
    assert same(one, back[0])
    assert same(other, back[1])
    report = verify(path)
    assert report
    assert not report.has_checksums


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"format": "other"}}, "not an attviz archive"),
        ({"metadata": {"version": "9"}}, "version 9, but this attviz reads versions 1 and 2. Update attviz"),
        ({"metadata": {"layers": "[1"}}, "metadata cannot be read"),
        ({"metadata": {"layers": "[1, 2]"}}, "layers are not names"),
        ({"token_start": np.array([0, 9])}, "token_start must increase from 0 to 3"),
        ({"token_start": np.array([0, 3, 1, 3]), "detail_start": None}, "token_start must increase, but does not at document 1"),
        ({"token_ids": np.zeros(3, dtype=np.uint8)}, "token_ids must hold I64, got U8"),
        ({"special": np.zeros(2, dtype=np.uint8)}, r"special must have shape \[3\], got \[2\]"),
        ({"diagonal": np.zeros((3, 5, 4), dtype=np.float16)}, "for 2 layers"),
    ],
)
def test_an_inconsistent_archive_is_named(tmp_path, change, message):
    path = save(analysis(document()), tmp_path / "run.attviz")
    if "detail_start" in change:
        length = load(path).documents.file.tensors["details"].shape[0]
        change = {**change, "detail_start": np.array([0, length, length, length])}
    path = rewritten(path, **change)
    with pytest.raises(FormatError, match=message):
        list(load(path).documents)


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


def finish(partial, documents):
    """Append one batch per document that is not there yet, and finish."""
    for number in range(partial.num_batches, len(documents)):
        partial.append([(number, documents[number])], LAYERS)
    partial.finish(layers=LAYERS, label_names=None, model_name="m")


def test_a_stopped_run_is_taken_up_again(tmp_path):
    path, documents = tmp_path / "run.attviz", [document(f"text {n}", n + 1, seed=n, name=f"n{n}", label=n) for n in range(4)]
    with pytest.raises(KeyboardInterrupt), PartialArchive(path, {"model": "m"}) as partial:
        partial.append([(3, documents[3]), (0, documents[0])], LAYERS)
        raise KeyboardInterrupt
    with (tmp_path / "run.attviz.part" / "diagonal.bin").open("ab") as torn:
        torn.write(b"half a batch")
    with PartialArchive(path, {"model": "m"}) as partial:
        assert [[(entry.number, entry.num_tokens, entry.label) for entry in batch] for batch in partial.batches()] == [
            [(3, 4, 3), (0, 1, 0)]
        ]
        assert partial.layers == LAYERS
        partial.append([(2, documents[2]), (1, documents[1])], LAYERS)
        partial.finish(layers=LAYERS, label_names=None, model_name="m")
    assert all(same(one, other) for one, other in zip(documents, load(path).documents, strict=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.attviz"]


@given(st.integers(0, 400), st.sampled_from(["diagonal.bin", "journal", "details.bin", "offsets.bin"]), st.sampled_from(["cut", "flip"]))
@settings(max_examples=40, deadline=None)
def test_whatever_is_torn_off_or_turned_over_only_whole_documents_stay(tmp_path_factory, place, victim, how):
    path = tmp_path_factory.mktemp("torn") / "run.attviz"
    documents = [document(f"text {n}", 2, seed=n) for n in range(4)]
    with PartialArchive(path, {}) as partial:
        for number in range(4):
            partial.append([(number, documents[number])], LAYERS)
    torn = path.with_name("run.attviz.part") / victim
    content = bytearray(torn.read_bytes())
    place = min(place, len(content) - 1)
    content[place] ^= 0x40
    torn.write_bytes(content if how == "flip" else content[:place])
    with PartialArchive(path, {}) as partial:
        assert partial.num_batches < 4
        finish(partial, documents)
    assert all(same(one, other) for one, other in zip(documents, load(path).documents, strict=True))


def test_an_append_that_fails_leaves_the_place_for_the_next(tmp_path):
    documents = [document(f"text {n}", 2, seed=n) for n in range(3)]
    with PartialArchive(tmp_path / "run", {}) as partial:
        partial.append([(0, documents[0])], LAYERS)
        with pytest.raises(FormatError, match="has 2 tokens but a diagonal of 3"):
            partial.append([(1, documents[1]), (2, replace(documents[2], diagonal=np.zeros((2, 4, 3))))], LAYERS)
        finish(partial, documents)
    assert all(same(one, other) for one, other in zip(documents, load(tmp_path / "run").documents, strict=True))


def test_other_settings_do_not_resume(tmp_path):
    with PartialArchive(tmp_path / "run", {"max_length": "8", "config": '{"a": 1, "b": 2}'}) as partial:
        partial.append([(0, document())], LAYERS)
    with pytest.raises(
        ArgumentError,
        match=r"differs from this one \(config.a: was 1, now 3; max_length: was '8', now '9'\)\. Run the same command as before",
    ):
        PartialArchive(tmp_path / "run", {"max_length": "9", "config": '{"a": 3, "b": 2}'}).__enter__()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path):
    with PartialArchive(tmp_path / "run", {}):
        pass
    assert list(tmp_path.iterdir()) == []


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
        with pytest.raises(FormatError, match=f"another process .id {process.pid}. is writing to this archive"):
            PartialArchive(tmp_path / "run", {}).__enter__()
    finally:
        leave.set()
        process.join(60)
    with PartialArchive(tmp_path / "run", {}) as partial:
        assert partial.num_documents == 1


@contextlib.contextmanager
def files_no_larger_than(num_bytes):
    """The kernel's own limit: a write beyond it fails as on a full disk, with EFBIG for ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_what_is_done_and_gives_the_lock_back(tmp_path):
    documents = [document(num_tokens=200, seed=n) for n in range(6)]
    with PartialArchive(tmp_path / "run", {}) as partial:
        partial.append([(0, documents[0])], LAYERS)
        with files_no_larger_than(8000), pytest.raises(OSError, match=r"2 documents are kept in .*free some disk space") as caught:
            for number in range(1, 6):
                partial.append([(number, documents[number])], LAYERS)
        assert caught.value.errno == errno.EFBIG
    with PartialArchive(tmp_path / "run", {}) as partial:
        for number in range(partial.num_batches, 6):
            partial.append([(number, documents[number])], LAYERS)
        with files_no_larger_than(30_000), pytest.raises(OSError, match="nothing was written; the parts are kept: run the same command"):
            finish(partial, documents)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.part"]
    with PartialArchive(tmp_path / "run", {}) as partial:
        finish(partial, documents)
    assert all(same(one, other) for one, other in zip(documents, load(tmp_path / "run").documents, strict=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_another_model_in_the_same_run_is_refused(tmp_path):
    with PartialArchive(tmp_path / "run", {}) as partial:
        partial.append([(0, document())], LAYERS)
        with pytest.raises(FormatError, match="2 layers of 4 heads, document '' has 1 layers of 4 heads"):
            partial.append([(1, document())], LAYERS[:1])


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="precision must be one of 'float32', 'float16', 'u16', 'u8'; got 'int8'"):
        save(analysis(document()), tmp_path / "run", precision="int8")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    header = json.dumps({"diagonal": {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2**41]}}).encode()
    path = tmp_path / "bomb.attviz"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FormatError, match="not an attviz archive, or cut short"):
        load(path)


def test_verify_names_what_is_damaged(tmp_path):
    path = save(analysis(document(num_tokens=9000), document("c", num_tokens=11000)), tmp_path / "run.attviz")
    report = verify(path)
    assert report
    assert (report.num_documents, report.num_tokens, report.num_layers, report.num_heads, report.has_checksums) == (2, 20000, 2, 4, True)
    assert report.num_bytes == path.stat().st_size
    content = bytearray(path.read_bytes())
    content[load(path).documents.file.tensors["diagonal"].begin + 16 * 14000] ^= 1  # far inside document 1
    path.write_bytes(content)
    report = verify(path)
    assert not report
    assert re.search(r"bytes \d+ to \d+ \(.*diagonal.*\) have changed since they were written", report.faults[0])
    assert report.faults[1].startswith("document 1: ")
    load(path).documents[0]  # what is whole can still be read
    with pytest.raises(FormatError, match="have changed since they were written"):
        load(path).documents[1]


def test_a_value_that_is_no_probability_is_found_where_there_is_no_checksum(tmp_path):
    path = rewritten(save(analysis(document()), tmp_path / "run.attviz"), diagonal=np.full((3, 2, 4), 2, dtype=np.float16))
    assert verify(path).faults == ("document 0: 24 of its 24 values are outside [0, 1]",)


def test_a_file_cut_short_while_it_is_open_is_an_error_and_no_signal(tmp_path):
    documents = load(save(analysis(*[document(num_tokens=400, seed=n) for n in range(9)]), tmp_path / "run.attviz")).documents
    assert documents.file.num_bytes > 1 << 16
    os.truncate(tmp_path / "run.attviz", documents.file.num_bytes // 2)
    with pytest.raises(FormatError, match="truncated while open"):
        list(documents)


def test_a_reader_keeps_the_archive_that_it_opened(tmp_path):
    path = save(analysis(document("old")), tmp_path / "run.attviz")
    before = load(path).documents
    save(analysis(document("new")), path, overwrite=True)
    assert (before[0].text, load(path).documents[0].text) == ("old", "new")
