"""Saved states: written atomically, and read like any untrusted file, with every claim checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attviz.errors import FormatError, MetricError
from attviz.files import check_input, open_regular, replacing
from attviz.metrics._streaming.moments import FIELDS, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State

FORMAT = 2
MAX_LAYERS, MAX_HEADS, MAX_HEADER_CHARS = 10_000, 100_000, 4_000_000
_KEY = "attviz.metric"
_DTYPES = {torch.int64: "I64", torch.float64: "F64", torch.float32: "F32"}

LayoutOf = Callable[[dict[int, LayerInfo]], Layout]
Learn = Callable[[int | None], None]


def header_of(state: State, identity: str, updates: int, size: int | None = None) -> str:
    """The JSON that goes with the tensors of a state; ``size`` is what the metric has read from its model."""
    layers = json.loads(state.describe())
    return json.dumps({"format": FORMAT, "identity": identity, "updates": updates, "size": size, "layers": layers})


def write_state(path: str | os.PathLike[str], state: State, identity: str, updates: int, size: int | None = None) -> None:
    """Write a safetensors file atomically; if that fails the old file stays."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    header = header_of(state, identity, updates, size)
    content = save(tensors, metadata={_KEY: header, "sha256": _digest(header, tensors)})
    with replacing(path) as file:
        file.write(content)


def read_state(path: str | os.PathLike[str], identity: str, layout: LayoutOf, learn: Learn) -> tuple[State, int]:
    """Read what :func:`write_state` wrote.

    Args:
        path: The file.
        identity: Class and options of the metric that reads.
        layout: Returns the tensors that belong to a table of layers.
        learn: Called with the size in the header, before ``layout``.

    Returns:
        The state on the CPU, and the number of updates it has seen.

    Raises:
        FormatError: If the file is of another kind, damaged or inconsistent; the message says where.
        MetricError: If it is the state of another metric, or of this metric with other options.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    check_input(path, "the state of a metric")
    with os.fdopen(open_regular(path, "the state of a metric"), "rb") as file:
        content = file.read()  # not mapped: a file that is cut short meanwhile is an error, no signal
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise FormatError(f"{os.fspath(path)}: not a readable safetensors file: {error}. Was it cut short?") from error
    metadata = header.get("__metadata__") or {}
    if _KEY not in metadata:
        raise FormatError(f"{os.fspath(path)}: a safetensors file, but not the state of an attviz metric.")
    layers, updates, size = parse_header(metadata[_KEY], identity, os.fspath(path))
    learn(size)
    wanted = layout(layers).tensors()
    _check_names(set(tensors), set(wanted), os.fspath(path))
    for name, (dtype, shape) in wanted.items():
        found = (header[name]["dtype"], tuple(header[name]["shape"]))
        if found != (_DTYPES[dtype], shape):
            raise FormatError(f"{os.fspath(path)}: tensor {name!r} is {found}, expected {(_DTYPES[dtype], shape)}.")
    if metadata.get("sha256") != _digest(metadata[_KEY], tensors):
        raise FormatError(f"{os.fspath(path)}: the checksum does not match the contents: the file is damaged.")
    return assemble(tensors, layers, layout, os.fspath(path)), updates


def parse_header(text: str, identity: str, where: str) -> tuple[dict[int, LayerInfo], int, int | None]:
    """Check the JSON of a state and return its layers, number of updates, and size."""
    try:
        if len(text) > MAX_HEADER_CHARS:
            raise ValueError(f"{len(text)} characters, more than {MAX_HEADER_CHARS}")
        header = json.loads(text)
        version, found, updates, size, table = (header.get(key) for key in ("format", "identity", "updates", "size", "layers"))
        if version != FORMAT:
            raise FormatError(f"{where}: format {version!r}; this version of attviz reads format {FORMAT}.")
        if type(updates) is not int or updates < 0 or not isinstance(table, dict) or len(table) > MAX_LAYERS:
            raise ValueError("updates or layers out of bounds")
        if size is not None and (type(size) is not int or not 0 < size < 2**31):
            raise ValueError(f"a size of {size!r}")
        layers = dict(_layer(index, entry) for index, entry in table.items())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where}: malformed header: {type(error).__name__}: {error}") from error
    if found != identity:
        raise MetricError(f"{where}: holds the state of {str(found)[:300]}; this metric is {identity}. Construct it with those options.")
    return layers, updates, size


def _layer(index: str, entry: Any) -> tuple[int, LayerInfo]:
    heads, name = entry
    if not (0 <= int(index) < MAX_LAYERS and type(heads) is int and 1 <= heads <= MAX_HEADS and isinstance(name, str | None)):
        raise ValueError(f"layer {index}: {entry!r}")
    return int(index), LayerInfo(heads, name)


def assemble(tensors: Mapping[str, Tensor], layers: dict[int, LayerInfo], layout: LayoutOf, where: str) -> State:
    """Build a state from named tensors, after checking names, shapes, dtypes and values."""
    plan = layout(layers)
    wanted = plan.tensors()
    _check_names(set(tensors), set(wanted), where)
    for name, (dtype, shape) in wanted.items():
        found = tensors[name]
        if found.dtype != dtype or tuple(found.shape) != shape:
            raise FormatError(f"{where}: tensor {name!r} is {found.dtype} {tuple(found.shape)}, expected {dtype} {shape}.")
    moments = {name: Moments(*(tensors[f"{name}/{part}"] for part in FIELDS)) for name in plan.moments}
    for name, sample in moments.items():
        if not _possible(sample):
            raise FormatError(f"{where}: {name!r} cannot be a sample (negative counts, NaN, or a mean outside its extremes).")
    for name in plan.sums:
        if not bool((tensors[name] >= 0).all()):
            raise FormatError(f"{where}: {name!r} is a sum of non-negative numbers, but contains a negative number or NaN.")
    return State(layers, moments, {name: tensors[name] for name in plan.sums})


def _check_names(found: set[str], wanted: set[str], where: str) -> None:
    if found != wanted:
        missing, extra = sorted(wanted - found)[:3], sorted(found - wanted)[:3]
        raise FormatError(f"{where}: the tensors do not match the layers it lists; missing {missing}, unexpected {extra}.")


def _possible(sample: Moments) -> bool:
    slack = 1e-9 * (1 + sample.mean.abs())
    filled = sample.count > 0
    inside = (sample.min - slack <= sample.mean) & (sample.mean <= sample.max + slack) & sample.max.isfinite() & sample.min.isfinite()
    blank = (sample.mean == 0) & (sample.m2 == 0) & (sample.max == -torch.inf) & (sample.min == torch.inf)
    sound = (sample.count >= 0) & sample.mean.isfinite() & sample.m2.isfinite() & (sample.m2 >= 0)
    return bool((sound & torch.where(filled, inside, blank)).all())


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
