"""What streaming metrics cost a training step: alternating pairs in one process, correctness before time.

    python -m benchmarks.training --pairs 15

The model has the shape of all-MiniLM-L6-v2, classifies, and takes 8 x 128 tokens. Before anything is timed, loss and gradients with
the metrics are compared bit by bit with those without, and what the metrics counted with the number of tokens. Each pair runs the
plain step and the watched one directly after each other, taking turns to go first; the ratio is the median over the pairs. On the CPU,
the ratio of CPU times is given as well: it moves less when others use the machine. ``metrics_cpu_share`` is the CPU time inside the
metrics' updates over that of the plain steps.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import attviz
from attviz.metrics import AttentionHealth, HeadStatistics, TokenStatistics, VocabularyStatistics
from benchmarks.environment import environment

TOKENS = (8, 128)


@dataclass(frozen=True)
class Case:
    """One row: metrics, how often a step is captured, and what was hoped for."""

    name: str
    metrics: Callable[[], list[Any]]
    target: float
    share: float = 1.0  # of the steps that are captured; the others cost nothing measurable


CASES = (
    Case("capture alone", lambda: [], 1.02),
    Case("TokenStatistics + HeadStatistics", lambda: [TokenStatistics(), HeadStatistics()], 1.02),
    Case("... + VocabularyStatistics(by='head')", lambda: [TokenStatistics(), HeadStatistics(), VocabularyStatistics(by="head")], 1.05),
    Case("AttentionHealth, every_forwards=50", lambda: [AttentionHealth()], 1.02, share=1 / 50),
)


class Training:
    """A model in training and one batch."""

    def __init__(self, device: str, attention_dropout: float) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            attention_probs_dropout_prob=attention_dropout,
        )
        self.device, self.vocab = device, config.vocab_size
        self.model = BertForSequenceClassification(config).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        input_ids = torch.randint(0, config.vocab_size, TOKENS, device=device)
        mask = torch.ones(TOKENS, dtype=torch.long, device=device)
        mask[::2, 96:] = 0  # a quarter of half the texts is padding
        self.batch = {"input_ids": input_ids, "attention_mask": mask, "labels": input_ids[:, 0] % 2}

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model(**self.batch).loss.backward()
        self.optimizer.step()

    def gradients(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(1)  # the same dropout each time
        self.model.zero_grad(set_to_none=True)
        loss = self.model(**self.batch).loss
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


def check(training: Training, case: Case) -> None:
    """Raise unless the watched step gives the same loss and gradients, and the metrics saw every token."""
    expected, gradients = training.gradients()
    metrics = case.metrics()
    with attviz.capture(training.model, metrics=metrics):
        loss, watched = training.gradients()
    if not torch.equal(loss, expected) or not all(torch.equal(a, b) for a, b in zip(gradients, watched, strict=True)):
        raise SystemExit(f"{case.name}: loss or gradients changed; nothing is timed")
    tokens = int(training.batch["attention_mask"].sum())
    for metric in metrics:
        result = metric.compute()
        seen = result.rows[0, 0] if isinstance(metric, AttentionHealth) else None
        seen = result.count[0, 0].sum() if isinstance(metric, HeadStatistics | VocabularyStatistics) else seen
        seen = result.mean.isfinite().sum() if isinstance(metric, TokenStatistics) else seen
        if int(seen) != tokens:
            raise SystemExit(f"{type(metric).__name__} saw {int(seen)} tokens of {tokens}; nothing is timed")


def timed(training: Training, run: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if training.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def clock(metric: Any) -> list[float]:
    """Make a metric note the CPU seconds of each update: what it costs beside its readings, free of the noise of two steps compared."""
    original, spent = metric.update, []

    def update(*args: Any) -> None:
        start = time.thread_time()
        original(*args)
        spent.append(time.thread_time() - start)

    metric.update = update
    return spent


def captured_step(training: Training, opened: Any) -> None:
    with opened:
        training.step()


def measure(training: Training, case: Case, pairs: int) -> dict[str, object]:
    """Time the pairs of one case."""
    metrics = case.metrics()
    spent = [clock(metric) for metric in metrics]
    options: dict[str, Any] = {"metrics": metrics, "keep": "none"} if metrics else {}
    plain: list[tuple[float, float]] = []
    watched: list[tuple[float, float]] = []
    for pair in range(pairs + 2):
        order = [(plain, training.step), (watched, partial(captured_step, training, attviz.capture(training.model, **options)))]
        for times, run in order if pair % 2 else reversed(order):
            times.append(timed(training, run))
    wall, cpu = (_ratios(plain[2:], watched[2:], which) for which in (0, 1))  # the first two pairs warm up
    amortised = 1 + (statistics.median(cpu if training.device == "cpu" else wall) - 1) * case.share
    return {
        "case": case.name,
        "plain_ms": round(1e3 * statistics.median(times[0] for times in plain[2:]), 2),
        "wall_ratio": round(statistics.median(wall), 4),
        "cpu_ratio": round(statistics.median(cpu), 4),
        "cpu_ratio_p20": round(_quantile(cpu, 0.2), 4),
        "cpu_ratio_p80": round(_quantile(cpu, 0.8), 4),
        "metrics_cpu_ms": round(1e3 * sum(map(sum, spent)) / len(watched), 2),
        "metrics_cpu_share": round(sum(map(sum, spent)) / sum(times[1] for times in plain), 4),
        "share_of_steps": case.share,
        "ratio_over_all_steps": round(amortised, 4),
        "target": case.target,
        "met": amortised <= case.target,
    }


def _ratios(plain: Sequence[tuple[float, float]], watched: Sequence[tuple[float, float]], which: int) -> list[float]:
    return [after[which] / before[which] for before, after in zip(plain, watched, strict=True)]


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[round(q * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "training.csv")
    parser.add_argument("--attention-dropout", type=float, nargs="+", default=[0.1, 0.0], help="0.1 is BERT's; 0 takes the fused kernel")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for dropout in options.attention_dropout:
        training = Training(options.device, dropout)
        for case in CASES:
            check(training, case)
            shared = {"attention_dropout": dropout, "pairs": options.pairs}
            rows.append({**measure(training, case, options.pairs), **shared, "load": round(os.getloadavg()[0], 1), **environment()})
            print(
                {
                    key: rows[-1][key]
                    for key in ("case", "plain_ms", "wall_ratio", "cpu_ratio", "metrics_cpu_share", "ratio_over_all_steps", "target")
                }
            )
    with open(options.output, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"table: {options.output}")


if __name__ == "__main__":
    main()
