"""Tiles are chosen by what the compiler says of every case that asks for their row, not by hand."""

import json

import pytest
import torch

from benchmarks.kernels import tiles
from benchmarks.kernels.tiles import asking, candidates, choose, faults, no_larger

WIDE, GOOD = {"BLOCK_Q": 32, "num_warps": 1}, {"BLOCK_Q": 32, "num_warps": 4}  # float32, heads of 256: one warp spills


def test_the_odd_cases_ask_for_rows_too():
    names = {row: {case.name for case in cases} for row, cases in asking().items()}
    assert "mass fp32 batch 1, heads 1 of 1, length 1, d16" in names["mass", True, 16]
    assert "qk bf16 d64, heads last" in names["qk", False, 64]
    assert "received fp16 d64, heads 2**29 elements apart" in names["received", False, 64]
    assert "mass bf16 d80" in names["mass", False, 128]  # padded
    assert not any("aggregates" in name for row, several in names.items() if row[0] == "logsumexp" for name in several)  # no tile of theirs


def test_a_tile_that_spills_gives_way_to_the_next_that_is_no_larger(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiles, "tuned", lambda *_: WIDE)
    row = ("logsumexp", True, 256)
    one = [case for case in asking()[row] if case.name == "logsumexp fp32 d256"]
    monkeypatch.setattr(tiles, "asking", lambda: {row: one})
    (found,) = faults("sm_90", "logsumexp", torch.float32, 256, WIDE)
    assert "bytes spilled" in found
    chosen = choose("sm_90", "logsumexp", torch.float32, 256)
    assert chosen == GOOD
    assert "spilled" in capsys.readouterr().out
    monkeypatch.setattr(tiles, "tuned", lambda *_: GOOD)
    assert choose("sm_90", "logsumexp", torch.float32, 256) == GOOD  # what is clean stays


def test_only_tiles_that_hold_no_more_are_tried_after_a_spill():
    present = {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    tried = [blocks for blocks in candidates("mass") if no_larger(blocks, present)]
    assert {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2} in tried
    assert {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1} in tried
    assert present not in tried
    assert all(blocks["BLOCK_Q"] * blocks["BLOCK_K"] <= 64 * 32 for blocks in tried)
    assert all(blocks["BLOCK_Q"] * blocks["BLOCK_K"] <= 512 * blocks["num_warps"] for blocks in tried)


@pytest.mark.parametrize("again", [False, True])
def test_a_row_that_says_torch_is_searched_again_only_when_asked(again, monkeypatch):
    searched = []
    monkeypatch.setattr(tiles, "faults", lambda *given: searched.append(given) or ["no matrix instruction"])
    assert choose("sm_75", "qk", torch.bfloat16, 64, again) is None
    assert len(searched) == again  # no size of tile brings one


def test_the_table_is_written_after_each_row(monkeypatch, tmp_path):
    table = tmp_path / "tuning.json"
    before = tiles.TABLE.read_text()
    table.write_text(before)
    monkeypatch.setattr(tiles, "TABLE", table)
    made = []

    def chosen(arch, kernel, dtype, head_dim, again):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((arch, kernel, dtype, head_dim))
        return GOOD

    monkeypatch.setattr(tiles, "choose", chosen)
    with pytest.raises(KeyboardInterrupt):
        tiles.main(["sm_120", "--kernel", "logsumexp"])
    rows, old = json.loads(table.read_text())["kernels"]["logsumexp"], json.loads(before)["kernels"]["logsumexp"]
    assert {name for name in rows if rows[name] != old.get(name)} == {"sm_120/half/16", "sm_120/half/32"}
