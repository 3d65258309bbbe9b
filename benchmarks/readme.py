"""Fills the numbers of README.md from the CSV files in ``results/``; every number there has a row, a machine, a commit and a command.

python -m benchmarks.readme             rewrite the numbers
python -m benchmarks.readme --check     exit code 1 if README.md says anything else (CI)
python -m benchmarks.readme --commands  the commands that make the rows, in the order to run them on a quiet machine
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = "<!-- numbers: python -m benchmarks.readme -->", "<!-- end of numbers -->"
COMMANDS = {
    "capture.csv": "python -m benchmarks.capture",
    "training.csv": "python -m benchmarks.training",
    "import_time.csv": "python -m benchmarks.import_time > benchmarks/results/import_time.csv",
    "accuracy.csv": "python -m benchmarks.accuracy > benchmarks/results/accuracy.csv",
    "page_size.csv": "python -m benchmarks.page_size 64 128 256 512 > benchmarks/results/page_size.csv",
    "collapse.csv": "python -m benchmarks.experiments collapse > benchmarks/results/collapse.csv",
    "bbc.csv": "python -m benchmarks.experiments bbc path/to/bbc > benchmarks/results/bbc.csv",
}
CASES = {
    "bert-base-1x2048": "BERT-base size, 1 x 2048",
    "bert-base-1x512": "BERT-base size, 1 x 512",
    "minilm-8x128": "MiniLM size, 8 x 128",
    "llama-like-1x32768": "Llama-like, 2 layers, 1 x 32768",
}
TOOLS = {"attviz": "attviz", "output_attentions": "`output_attentions`", "nnsight": "nnsight", "transformer_lens": "TransformerLens"}
Rows = list[dict[str, str]]


def rows(name: str) -> Rows:
    """Rows of a result; none where it was not made yet."""
    path = RESULTS / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cost(found: Rows) -> str:
    """Time and memory of a captured forward, for each tool."""
    lines = [f"| case | {' | '.join(TOOLS.values())} |", "|---" * (1 + len(TOOLS)) + "|"]
    for case, title in CASES.items():
        lines.append(f"| {title} | {' | '.join(_cell(found, case, tool) for tool in TOOLS)} |")
    return "\n".join(lines)


def _cell(found: Rows, case: str, tool: str) -> str:
    one = {row["what"]: row for row in found if row["case"] == case and row["provider"] == tool}
    if "forward" not in one:
        return ""
    ratio = f"{float(one['forward']['ratio_p50']):.2f}"
    if "memory" not in one:
        return ratio
    mebi = int(one["memory"]["extra_peak_bytes"]) / 2**20
    return f"{ratio}, {f'{mebi:.0f} MiB' if mebi >= 1 else 'no extra memory'}"


def training(found: Rows) -> str:
    """What metrics cost a training step."""
    row = next(row for row in found if row["case"] == "TokenStatistics + HeadStatistics" and float(row["attention_dropout"]) == 0)
    what = "a training step with `TokenStatistics` and `HeadStatistics` (MiniLM size, 8 x 128)"
    return f"{what} | {float(row['cpu_ratio']):.2f} x the plain step"


def import_time(found: Rows) -> str:
    """The import, once torch is there."""
    return f"`import attviz`, after `import torch` | {statistics.median(float(row['attviz_s']) for row in found):.2f} s"


def accuracy(found: Rows) -> str:
    """Real weights against float64."""
    row = found[0]
    return (
        f"largest error on all-MiniLM-L6-v2 against float64, {int(row['values'])} values | {float(row['largest_error']):.0e} "
        f"(eager float32 weights: {float(row['largest_error_eager_float32']):.0e})"
    )


def page_size(found: Rows) -> str:
    """Ours and BertViz's page of one text."""
    size = {row["tool"]: int(row["html_bytes"]) / 1e6 for row in found if row["tokens"] == "512"}
    ours, theirs = size["attviz"], size["bertviz head_view"]
    return f"the page of one text of 512 tokens, BERT-base size | {ours:.2f} MB (BertViz's head view: {theirs:.0f} MB)"


def collapse(found: Rows) -> str:
    """How early an alarm comes."""
    row = next(row for row in found if row["learning_rate"] == "rising")
    first = min(int(row[name]) for name in ("entropy_collapse_alarm", "exploding_logit_alarm") if row[name])
    what = "a run driven into divergence ([example](examples/entropy_collapse.py))"
    return f"{what} | first alarm at step {first}, loss diverges at step {row['diverged_at']}"


def bbc(found: Rows) -> str:
    """The experiment of the AttViz paper."""
    value = {row["number"]: float(row["value"]) for row in found}
    return (
        f"BBC news, all-MiniLM-L6-v2 ([example](examples/bbc)) | accuracy {100 * value['accuracy']:.1f} %, "
        f"rank correlation of the mean diagonal with occlusion {value['occlusion_mean']:.2f}"
    )


LINES: dict[str, Callable[[Rows], str]] = {
    "training.csv": training,
    "import_time.csv": import_time,
    "accuracy.csv": accuracy,
    "page_size.csv": page_size,
    "collapse.csv": collapse,
    "bbc.csv": bbc,
}


def block() -> str:
    """Both tables: of what was measured, no more."""
    lines = ["| what | measured |", "|---|---|"]
    lines += [f"| {line(found)} ([rows](benchmarks/results/{name})) |" for name, line in LINES.items() if (found := rows(name))]
    return f"{MARKS[0]}\n\n{cost(rows('capture.csv'))}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}"


def filled(text: str) -> str:
    """README with up-to-date numbers."""
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise SystemExit(f"README.md has no place for the numbers: put {MARKS[0]} and {MARKS[1]} into it.")
    return before + block() + after


def main(*options: str) -> int:
    if "--commands" in options:
        print("\n".join(f"{command:<90} # {'there' if rows(name) else 'missing'}" for name, command in COMMANDS.items()))
        return 0
    readme = ROOT / "README.md"
    said = readme.read_text(encoding="utf-8")
    meant = filled(said)
    if "--check" in options:
        if said != meant:
            print("README.md does not say what benchmarks/results says: run python -m benchmarks.readme", file=sys.stderr)
        return int(said != meant)
    readme.write_text(meant, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
