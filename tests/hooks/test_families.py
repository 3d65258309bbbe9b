"""A sample of the families of transformers, every attention of each against ``attviz.check``; and what is built against what the docs say.

All families: ``python -m benchmarks.supported_models``. Here run those that were wrong once, those with an attention of their own kind, and
those that most people have.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest
import transformers
from packaging.version import Version

from benchmarks.families.check import Outcome, check_family
from benchmarks.families.page import Table
from benchmarks.families.tiny import families
from benchmarks.families.unbuilt import REASONS

DOCS = Path(__file__).parent.parent.parent / "docs" / "supported-models.md"

WRONG_ONCE = (
    "deepseek_v32 deepseek_v4 detr flava git glm_moe_dsa gpt_oss lightglue pegasus_x prophetnet t5gemma2 udop vilt videoprism"
).split()
ONCE_ONE_QUERY = "glpn pvt_v2 segformer swiftformer".split()
OF_THEIR_OWN_KIND = {
    "albert": "one module for all layers", "big_bird": "blocks", "bloom": "ALiBi", "canine": "characters and molecules", "clip": "towers",
    "convbert": "extra softmaxes", "deberta-v2": "disentangled", "deepseek_v3": "latent", "gemma2": "softcap", "jamba": "hybrid",
    "led": "banded", "longt5": "blocks", "qwen2_5_vl_vision": "packed images", "qwen3_next": "hybrid", "swin": "windows", "t5": "bias",
    "whisper": "sound", "xlnet": "two streams",
}  # fmt: skip
# Not right yet, or not to be settled; each with the reason. A family may leave this table unnoticed, but not enter it.
UNSETTLED = {
    "deepseek_v4": "its attention over compressed keys is skipped",
    "swiftformer": "its additive attention has no row for each query: skipped, and the disturbance cannot tell",
    "videoprism": "one patch a frame: of one query and one key nothing can be learned",
}


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every special token that a small vocabulary does not hold."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("family", sorted({*WRONG_ONCE, *ONCE_ONE_QUERY, *OF_THEIR_OWN_KIND} & set(families())))
def test_every_attention_of_the_family_is_right(family):
    found = check_family(family)
    if found[0].verdict == "unbuilt" and Version(transformers.__version__) < in_the_docs()[0]:
        pytest.skip(f"built with newer releases only: {found[0].note}")
    if family in UNSETTLED:
        assert not any(outcome.verdict in ("crashed", "unbuilt") for outcome in found), found
        return
    assert [outcome.verdict for outcome in found] == ["right"] * len(found), [(outcome.path, outcome.note) for outcome in found]
    assert all(row.shape is None or row.shape[-1] > 1 for row in found[0].rows)  # one query tells nothing


def in_the_docs() -> tuple[Version, set[str], set[str]]:
    """The version of transformers that the docs were written with; the families they call right; all that they name."""
    page = DOCS.read_text(encoding="utf-8")
    version = re.search(r"transformers ([\d.]+\d)", page)
    assert version is not None
    right = page.partition("| family | layers |")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w.-]+) \|", right, re.MULTILINE)
    others = re.findall(r"^(?:\| |- )([\w.-]+)(?: \||:)", page.partition("\n## ")[2], re.MULTILINE)
    return Version(version.group(1)), set(rows), {*rows, *others}


@pytest.mark.filterwarnings("default:families the docs do not know yet")
def test_the_docs_and_the_installed_transformers_name_the_same_families():
    """What is gone from a release at least as new as the docs' is an error; what is new is said, and is none."""
    version, right, named = in_the_docs()
    assert len(right) > 300
    gone, new = right - set(families()), set(families()) - named
    if new:
        said = f"families the docs do not know yet: {sorted(new)}. Run python -m benchmarks.supported_models."
        warnings.warn(said, UserWarning, stacklevel=1)
    if Version(transformers.__version__) < version:
        return  # an older release lacks the families of newer ones
    assert not gone, f"the docs call them right, transformers {transformers.__version__} has no such family: {sorted(gone)}"


def test_a_family_that_is_not_built_any_more_is_no_right_one(monkeypatch):
    """The command says so, and fails: a family that the docs call right has to be built."""
    from benchmarks import supported_models

    monkeypatch.setattr("benchmarks.families.check.tiny_config", lambda family, mode: (_ for _ in ()).throw(ValueError("renamed")))
    outcomes = {"bert": check_family("bert"), "brand-new": check_family("brand-new")}
    assert supported_models.lost(outcomes, Table.read(DOCS)) == ["bert"]


def test_a_run_of_some_families_replaces_their_rows_only(tmp_path, capsys):
    """The page is its own store: read, changed in one row and written, it keeps all others to the letter."""
    from benchmarks import supported_models

    before, table = Table.read(DOCS).page(), Table.read(DOCS)
    table.put("bert", [Outcome("bert", "sdpa", "wrong", note="a | b")])
    table.put("bart", [Outcome("bart", "", "unbuilt", note="gone")])
    page = tmp_path / "page.md"
    page.write_text(table.page(), encoding="utf-8")
    again = Table.read(page)
    assert again == table
    assert (again.verdicts("bert"), again.verdicts("bart"), again.verdicts("gpt2")) == ({"wrong"}, {"unbuilt"}, {"right"})
    arguments = ["--output", str(page), "--verdicts", "wrong", "unbuilt", "--families", "bert", "gpt2", "--part", "1/1"]
    assert supported_models.main(arguments) == 0, capsys.readouterr().out
    lines = set(page.read_text(encoding="utf-8").splitlines()) ^ set(before.splitlines())
    assert {line.split(" ")[1] for line in lines if line.startswith("| ")} <= {"bert", "bart"}


def test_what_is_not_built_has_a_reason_and_is_little():
    assert len(Table.read(DOCS).unbuilt) <= 20
    assert all(REASONS[family].startswith(why) for family, why in Table.read(DOCS).unbuilt.items())  # the page cuts long lines


def test_the_check_itself_tells_a_wrong_layer(monkeypatch):
    """The sweep can fail: a capture that gives every layer the first one's values is found out."""
    from attviz import Capture

    right = Capture.records.fget
    assert right is not None

    def first_everywhere(cap):
        records = right(cap)
        return tuple(type(record)(record.layer, record.layer_index, 0, records[0].diagonal) for record in records)

    monkeypatch.setattr(Capture, "records", property(first_everywhere))
    found = check_family("bert")
    assert [outcome.verdict for outcome in found] == ["wrong", "wrong"]
    assert "encoder.layer.1.attention.self" in found[0].note


def test_encoder_and_decoder_are_recorded_and_cross_attention_is_skipped():
    sdpa, eager = check_family("bart")
    assert len(sdpa.recorded) == len(eager.recorded) == 4
    assert set(sdpa.skipped) == set(eager.skipped) == {"decoder.layers.0.encoder_attn", "decoder.layers.1.encoder_attn"}
    assert all("no own key" in reason for reason in sdpa.skipped.values())
