"""The numbers of the two experiments under ``examples/``, as CSV rows.

    python -m benchmarks.experiments collapse > benchmarks/results/collapse.csv
    python -m benchmarks.experiments bbc path/to/bbc > benchmarks/results/bbc.csv      about half an hour; see examples/bbc

``collapse`` trains a small model twice, at a sound and at a rising learning rate, and says when each alarm of ``AttentionHealth`` was
first raised and when the loss diverged for good. ``bbc`` fine-tunes all-MiniLM-L6-v2 and reports accuracy and agreement with occlusion.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.environment import environment

EXAMPLES = Path(__file__).parents[1] / "examples"


def collapse(steps: int = 300) -> list[dict[str, Any]]:
    """One row per learning rate."""
    example = _example("entropy_collapse")
    data = example.text()
    rows = []
    for name, end in (("sound", 1e-3), ("rising", 1.0)):
        with contextlib.redirect_stdout(sys.stderr):  # it tells of its alarms
            run = example.train(data, steps, 1e-3, end)
        rows.append(
            {
                "learning_rate": name,
                "steps": steps,
                "entropy_collapse_alarm": run.alarms.get("entropy collapse", ""),
                "exploding_logit_alarm": run.alarms.get("exploding logit", ""),
                "diverged_at": "" if run.divergence is None else run.divergence,
                "last_loss": round(run.loss[-1], 3),
            }
        )
    return rows


def bbc(folder: str) -> list[dict[str, Any]]:
    """One row per number of the report."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([sys.executable, str(EXAMPLES / "bbc" / "run.py"), folder, "-o", out], check=True, stdout=sys.stderr)
        report = json.loads((Path(out) / "report.json").read_text())
    return bbc_rows(report)


def bbc_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as rows: a number, or the value, null and z-score of an agreement."""
    rows: list[dict[str, Any]] = []
    for name, found in report.items():
        value, null, z = (found.get(key, "") for key in ("value", "null_mean", "z")) if isinstance(found, dict) else (found, "", "")
        if isinstance(value, (int, float)):
            rows.append({"number": name, "value": round(value, 4), "null": _short(null), "z": _short(z)})
    return rows


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def main(what: str, *arguments: str) -> None:
    """Write the CSV to stdout."""
    rows = {"collapse": collapse, "bbc": bbc}[what](*arguments)
    where = environment()
    writer = csv.DictWriter(sys.stdout, [*rows[0], *where])
    writer.writeheader()
    writer.writerows(row | where for row in rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
