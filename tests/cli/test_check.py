"""``attviz check``: a model against the reference, an archive against its checksums, and the exit codes."""

import json

from tests.cli.test_main import archive, call, folder, mistake  # noqa: F401


def test_a_model_is_checked(folder, capsys):  # noqa: F811
    code, out, _ = call(capsys, "check", folder, "--text", "the old bridge", "--text", "a good film , a bad film .")
    assert code == 0, out
    assert out.splitlines()[0] == "BertForSequenceClassification: ok, 2 verified, outputs bit-identical"
    assert out.count("verified") == 3


def test_a_model_is_checked_as_json_in_half_precision(folder, capsys):  # noqa: F811
    code, out, _ = call(capsys, "check", folder, "--dtype", "bfloat16", "--attention", "eager", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ok"]
    assert [row["status"] for row in found["layers"]] == ["verified", "verified"]


def test_a_layer_that_is_wrong_gives_code_1(folder, capsys, monkeypatch):  # noqa: F811
    from attviz import Capture

    right = Capture.records.fget
    monkeypatch.setattr(Capture, "records", property(lambda cap: right(cap)[1:]))
    code, out, err = call(capsys, "check", folder)
    assert code == 1
    assert "NOT OK" in out
    assert "no record of it" in out
    assert "not every layer is verified" in err


def test_an_archive_is_checked(archive, capsys, tmp_path):  # noqa: F811
    code, out, _ = call(capsys, "check", archive)
    assert code == 0
    assert out.splitlines()[-1] == "ok"
    content = bytearray(archive.read_bytes())
    content[-20] ^= 255
    damaged = tmp_path / "damaged.attviz"
    damaged.write_bytes(bytes(content))
    code, out, _ = call(capsys, "check", damaged)
    assert code in (1, 2)  # a fault of a block, or no archive at all
    assert "ok" not in out.splitlines()


def test_mistakes_are_one_line(folder, capsys):  # noqa: F811
    assert "could not be loaded" in mistake(capsys, "check", folder / "nothing")
    assert "--attention" in mistake(capsys, "check", folder, "--attention", "none_such")
