"""What the mutants are made of: each kind of file is written whole, changed by some bytes, and read as a user reads it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.attacks.bytes_changed import mutated
from benchmarks.attacks.kills import Analyze, analysis


class Archive:
    """An archive of this version: every document that can be read is the one that was written."""

    name = "archive"

    def __init__(self, folder: Path) -> None:
        from attviz import io

        self.path = io.save(analysis(), folder / "whole.attviz", precision="float16")
        self.documents = list(io.load(self.path).documents)

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        (folder / "mutant.attviz").write_bytes(mutated(self.path.read_bytes(), dice))
        return folder / "mutant.attviz"

    def read(self, path: Path) -> None:
        from attviz import io

        for one, other in zip(io.load(path).documents, self.documents, strict=True):
            assert one.text == other.text
            assert one.tokens == other.tokens
            assert np.array_equal(one.diagonal, other.diagonal)


class OldArchive(Archive):
    """An archive of the first edition, without checksums: what is read has the right shape; then it becomes a page and a table."""

    name = "old-archive"

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        super().__init__(folder)
        with safe_open(self.path, "numpy") as file:
            metadata = dict(file.metadata()) | {"version": "1"}
        tensors = load_file(self.path)
        del tensors["checksums"]
        save_file(tensors, self.path, metadata)

    def read(self, path: Path) -> None:
        from attviz import io
        from attviz.viewer import view

        loaded = io.load(path)
        for document in loaded.documents:
            assert document.diagonal.shape[2] == len(document.tokens)
        with np.errstate(all="ignore"):
            view(loaded)
            io.to_csv(loaded, path.with_suffix(".csv"))
        io.verify(path)


class AttvizJson:
    """A file of the original tool: numbers from 0 to 1, one a token."""

    name = "json"

    def __init__(self, folder: Path) -> None:
        from attviz import io

        self.path = io.write_attviz_json(io.attviz_documents(analysis()), folder / "whole.json")

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        (folder / "mutant.json").write_bytes(mutated(self.path.read_bytes(), dice))
        return folder / "mutant.json"

    def read(self, path: Path) -> None:
        from attviz import io
        from attviz.viewer import view

        documents = io.read_attviz_json(path)
        for document in documents:
            for one in document.sets:
                assert all(len(vector.values) == len(one.tokens) for vector in one.vectors)
                assert all(0 <= value <= 1 for vector in one.vectors for value in vector.values)
        view(documents)
        io.analysis_of(documents)


class State:
    """The saved state of a metric: it is the state that was saved."""

    name = "state"

    def __init__(self, folder: Path) -> None:
        import torch

        from attviz import metrics

        torch.manual_seed(0)
        self.metric = metrics.HeadStatistics()
        self.metric.update(torch.rand(2, 2, 3, 5))
        self.path = folder / "whole.safetensors"
        self.metric.save_state(self.path)

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        (folder / "mutant.safetensors").write_bytes(mutated(self.path.read_bytes(), dice))
        return folder / "mutant.safetensors"

    def read(self, path: Path) -> None:
        from attviz import metrics

        other = metrics.HeadStatistics()
        other.load_state(path)
        assert bool((other.compute().mean == self.metric.compute().mean).all())


class Table:
    """A data set in CSV, TSV or JSON lines: texts are strings, labels one each."""

    name = "table"
    contents: ClassVar = {
        ".csv": 'text,label\n"the ""old"" bridge\nover",a\nmatch,b\n' * 20,
        ".tsv": "text\tlabel\nthe old bridge\t1\nmatch\t0\n" * 20,
        ".jsonl": '{"text": "the old bridge", "label": 1}\n{"text": "match", "label": 0}\n' * 20,
    }

    def __init__(self, folder: Path) -> None:
        pass

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        suffix = dice.choice(sorted(self.contents))
        path = folder / f"mutant{suffix}"
        path.write_bytes(mutated(self.contents[suffix].encode(), dice))
        return path

    def read(self, path: Path) -> None:
        from attviz.analysis.reading import read_texts

        table = read_texts(path)
        assert all(isinstance(text, str) for text in table.texts)
        assert table.labels is None or len(table.labels) == len(table.texts)


class Resume:
    """The folder of a stopped run with a file mutated: the run ends with the same bytes, or is refused."""

    name = "resume"

    def __init__(self, folder: Path) -> None:
        self.documents = list(enumerate(analysis().documents))  # type: ignore[attr-defined]
        self.whole = self._finished(folder / "whole.attviz")
        self.stopped = folder / "stopped.attviz.part"
        with self._partial(folder / "stopped.attviz") as growing:
            growing.append(self.documents[:2], ("a", "b"))
            growing.append(self.documents[2:3], ("a", "b"))

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        target = folder / "mutant.attviz.part"
        shutil.copytree(self.stopped, target)
        victim = dice.choice(sorted(target.iterdir()))
        victim.write_bytes(mutated(victim.read_bytes(), dice))
        return folder / "mutant.attviz"

    def read(self, path: Path) -> None:
        assert self._finished(path) == self.whole

    def _finished(self, path: Path) -> bytes:
        from attviz.io.partial import PartialArchive

        assert PartialArchive
        with self._partial(path) as growing:
            done = growing.num_documents
            for entry, (number, _) in zip((one for batch in growing.batches() for one in batch), self.documents, strict=False):
                assert entry.number == number
            if done < 2:
                growing.append(self.documents[:2], ("a", "b"))
            for place in range(max(done, 2), len(self.documents)):
                growing.append(self.documents[place : place + 1], ("a", "b"))
            growing.finish(layers=("a", "b"), label_names=None, model_name="m")
        return path.read_bytes()

    @staticmethod
    def _partial(path: Path) -> Any:
        from attviz.io.partial import PartialArchive

        return PartialArchive(path, {"precision": "float16"})


class Shards:
    """Two shards with a file of theirs mutated: what opens or merges is what one process would have written."""

    name = "shards"

    def __init__(self, folder: Path) -> None:
        import attviz
        from attviz.analysis import encoding, run, runner

        work, self.folder = Analyze(), folder
        encoding.WINDOW = runner.WINDOW = run.WINDOW = 1  # batches: both shards get some
        options = {"archive": folder / "run.attviz", "batch_size": 2, "progress": False}
        for number in range(2):
            attviz.analyze(work.model, work.tokenizer, work.texts, shard=(number, 2), **options)
        self.whole = attviz.analyze(work.model, work.tokenizer, work.texts, **options | {"archive": folder / "whole"})

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        for file in self.folder.glob("run.attviz*"):
            (shutil.copytree if file.is_dir() else shutil.copy2)(file, folder / file.name)
        victim = dice.choice(sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size))
        victim.write_bytes(mutated(victim.read_bytes(), dice))
        return folder / "run.attviz"

    def read(self, path: Path) -> None:
        from attviz import io

        for documents in (io.load(path).documents, io.load(io.merge(path)).documents):
            for one, other in zip(documents, self.whole.documents, strict=True):
                assert (one.text, one.tokens) == (other.text, other.tokens)
                assert np.array_equal(one.diagonal, other.diagonal)


class Corpus:
    """Statistics of a corpus, or the state of their metric, mutated: they are those that were written."""

    name = "statistics"

    def __init__(self, folder: Path) -> None:
        from attviz import metrics
        from attviz.analysis import accumulate

        work, self.folder, heads = Analyze(), folder, metrics.HeadStatistics()
        accumulate(work.model, work.tokenizer, work.texts, [heads], folder / "run.stats", batch_size=2, progress=False)
        self.mean = heads.compute().mean

    def prepare(self, folder: Path, dice: random.Random) -> Path:
        for file in self.folder.glob("run.stats*"):
            shutil.copy2(file, folder / file.name)
        victim = dice.choice(sorted(folder.iterdir()))
        victim.write_bytes(mutated(victim.read_bytes(), dice))
        return folder / "run.stats"

    def read(self, path: Path) -> None:
        from attviz.analysis import read_statistics

        for metric in read_statistics(path).metrics.values():
            assert bool((metric.compute().mean == self.mean).all())


KINDS: tuple[Callable[[Path], Any], ...] = (Archive, OldArchive, AttvizJson, State, Table, Resume, Shards, Corpus)
