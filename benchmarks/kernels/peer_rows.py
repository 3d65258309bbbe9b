"""Peers on a GPU, where they are installed: their answer beside ours first, then both in alternating pairs.

flash-colreduce (column sums, two passes) at the shapes of its own benchmark, ``1 x 32 x length x 128``, and attnread (whole rows, by value
passes) on a small model. ``pip install flash-colreduce``; attnread needs torch 2.14 and a transformers of its own.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import attviz
from attviz import kernels
from attviz import readings as r
from benchmarks.kernels.kernel_rows import Shape, logsumexp_of
from benchmarks.kernels.model_rows import ModelCase, clean
from benchmarks.kernels.timing import time_pairs

Row = dict[str, object]
COLUMNS = ("peer", "what", "shape", "ours_ms", "peer_ms", "ours_over_peer", "note")
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
SHAPES = tuple(
    Shape(f"1 x 32 x {length} x 128 fp16{', causal' * causal}", 1, 32, 32, length, 128, torch.float16, causal)
    for length in LENGTHS
    for causal in (False, True)
)
MODEL = ModelCase("llama 1x2048, 4 layers", "llama", 1, 2048, 4, torch.bfloat16)


def installed(name: str) -> object | None:
    """The module of a peer; None where it is not there or does not fit these versions."""
    try:
        return importlib.import_module(name)
    except Exception:  # not installed, or other versions of what it needs
        return None


def measure(seconds: float, deadline: float) -> Iterator[Row]:
    """Rows of all peers."""
    for name, rows in (("flash_colreduce", _column_sums), ("attnread", _rows)):
        module = installed(name)
        if module is None:
            yield {"peer": name, "note": "not measured: not installed"}
        else:
            yield from rows(module, seconds, deadline)
        clean()


def _column_sums(module: object, seconds: float, deadline: float) -> Iterator[Row]:
    """Ours is given the log-sum-exp, as a capture is: the kernel of the model has made it."""
    theirs = module.flash_colreduce  # type: ignore[attr-defined]
    for shape in SHAPES:
        row: Row = {"peer": "flash_colreduce", "what": "column sums", "shape": shape.name}
        if time.monotonic() > deadline:
            yield row | {"note": "not measured: out of time"}
            continue
        yield row | _column_sum(theirs, shape, seconds)
        clean()


def _column_sum(theirs: Callable[..., Tensor], shape: Shape, seconds: float) -> Row:
    query, key = (tensor.contiguous() for tensor in shape.make())
    lse, causal = logsumexp_of(shape, query, key), shape.is_causal

    def ours() -> Tensor:
        return kernels.received_from_logsumexp(query, key, lse, is_causal=causal)[0]

    def peer() -> Tensor:
        return theirs(query, key, reduction="sum", is_causal=causal)

    return _compared(ours(), peer(), ours, peer, seconds)


def _rows(module: object, seconds: float, deadline: float) -> Iterator[Row]:
    theirs = module.extract_attention  # type: ignore[attr-defined]
    model, inputs, last = MODEL.build(MODEL.num_layers), MODEL.inputs(), MODEL.num_layers - 1
    row: Row = {"peer": "attnread", "what": "the last row of one head", "shape": MODEL.name}

    def ours() -> Tensor:
        with torch.no_grad(), attviz.capture(model, layers=[last], read=[r.Rows(-1)]) as cap:
            model(**inputs)
        return cap.reading("rows(-1)")[0, :, 0, 0]

    def peer() -> Tensor:
        found: Tensor = theirs(model, inputs, heads=[(last, 0)])["text", last, 0]
        return found[:, -1]

    if time.monotonic() > deadline:
        yield row | {"note": "not measured: out of time"}
        return
    try:
        yield row | _compared(ours(), peer(), ours, peer, seconds)
    except Exception as error:  # a version of transformers that it does not know
        yield row | {"note": f"not measured: {type(error).__name__}: " + " ".join(str(error).split())[:120]}


def _compared(found: Tensor, given: Tensor, ours: Callable[[], object], peer: Callable[[], object], seconds: float) -> Row:
    """Both timed where they agree as far as half precision lets them."""
    try:
        torch.testing.assert_close(given.float().to(found.device), found.float(), rtol=3e-2, atol=3e-2)
    except AssertionError as error:
        return {"note": "the answers differ, so not timed: " + " ".join(str(error).split())[:150]}
    mine, other = time_pairs(ours, peer, seconds, at_least=3)
    return {"ours_ms": mine.p50_ms, "peer_ms": other.p50_ms, "ours_over_peer": mine.p50_ms / other.p50_ms, "note": ""}
