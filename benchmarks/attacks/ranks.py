"""Several processes on one data set, killed at random moments and started again in other numbers: the bytes of a single process.

    python -m benchmarks.attacks.ranks [--rounds 20] [--texts 400] [--seed 0]

Each round: up to four processes take windows of the data set, with uneven shares, with empty texts, some with more processes than windows;
a random one is killed (SIGKILL) at a random moment, now and then all of them; then another number of processes goes on, until a pass is
not killed. The merged archive must be that of a single process, byte for byte, and the pooled statistics its statistics: counts and
extremes exactly, mean and deviation to 1e-12.
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

WINDOW = 2  # batches a window: few texts make many windows
PROCESSES = (1, 2, 3, 4)


def _model() -> tuple[Any, Any]:
    import torch
    from transformers import BertConfig, BertModel

    from benchmarks.attacks.kills import _tokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 24}
    return BertModel(BertConfig(vocab_size=8, **sizes)).eval(), _tokenizer()


def corpus(count: int, dice: random.Random) -> list[str]:
    """Texts of 0 to 30 tokens, so that some are empty and some are cut; windows of empty texts alone among them."""
    texts = [" ".join(dice.choices("abc", k=dice.randint(0, 30))) for _ in range(count)]
    if count < 24:
        return ["a b", *texts[1:]]
    start = dice.randrange(count - 12)
    return texts[:start] + [""] * 12 + texts[start + 12 :]


def work(path: Path, texts: list[str], share: Any, slow: float) -> Any:
    """One process of the run; its metric."""
    import torch

    import attviz
    from attviz import metrics
    from attviz.analysis import encoding, run, runner
    from attviz.analysis import share as sharing

    torch.set_num_threads(1)
    encoding.WINDOW = runner.WINDOW = run.WINDOW = WINDOW
    sharing._SECONDS = sharing._SHARE = 0
    model, tokenizer = _model()
    model.register_forward_hook(lambda *_: time.sleep(slow))
    heads = metrics.HeadStatistics()
    options = {"batch_size": 3, "max_length": 20, "metrics": [heads], "progress": False, "overwrite": True}
    attviz.analyze(model, tokenizer, texts, archive=path, shard=share, **options)
    return heads


def one_pass(path: Path, texts: list[str], dice: random.Random, *, kill: bool) -> tuple[int, int]:
    """Some processes at once; how many there were, and how many were killed."""
    count = dice.choice(PROCESSES)
    fixed = dice.random() < 0.4 and not kill  # shares that are fixed cover everything only if nobody dies
    context = multiprocessing.get_context("fork")
    shares = [(index, count) if fixed else "any" for index in range(count)]
    team = [context.Process(target=work, args=(path, texts, share, dice.choice((0.0, 0.005, 0.03)))) for share in shares]
    for process in team:
        process.start()
    killed = 0
    if kill:
        time.sleep(dice.uniform(0.01, 1.2))
        victims = team if dice.random() < 0.3 else dice.sample(team, dice.randint(1, count))
        for process in victims:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
                killed += 1
    for process in team:
        process.join()
    failed = [process.exitcode for process in team if process.exitcode not in (0, -signal.SIGKILL)]
    assert not failed, f"processes ended with {failed}"
    return count, killed


def one_round(folder: Path, texts: list[str], dice: random.Random) -> tuple[str, int, int]:
    """Kill and start again until it is done; the fault ('' if none), passes and kills."""
    import torch

    from attviz import io, metrics

    whole, path = folder / "whole", folder / "run"
    expected = work(whole, texts, None, 0.0).compute()
    passes = kills = 0
    for _ in range(dice.randint(1, 6)):
        passes, kills = passes + 1, kills + one_pass(path, texts, dice, kill=True)[1]
    one_pass(path, texts, dice, kill=False)
    io.merge(path, metrics=[pooled := metrics.HeadStatistics()], remove=True)
    if path.read_bytes() != whole.read_bytes():
        return "other bytes than those of one process", passes, kills
    seen = pooled.compute()
    for name in ("count", "max", "min"):
        if not torch.equal(getattr(seen, name), getattr(expected, name)):
            return f"other {name} than one process", passes, kills
    for name in ("mean", "std"):
        if not torch.allclose(getattr(seen, name), getattr(expected, name), rtol=1e-12, atol=0):
            return f"other {name} than one process", passes, kills
    left = sorted(entry.name for entry in folder.iterdir())
    return ("" if left == ["run", "whole"] else f"left {left}"), passes, kills


def run(rounds: int, most_texts: int, seed: int) -> tuple[list[str], int, int]:
    """So many rounds; faults, passes and kills."""
    faults: list[str] = []
    passes = kills = 0
    for number in range(rounds):
        dice = random.Random(f"{seed} {number}")
        texts = corpus(dice.choice((5, 40, most_texts)), dice)
        with tempfile.TemporaryDirectory() as folder:
            fault, more, killed = one_round(Path(folder), texts, dice)
        passes, kills = passes + more, kills + killed
        if fault:
            faults.append(f"round {number} (seed {seed}): {fault}")
    return faults, passes, kills


def main() -> int:
    """Run and print; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 20), ("texts", 400), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    faults, passes, kills = run(args.rounds, args.texts, args.seed)
    print("\n".join(faults))
    print(f"{len(faults)} faults in {args.rounds} rounds, {passes} passes that were killed, {kills} processes killed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
