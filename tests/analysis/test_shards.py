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

from attviz import io
from attviz.analysis import analyze, encoding, runner
from attviz.analysis import run as run_module
from attviz.cli import main
from attviz.cli.ranks import share_of
from attviz.errors import ArgumentError, FormatError

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
    names = [f"n{place}" for place in range(len(texts))]
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


def test_a_stopped_shard_goes_on_and_a_finished_one_is_not_done_again(classifier, tokenizer, tmp_path, small_windows):
    texts = corpus(30)
    run(classifier, tokenizer, tmp_path / "whole", texts)
    left = [2]

    def stop(*_):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    handle = classifier.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 2))
    handle.remove()
    for index in (1, 0, 1):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(index, 2))
    forwards = []
    handle = classifier.register_forward_pre_hook(lambda *_: forwards.append(1))
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 2))
    handle.remove()
    assert forwards == []
    io.merge(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_is_missing_or_does_not_belong_is_named(classifier, tokenizer, tmp_path, small_windows):
    texts = corpus(20)
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(1, 3))
    with pytest.raises(FormatError, match="2 of 3 shards are not finished: 0/3, 2/3. Run them"):
        io.merge(tmp_path / "run")
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 3))
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(2, 3), max_length=9)
    with pytest.raises(
        FormatError, match=r"shard-00002-of-00003: it comes from a different run than .*shard-00000-of-00003 made it \(max_length differ\)"
    ):
        io.load(tmp_path / "run")
    run(classifier, tokenizer, tmp_path / "run", texts, shard=(0, 2))
    with pytest.raises(FormatError, match="there are shards of 2 and of 3"):
        io.load(tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"shard must be \(index, count\)"):
        run(classifier, tokenizer, tmp_path / "run", texts, shard=(3, 3))
    with pytest.raises(ArgumentError, match="shard= needs archive="):
        analyze(classifier, tokenizer, texts, shard=(0, 2))
    with pytest.raises(ArgumentError, match="--shard must be like 3/8"):
        share_of("3")
    with pytest.raises(FileNotFoundError, match="no shards of this archive"):
        io.merge(tmp_path / "none")


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

    result = measure(tmp_path, documents=1000, shards=3)  # asserts what it reads
    assert result["bytes_a_token"] < 80


def test_a_document_in_two_shards_is_named(tmp_path):
    from benchmarks.scale import write_shard

    for index in (0, 1):
        write_shard(io.shard_path(tmp_path / "run", index, 2), np.array([index, 5]), {"precision": "float16", "shard": f"{index}/2"})
    opened = io.load(tmp_path / "run").documents
    assert len(opened) == 4
    with pytest.raises(FormatError, match="out of order, or in two shards"):
        list(opened)
    with pytest.raises(FormatError, match="contain a document twice"):
        opened[0]
