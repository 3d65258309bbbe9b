"""Measure block sizes on a GPU and write them into the committed table. Nobody tunes in a user's training loop.

python -m benchmarks.kernels.tune             # measures this GPU's architecture, keeps the rows of the others
python -m benchmarks.kernels.tune --dry-run   # prints, writes nothing
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from attviz.kernels.twins import MAX_HEAD_DIM_SINGLE
from benchmarks.kernels.kernel_rows import Shape
from benchmarks.kernels.timing import time_calls

Blocks = dict[str, int]


def candidates(kernel: str) -> Iterator[Blocks]:
    """Block sizes worth a try; those that do not compile or spill lose by themselves."""
    if kernel == "logsumexp":
        for block_q, warps in itertools.product((16, 32, 64, 128), (2, 4, 8)):
            yield {"BLOCK_Q": block_q, "num_warps": warps}
    else:
        for block_q, block_k, warps, stages in itertools.product((64, 128), (16, 32, 64, 128), (4, 8), (1, 2, 3, 4)):
            yield {"BLOCK_Q": block_q, "BLOCK_K": block_k, "num_warps": warps, "num_stages": stages}


def call(kernel: str, head_dim: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """A Llama-like layer through the public function."""
    from attviz.kernels import diagonal_from_logsumexp, diagonal_from_qk

    query, key = Shape("tune", 1, 32, 8, 4096, head_dim, dtype, True).make()
    if kernel == "logsumexp":
        logsumexp = torch.zeros(1, 32, 4096, device="cuda")
        return lambda: diagonal_from_logsumexp(query, key, logsumexp)
    bias = torch.zeros(1, 1, 4096, 4096, device="cuda", dtype=dtype) if kernel == "qk_bias" else None
    return lambda: diagonal_from_qk(query, key, is_causal=True, bias=bias)


def best(kernel: str, head_dim: int, dtype: torch.dtype) -> tuple[Blocks, float]:
    """Fastest blocks that give what the table's blocks give, and their milliseconds."""
    run = call(kernel, head_dim, dtype)
    expected = run()
    home = "attviz.kernels.triton.logsumexp" if kernel == "logsumexp" else "attviz.kernels.triton.qk"
    results: list[tuple[float, Blocks]] = []
    for blocks in candidates(kernel):
        with mock.patch(f"{home}.tuned", side_effect=lambda *_, blocks=blocks, **__: dict(blocks)):
            try:
                torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-5)
                results.append((time_calls([run], seconds=0.05).p50_ms, blocks))
            except (RuntimeError, AssertionError) as error:  # no room in shared memory, or wrong: out
                print(f"  {blocks}: {str(error).splitlines()[0][:80]}")
    milliseconds, blocks = min(results, key=lambda result: result[0])
    return blocks, milliseconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print, do not write")
    dry_run = parser.parse_args(argv).dry_run
    if not torch.cuda.is_available():
        print("No GPU here: block sizes can only be measured on one. The table stays as it is.", file=sys.stderr)
        return 2
    from attviz.kernels.triton.launch import TABLE, architecture

    arch = architecture(torch.cuda.current_device())
    table = json.loads(TABLE.read_text())
    for kernel, dtype, head_dim in itertools.product(table["kernels"], (torch.bfloat16, torch.float32), (16, 32, 64, 128, 256)):
        if dtype is torch.float32 and head_dim > MAX_HEAD_DIM_SINGLE and kernel != "logsumexp":
            continue
        blocks, milliseconds = best(kernel, head_dim, dtype)
        row = f"{arch}/{'float32' if dtype is torch.float32 else 'half'}/{head_dim}"
        table["kernels"][kernel][row] = blocks
        table["measured"] = sorted({*table.get("measured", []), arch})
        print(f"{kernel} {row}: {blocks} {milliseconds:.3f} ms", flush=True)
    if not dry_run:
        TABLE.write_text(layout(table))
    return 0


def layout(table: dict[str, object]) -> str:
    """The table as JSON with one row a line."""
    kernels = table["kernels"]
    assert isinstance(kernels, dict)
    lines = ["{", *(f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in table.items() if name != "kernels"), '  "kernels": {']
    for place, (kernel, rows) in enumerate(kernels.items()):
        body = ",\n".join(f"      {json.dumps(name)}: {json.dumps(blocks)}" for name, blocks in sorted(rows.items()))
        lines += [f"    {json.dumps(kernel)}: {{", body, "    }" + ("," if place < len(kernels) - 1 else "")]
    return "\n".join([*lines, "  }", "}"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
