"""Saved states: exact, whole or not at all, and every false claim refused by name with the metric unharmed."""

import json
import os
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from attviz.errors import FormatError, MetricError
from attviz.metrics import HeadStatistics, VocabularyStatistics

MAKERS = {"heads": lambda: HeadStatistics(exclude_ids=[3]), "vocabulary": lambda: VocabularyStatistics(11, by="head")}


@pytest.fixture
def saved(streams, tmp_path):
    metric = streams.feed(HeadStatistics(), streams.make_stream())
    metric.save_state(tmp_path / "heads.safetensors")
    return metric, tmp_path / "heads.safetensors"


def rewrite(path, *, tensors=None, header=None, digest=None):
    """Write the file again with other tensors or another header, by default with the old checksum."""
    with safe_open(path, framework="pt") as file:
        metadata, old = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if header is not None:
        metadata["attviz.metric"] = header(metadata["attviz.metric"])
    changed = {**old, **(tensors(old) if tensors else {})}
    metadata["sha256"] = digest(metadata["attviz.metric"], changed) if digest else metadata["sha256"]
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path, metadata=metadata)


def assert_refused(path, error, message):
    metric = HeadStatistics()
    metric.update(torch.rand(1, 1, 1, 2))
    before = metric.compute()
    with pytest.raises(error, match=message):
        metric.load_state(path)
    assert metric.update_count == 1
    assert torch.equal(metric.compute().mean, before.mean)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_resumed_stream_equals_an_undisturbed_one_to_the_last_bit(streams, tmp_path, maker):
    records = streams.make_stream(steps=6)
    whole = streams.feed(MAKERS[maker](), records)
    streams.feed(MAKERS[maker](), records[:5]).save_state(tmp_path / "state.safetensors")
    resumed = MAKERS[maker]()
    resumed.load_state(tmp_path / "state.safetensors")
    assert resumed.update_count == 5
    streams.feed(resumed, records[5:])
    expected = whole._state.tensors()
    assert resumed._state.tensors().keys() == expected.keys()
    for name, tensor in resumed._state.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    assert resumed._state.layers == whole._state.layers


def test_an_empty_metric_saves_and_loads(tmp_path):
    HeadStatistics().save_state(tmp_path / "empty.safetensors")
    metric = HeadStatistics()
    metric.load_state(tmp_path / "empty.safetensors")
    with pytest.raises(MetricError, match=r"HeadStatistics.compute: nothing was seen yet"):
        metric.compute()


def test_saving_replaces_the_file_whole_and_leaves_no_draft(saved, monkeypatch):
    metric, path = saved
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        metric.save_state(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=15, deadline=None)
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory, streams, cut):
    path = tmp_path_factory.mktemp("cut") / "state.safetensors"
    streams.feed(HeadStatistics(), streams.make_stream()).save_state(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    assert_refused(path, FormatError, "not a readable safetensors file.*Was it cut short")


def test_one_flipped_bit_is_refused(saved):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert_refused(path, FormatError, "the checksum does not match the contents: the file is damaged")


def test_header_lengths_and_nested_json_from_an_enemy_are_refused(tmp_path):
    path = tmp_path / "evil.safetensors"
    for content in (struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 60000) + b"[" * 60000, b"", os.urandom(200)):
        path.write_bytes(content)
        assert_refused(path, FormatError, "not a readable safetensors file")
    assert_refused(tmp_path, FormatError, "is a folder, not the state of a metric")
    assert_refused(tmp_path / "missing", FileNotFoundError, "missing: no such file")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (lambda text: "[" * 100_000, "malformed header: RecursionError"),
        (lambda text: "x" * 5_000_000, "malformed header: ValueError: 5000000 characters"),
        (lambda text: json.dumps({**json.loads(text), "format": 99}), "format 99; this version of attviz reads format 2"),
        (lambda text: json.dumps({**json.loads(text), "updates": -1}), "malformed header"),
        (lambda text: json.dumps({**json.loads(text), "layers": {"0": [2**40, "a"]}}), "malformed header.*layer 0"),
        (lambda text: json.dumps({**json.loads(text), "layers": {"0": [True, "a"]}}), "malformed header.*layer 0"),
        (
            lambda text: json.dumps({**json.loads(text), "layers": {"0": [3, "a"]}}),
            "do not match the layers it lists.*unexpected .'diagonal/1",
        ),
        (
            lambda text: json.dumps({**json.loads(text), "layers": {"0": [4, "a"], "1": [3, "b"]}}),
            "tensor 'diagonal/0/count' is .*expected",
        ),
    ],
)
def test_a_header_that_lies_is_refused(saved, header, message):
    rewrite(saved[1], header=header)
    assert_refused(saved[1], FormatError, message)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda old: {"diagonal/0/count": -old["diagonal/0/count"]}, "'diagonal/0' cannot be a sample"),
        (lambda old: {"diagonal/1/mean": old["diagonal/1/mean"] + 2}, "'diagonal/1' cannot be a sample"),
        (lambda old: {"diagonal/1/m2": old["diagonal/1/m2"] * torch.nan}, "'diagonal/1' cannot be a sample"),
        (lambda old: {"faults/0": old["faults/0"] - 1}, "'faults/0' is a sum of non-negative numbers"),
        (lambda old: {"faults/0": old["faults/0"].double()}, "tensor 'faults/0' is .'F64'"),
        (lambda old: {"diagonal/1/m2": torch.zeros(3, 1, dtype=torch.float64)}, "tensor 'diagonal/1/m2' is"),
        (lambda old: {"extra": torch.zeros(1)}, "unexpected .'extra'"),
        (lambda old: {"faults/1": None}, "missing .'faults/1'"),
    ],
)
def test_tensors_that_cannot_be_a_state_are_refused_also_under_a_true_checksum(saved, tensors, message):
    from attviz.metrics._streaming.state_files import _digest

    rewrite(saved[1], tensors=tensors, digest=lambda header, new: _digest(header, {k: v for k, v in new.items() if v is not None}))
    assert_refused(saved[1], FormatError, message)


def test_states_of_other_metrics_options_and_tools_are_told_apart(saved, tmp_path):
    with pytest.raises(MetricError, match=r"holds the state of HeadStatistics\(.*this metric is HeadStatistics\(.*\[3\]"):
        HeadStatistics(exclude_ids=[3]).load_state(saved[1])
    with pytest.raises(MetricError, match=r"this metric is VocabularyStatistics\("):
        VocabularyStatistics(11).load_state(saved[1])
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert_refused(tmp_path / "model.safetensors", FormatError, "a safetensors file, but not the state of an attviz metric")
