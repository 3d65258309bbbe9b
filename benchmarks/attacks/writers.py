"""Several writers of one archive, and readers beside them: every load is one of the archives that were written, whole.

    python -m benchmarks.attacks.writers [--loads 60000] [--writers 4] [--readers 2]

A writer is refused while another holds the lock; some are killed in the middle of a write.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (3, 4000)  # tokens: archives of one block, and of several


def analysis(seed: int) -> Any:
    """An archive that can be told from every other: its text, its name and all its values are its seed."""
    from attviz.records import Analysis, Document

    count = SIZES[seed % 2]
    values = np.full((2, 2, count), seed / 1024, dtype=np.float16)
    documents = [Document(f"{seed}.{n}", ("t",) * count, values, name=str(seed)) for n in range(3)]
    return Analysis(("a", "b"), documents, model_name=str(seed))


def write(path: Path, seed: int, stop: Any, written: Any) -> None:
    """Save until told to stop, whenever the lock is free."""
    from attviz import io
    from attviz.errors import FormatError

    while not stop.is_set():
        try:
            io.save(analysis(seed), path, overwrite=True)
        except FormatError:
            time.sleep(0.0005)
        else:
            with written.get_lock():
                written.value += 1


def read(path: Path, count: int, wrong: Any, loads: Any) -> None:
    """Load, and compare every value with the archive's own name."""
    from attviz import io

    for _ in range(count):
        loaded = io.load(path)
        documents = list(loaded.documents)
        seed = int(loaded.model_name)
        sound = len(documents) == 3 and loaded.layers == ("a", "b")
        for n, document in enumerate(documents):
            sound &= document.text == f"{seed}.{n}" and document.name == str(seed) and len(document.tokens) == SIZES[seed % 2]
            sound &= bool((document.diagonal == np.float16(seed / 1024)).all())
        with loads.get_lock():
            loads.value += 1
            wrong.value += not sound


def run(folder: Path, *, loads: int, writers: int = 4, readers: int = 2, kill: bool = True) -> dict[str, int]:
    """Let them loose on one archive; how many loads, wrong ones, finished writes and killed writers there were."""
    from attviz import io

    context = multiprocessing.get_context("fork")
    path, stop = folder / "run.attviz", context.Event()
    io.save(analysis(1), path)
    written, wrong, done = context.Value("q", 0), context.Value("q", 0), context.Value("q", 0)

    def writer(seed: int) -> Any:
        process = context.Process(target=write, args=(path, seed, stop, written))
        process.start()
        return process

    team = [writer(seed) for seed in range(2, 2 + writers)]
    audience = [context.Process(target=read, args=(path, loads // readers, wrong, done)) for _ in range(readers)]
    for process in audience:
        process.start()
    killed, dice = 0, random.Random(0)
    while any(process.is_alive() for process in audience):
        time.sleep(0.05)
        if kill:
            victim = dice.randrange(writers)
            os.kill(team[victim].pid, signal.SIGKILL)
            team[victim].join()
            killed += 1
            team[victim] = writer(2 + victim + writers * killed)
    stop.set()
    for process in (*team, *audience):
        process.join()
    failed = sum(process.exitcode != 0 for process in (*team, *audience))
    io.save(analysis(7), path, overwrite=True)  # what the dead left is swept
    left = len(list(folder.iterdir())) - 1
    return {"loads": done.value, "wrong": wrong.value, "writes": written.value, "killed": killed, "failed": failed, "left": left}


def main() -> int:
    """Run and print; 1 if a load was wrong, a process failed, or something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("loads", 60_000), ("writers", 4), ("readers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), loads=args.loads, writers=args.writers, readers=args.readers)
    print(result)
    return 1 if result["wrong"] or result["failed"] or result["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
