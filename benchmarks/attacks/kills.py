"""SIGKILL at every file operation, one after another; then the same work again, to the same bytes.

    python -m benchmarks.attacks.kills [--every N] [--scenario NAME]

Each scenario runs in a child that the shim kills at its n-th operation. What lies there then must be the old file or the new one,
whole; the same work again, unharmed, must give the bytes of an undisturbed run and leave nothing else in the folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.attacks import shim

Work = Callable[[Path], None]


def documents(seed: int = 0) -> list[object]:
    """A few documents with everything set."""
    from attviz.records import Document

    generator = np.random.default_rng(seed)
    return [
        Document(
            f"text {n}", tuple(f"t{i}" for i in range(n + 1)), generator.random((2, 2, n + 1)).astype(np.float16), name=str(n), label=n
        )
        for n in range(5)
    ]


def analysis(seed: int = 0) -> object:
    """An analysis of :func:`documents`."""
    from attviz.records import Analysis

    return Analysis(("a", "b"), documents(seed), label_names=("x", "y", "z", "u", "v"), model_name="tiny")


def _save(path: Path) -> None:
    from attviz import io

    io.save(analysis(), path, overwrite=True)


def _page(path: Path) -> None:
    from attviz.viewer import view

    view(analysis()).save(path)


def _csv(path: Path) -> None:
    from attviz import io

    io.to_csv(analysis(), path)


def _json(path: Path) -> None:
    from attviz import io

    io.write_attviz_json(io.attviz_documents(analysis()), path)


class Analyze:
    """``attviz.analyze`` into an archive, with a metric whose statistics must be those of an undisturbed run."""

    def __init__(self) -> None:
        import torch
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 24}
        self.model = BertModel(BertConfig(vocab_size=8, **sizes)).eval()
        self.tokenizer = _tokenizer()
        self.texts = ["a b c a", "c", "b b b", "", "a c b a c", "c a"]

    def __call__(self, path: Path) -> None:
        import attviz
        from attviz import metrics
        from attviz.analysis import metric_states

        metric_states._SECONDS = metric_states._SHARE = 0  # save the states after every batch: as many operations as there can be
        heads = metrics.HeadStatistics()
        options = {"archive": path, "overwrite": True, "batch_size": 2, "metrics": [heads], "progress": False}
        attviz.analyze(self.model, self.tokenizer, self.texts, labels=[0, 1, 0, 1, 0, 1], label_names=["x", "y"], **options)
        result = heads.compute()
        (path.parent / "statistics").write_bytes(np.asarray(result.mean).tobytes() + np.asarray(result.std).tobytes())


class _Shard(Analyze):
    """The same as a process among several, then merged; the windows hold one batch, so that there are several."""

    def __call__(self, path: Path) -> None:
        import attviz
        from attviz import io, metrics
        from attviz.analysis import encoding, run, runner, share

        encoding.WINDOW = runner.WINDOW = run.WINDOW = 1
        share._SECONDS = share._SHARE = 0
        options = {"archive": path, "batch_size": 2, "progress": False, "labels": [0, 1, 0, 1, 0, 1], "label_names": ["x", "y"]}
        attviz.analyze(self.model, self.tokenizer, self.texts, shard="any", metrics=[metrics.HeadStatistics()], **options)
        io.merge(path, metrics=[heads := metrics.HeadStatistics()], overwrite=True, remove=True)
        result = heads.compute()  # mean and deviation depend on the order in which states are pooled, by 1e-16
        (path.parent / "statistics").write_bytes(b"".join(np.asarray(part).tobytes() for part in (result.count, result.max, result.min)))


def _tokenizer() -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "?": 4}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", pad_token="[PAD]", model_max_length=24)


SCENARIOS: dict[str, tuple[str, Callable[[], Work]]] = {
    "save": ("run.attviz", lambda: _save),
    "analyze": ("run.attviz", Analyze),
    "shard": ("run.attviz", _Shard),
    "page": ("page.html", lambda: _page),
    "csv": ("table.csv", lambda: _csv),
    "json": ("documents.json", lambda: _json),
}


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked child; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sweep(name: str, every: int = 1, offset: int = 0) -> Iterator[tuple[int, str]]:
    """Kill at operation 1, 1 + every, ...; yield (operation, fault), a fault being '' where all is well."""
    import attviz.io
    import attviz.viewer  # noqa: F401  # imported before the fork: a child is killed at our operations, not at Python's

    file, make = SCENARIOS[name]
    work = make()
    with tempfile.TemporaryDirectory() as warm:
        work(Path(warm) / file)
    with tempfile.TemporaryDirectory() as reference:
        expected = _whole_run(work, Path(reference), file)
        for old in (False, True):
            at = 1 + offset
            while True:
                with tempfile.TemporaryDirectory() as folder:
                    survived, fault = _one_kill(work, Path(folder), file, expected, at, old)
                if survived:
                    break
                yield at, fault and f"{name}, {'old file there' if old else 'nothing there'}, operation {at}: {fault}"
                at += every


def _whole_run(work: Work, folder: Path, file: str) -> dict[str, bytes]:
    assert in_child(lambda: work(folder / file)) == 0
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    assert file in found
    return found


def _one_kill(work: Work, folder: Path, file: str, expected: dict[str, bytes], at: int, old: bool) -> tuple[bool, str]:
    path, before = folder / file, b'an old file with our mark: "attviz' if old else None
    if before is not None:
        path.write_bytes(before)
        path.chmod(0o640)

    def armed() -> None:
        shim.arm(at)
        work(path)

    code = in_child(armed)
    if code == 0:
        return True, ""
    if code != -9:
        return False, f"ended with {code}"
    there = path.read_bytes() if path.exists() else None
    if there not in (before, expected[file]):
        return False, "neither the old file nor the new one"
    if in_child(lambda: work(path)) != 0:
        return False, "the same work again failed"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    left = sorted({entry.name for entry in folder.iterdir()} - set(expected))
    if found != expected:
        return False, f"other bytes in {sorted(name for name in expected if found.get(name) != expected[name])}, left {left}"
    if old and there == before and path.stat().st_mode & 0o777 != 0o640:
        return False, f"mode {path.stat().st_mode & 0o777:o}"
    return False, f"left {left}" if left else ""


def main() -> int:
    """Run the sweeps under the shim; 1 if anything was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only every n-th operation")
    parser.add_argument("--scenario", action="append", choices=tuple(SCENARIOS))
    args = parser.parse_args()
    if not shim.loaded():
        if shim.compiler() is None:
            print("kills: needs Linux and a C compiler (apt-get install gcc libc6-dev)", file=sys.stderr)
            return 2
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"LD_PRELOAD": str(shim.build(Path(folder)))}
            command = [sys.executable, "-m", "benchmarks.attacks.kills", *sys.argv[1:]]
            return subprocess.run(command, env=environment, check=False).returncode
    faults = 0
    for name in args.scenario or SCENARIOS:
        kills = 0
        for _, fault in sweep(name, args.every):
            kills += 1
            if fault:
                faults += 1
                print(fault, flush=True)
        print(f"{name}: {kills} kills", flush=True)
    print(f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
