"""Print the information that a bug report needs.

Versions, devices, the attention backends found here, and the operators a capture would tap.

attviz info
attviz info --json
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

HELP = "versions, backends found and operators tapped, for a bug report"
_PACKAGES = (
    "torch", "transformers", "triton", "numpy", "torchmetrics", "jaxtyping", "safetensors", "matplotlib", "flash-attn", "flash-attn-3",
    "kernels", "xformers", "accelerate", "peft", "lightning", "sentence-transformers", "timm", "diffusers", "anywidget", "pandas",
    "pyarrow",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz info``."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = collect()
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    for title, rows in report.items():
        print(f"{title}:")
        width = max((len(name) for name in rows), default=0)
        for name, value in rows.items():
            print(f"  {name:<{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """Return the report: versions, devices and operators, each a table of names and values."""
    import attviz

    versions = {"attviz": attviz.__version__, "python": platform.python_version(), "platform": platform.platform()}
    versions |= {name: found for name in _PACKAGES if (found := _version_of(name)) is not None}
    return {"versions": versions, "devices": _devices(), "operators tapped": _operators()}


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    if torch.cuda.is_available():
        kind = "ROCm" if torch.version.hip else "CUDA"
        found |= {f"cuda:{index}": f"{torch.cuda.get_device_name(index)} ({kind})" for index in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    if torch.xpu.is_available():
        found["xpu"] = f"{torch.xpu.device_count()} devices"
    return found


def _operators() -> dict[str, list[str]]:
    """Return each operator of the table with the dispatch keys a capture would override in this process."""
    from attviz.hooks.tap import dispatcher
    from attviz.hooks.tap.operators import registered

    return {operator.name: dispatcher.keys_present(operator) or ["not in this build"] for operator in registered()}
