"""Several processes, one analysis: the same bytes as one process, whoever was stopped, however uneven the shares."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from attviz import io, metrics
from attviz.analysis import analyze, encoding, runner
from attviz.analysis import run as run_module
from attviz.analysis import share as share_module
from attviz.cli import main
from attviz.cli.ranks import share_of
from attviz.errors import ArgumentError, FormatError
from attviz.io.claims import Claims, claims_path

WORDS = "the old bridge over river bank was closed open late so in town by storm".split()


def corpus(count):
    dice = random.Random(0)
    return [" ".join(dice.choices(WORDS, k=dice.randint(0, 18))) for _ in range(count)]


@pytest.fixture
def small_windows(monkeypatch):
    """Two batches a window, so that few texts make many windows."""
    for module in (encoding, runner, run_module):
        monkeypatch.setattr(module, "WINDOW", 2)


def run(model, tokenizer, path, texts, **options):
    names = [f"n{place}" for place in range(len(texts))] if isinstance(texts, list) else None
    return analyze(model, tokenizer, texts, names=names, archive=path, batch_size=3, progress=False, **options)


@pytest.mark.parametrize(("count", "shards"), [(40, 4), (40, 3), (7, 4), (5, 2)])
@pytest.mark.parametrize("long", ["truncate", "split"])
def test_merged_shards_are_the_archive_of_one_process(classifier, tokenizer, tmp_path, small_windows, count, shards, long):
    texts, options = corpus(count), {"long": long, "max_length": 8}
    run(classifier, tokenizer, tmp_path / "whole", texts, **options)
    for index in reversed(range(shards)):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(index, shards), **options)
    opened = io.load(tmp_path / "run")
    whole = io.load(tmp_path / "whole")
    assert [document.name for document in opened.documents] == [document.name for document in whole.documents]
    assert opened.settings == whole.settings
    for one, other in zip(opened.documents, whole.documents, strict=True):
        assert one.text == other.text
        np.testing.assert_array_equal(one.diagonal, other.diagonal)
    io.merge(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_shard_of_empty_texts_alone_and_one_of_none_merge(tmp_path, small_windows):
    from transformers import GPT2Config, GPT2Model

    from benchmarks.attacks.kills import _tokenizer

    model = GPT2Model(GPT2Config(vocab_size=8, n_positions=16, n_embd=8, n_layer=2, n_head=2)).eval()
    tokenizer = _tokenizer()
    texts = [""] * 6 + ["a b"] * 4  # a window of texts without a token, one of others, none
    run(model, tokenizer, tmp_path / "whole", texts)
    for index in range(3):
        run(model, tokenizer, tmp_path / "run", texts, shard=(index, 3))
    io.merge(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def stop_at(model, forward):
    """Ctrl-C at the n-th forward from now on; a handle to remove."""
    left = [forward]

    def stop(*_):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return model.register_forward_pre_hook(stop)


@pytest.mark.parametrize("again", [1, 2, 3, "any"])
def test_a_stopped_run_goes_on_with_any_number_of_processes_and_does_nothing_twice(classifier, tokenizer, tmp_path, small_windows, again):
    texts = corpus(60)  # ten windows
    run(classifier, tokenizer, tmp_path / "whole", texts)
    for index, forward in enumerate((3, 1, 4, 2)):  # four processes, each stopped after none or some of its windows
        handle = stop_at(classifier, forward)
        with pytest.raises(KeyboardInterrupt):
            run(classifier, tokenizer, tmp_path / "run", texts, shard=(index, 4))
        handle.remove()
    forwards = []
    handle = classifier.register_forward_pre_hook(lambda *_: forwards.append(1))
    for share in ["any"] if again == "any" else [(index, again) for index in range(again)]:
        run(classifier, tokenizer, tmp_path / "run", texts, shard=share)
    handle.remove()
    whole_windows = 1 + 1  # the first process had done one, the third too
    assert len(forwards) == 2 * (10 - whole_windows)
    assert not list(tmp_path.glob("*.part"))
    io.merge(tmp_path / "run", remove=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run", "whole"]
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_one_that_had_finished_does_nothing_and_a_shard_that_is_gone_is_made_again(classifier, tokenizer, tmp_path, small_windows):
    texts = corpus(30)
    run(classifier, tokenizer, tmp_path / "whole", texts)
    for index in (0, 1):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(index, 2))
    forwards = []
    handle = classifier.register_forward_pre_hook(lambda *_: forwards.append(1))
    nothing = run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 2))
    assert (len(nothing.documents), forwards) == (0, [])
    io.shard_path(tmp_path / "run", "00001-of-00002").unlink()
    run(classifier, tokenizer, tmp_path / "run", texts, shard="any")
    handle.remove()
    assert len(forwards) == 2 * 2
    io.merge(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_metrics_of_all_processes_dead_ones_included_are_pooled(classifier, tokenizer, tmp_path, small_windows, monkeypatch):
    monkeypatch.setattr(share_module, "_SECONDS", 0)
    monkeypatch.setattr(share_module, "_SHARE", 0)
    texts = corpus(60)
    run(classifier, tokenizer, tmp_path / "whole", texts, metrics=[whole := metrics.HeadStatistics()])
    handle = stop_at(classifier, 4)
    with pytest.raises(KeyboardInterrupt):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 2), metrics=[metrics.HeadStatistics()])
    handle.remove()
    for _ in range(2):
        run(classifier, tokenizer, tmp_path / "run", texts, shard="any", metrics=[metrics.HeadStatistics()])
    with pytest.raises(ArgumentError, match="holds the states of 1 metrics, and 2 were given"):
        io.merge(tmp_path / "run", metrics=[metrics.HeadStatistics(), metrics.HeadStatistics()])
    io.merge(tmp_path / "run", metrics=[pooled := metrics.HeadStatistics()])
    assert (tmp_path / "run").read_bytes().count(b"HeadStatistics") == (tmp_path / "whole").read_bytes().count(b"HeadStatistics")
    for name in ("count", "max", "min"):
        assert torch.equal(getattr(pooled.compute(), name), getattr(whole.compute(), name))
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(pooled.compute(), name), getattr(whole.compute(), name), rtol=1e-12, atol=0)
    with pytest.raises(ArgumentError, match="object cannot be pooled over several processes: it needs save_state"):
        run(classifier, tokenizer, tmp_path / "other", texts, shard="any", metrics=[type("object", (), {"update": print})()])


def test_what_is_missing_or_does_not_belong_is_named(classifier, tokenizer, tmp_path, small_windows):
    texts = corpus(20)  # windows of six
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(1, 3))
    with pytest.raises(FormatError, match="of 20 texts, those from 0 to 5, 12 to 17, 18 to 19 are not done. Run the same command again"):
        io.merge(tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"run.claims belongs to a different run \(max_length: was '24', now '9'\)"):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(2, 3), max_length=9)
    changed = (text if place else "changed" for place, text in enumerate(texts))
    run(classifier, tokenizer, tmp_path / "streamed", (text for text in texts), shard=(0, 3))
    with pytest.raises(ArgumentError, match="the texts of window 0 have changed since they were analysed"):
        run(classifier, tokenizer, tmp_path / "streamed", changed, shard="any")
    with pytest.raises(ArgumentError, match="this process read 19 texts, another one 20"):
        run(classifier, tokenizer, tmp_path / "streamed", (text for text in texts[:19]), shard=(1, 3))
    (tmp_path / "foreign.claims").write_text("mine\n")
    with pytest.raises(ArgumentError, match=r"foreign.claims: not the claims of a run of attviz"):
        run(classifier, tokenizer, tmp_path / "foreign", texts, shard="any")
    assert (tmp_path / "foreign.claims").read_text() == "mine\n"
    with pytest.raises(ArgumentError, match=r"shard must be \(index, count\)"):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(3, 3))
    with pytest.raises(ArgumentError, match=r'shard must be \(index, count\), or "any"'):
        run(classifier, tokenizer, tmp_path / "run", texts, shard="all")
    with pytest.raises(ArgumentError, match="shard= needs archive="):
        analyze(classifier, tokenizer, texts, shard=(0, 2))
    with pytest.raises(ArgumentError, match="--shard must be any"):
        share_of("3")
    with pytest.raises(FileNotFoundError, match="no shards of this archive"):
        io.merge(tmp_path / "none")


def test_what_a_living_process_has_is_left_to_it(classifier, tokenizer, tmp_path, small_windows, monkeypatch):
    texts, real = corpus(24), encoding._tokenized

    def interrupted(*args):  # inside the first window of this process, another one comes and goes
        monkeypatch.setattr(encoding, "_tokenized", real)
        run(classifier, tokenizer, tmp_path / "run", texts, shard="any")
        return real(*args)

    monkeypatch.setattr(encoding, "_tokenized", interrupted)
    run(classifier, tokenizer, tmp_path / "run", texts, shard="any")
    assert [len(io.load(io.shard_path(tmp_path / "run", label)).documents) for label in ("00000", "00001")] == [6, 18]
    run(classifier, tokenizer, tmp_path / "whole", texts)
    io.merge(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_texts_of_other_shares_are_not_cut_into_tokens(classifier, tokenizer, tmp_path, small_windows, monkeypatch):
    seen = []
    real = encoding._tokenized
    monkeypatch.setattr(encoding, "_tokenized", lambda source, *rest: (seen.append(source.name), real(source, *rest))[1])
    run(classifier, tokenizer, tmp_path / "run", corpus(24), shard=(1, 4))
    assert seen == [f"n{place}" for place in range(6, 12)]


@pytest.fixture(scope="module")
def folder(classifier, tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    classifier.save_pretrained(place)
    tokenizer.save_pretrained(place)
    (place / "texts.txt").write_text("\n".join(text for text in corpus(300) if text) + "\n")
    return place


def test_shards_of_the_command_merge_to_what_one_process_writes(folder, tmp_path, capsys):
    command = ["analyze", str(folder), str(folder / "texts.txt"), "--batch-size", "2", "--quiet", "-o"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    for index in (1, 0):
        assert main([*command, str(tmp_path / "run"), "--shard", f"{index}/2"]) == 0
    assert f"When all shards are done: attviz merge {tmp_path / 'run'}" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def children(parent):
    """Processes whose parent this is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_torchrun_with_a_rank_killed_and_started_again_equals_one_process(folder, tmp_path):
    command = [str(folder), str(folder / "texts.txt"), "--batch-size", "2", "--quiet", "-o"]
    assert main(["analyze", *command, str(tmp_path / "whole")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "attviz", "analyze"]
    started = [*torchrun, *command, str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(started, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("run.shard-*.part")) and time.monotonic() < deadline:  # a rank has begun
        time.sleep(0.01)
    os.kill(children(first.pid)[0], signal.SIGKILL)
    assert first.wait(200) != 0
    assert not (tmp_path / "run").exists()
    again = subprocess.run(started, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_synthetic_corpus_in_shards_opens_reads_and_merges(tmp_path):
    from benchmarks.scale import measure

    result = measure(tmp_path, documents=4000, shards=3)  # asserts what it reads
    assert result["bytes_a_token"] < 80


def test_a_document_in_two_shards_is_named(tmp_path):
    from benchmarks.scale import write_shard

    for index in (0, 1):
        write_shard(io.shard_path(tmp_path / "run", f"0000{index}"), np.array([1024 * index, 1028]), [index], 1030)
    opened = io.load(tmp_path / "run").documents
    assert len(opened) == 4
    with pytest.raises(FormatError, match="out of order, or in two shards"):
        list(opened)
    write_shard(io.shard_path(tmp_path / "run", "00002"), np.array([1028]), [1], 1030)
    with pytest.raises(FormatError, match=r"shard-00002 and run.shard-00001 both hold window 1"):
        io.load(tmp_path / "run")


def test_a_first_line_of_the_claims_that_a_kill_cut_is_written_again(tmp_path):
    settings = {"model": "m", "batch_size": "2"}
    Claims(tmp_path / "run.attviz", settings).close()
    path = claims_path(tmp_path / "run.attviz")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        Claims(tmp_path / "run.attviz", settings).close()
        assert path.read_bytes() == whole
    path.write_bytes(whole[:60])  # of a run with other settings
    Claims(tmp_path / "run.attviz", {"model": "another"}).close()
    for foreign in (b"my notes", b"deadbeef " + b"my own notes, longer than a mark of ours"):
        path.write_bytes(foreign)
        with pytest.raises(ArgumentError, match="not the claims of a run of attviz"):
            Claims(tmp_path / "run.attviz", settings)
        assert path.read_bytes() == foreign
