"""Pools one metric over many processes by all-reduce. Nothing is gathered, so memory does not grow with the number of processes.

Two sums (count and total, then the squared deviations shifted to the common mean) and one maximum, in buckets. Before that, one
small maximum makes the processes agree on what they are pooling, so that a disagreement is an error everywhere instead of a hang.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attviz.errors import MetricError
from attviz.metrics._streaming.moments import Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State

BUCKET_CELLS = 4 * 2**20  # 32 MiB of float64 a buffer: bounds the extra memory of one reduction
_HEADS_BYTES = 4
_NO_SIZE = 2**40  # above every size


def all_reduce_state(
    state: State,
    *,
    name: str,
    identity: str,
    size: int | None,
    learn: Callable[[int | None], None],
    layout: Callable[[dict[int, LayerInfo]], Layout],
    group: Any = None,
) -> State:
    """Pool ``state`` over the processes of ``group``. Every process gets the result; ``state`` itself is unchanged.

    Args:
        state: What this process saw; may be empty.
        name: The metric, for messages.
        identity: Class and options; must be the same on all processes.
        size: What this process has read from its model, such as the vocabulary size; None if it has not run one yet.
        learn: Called with the size that the others know, before ``layout``.
        layout: Returns the tensors that belong to a table of layers.
        group: Process group; None is the world.

    Raises:
        MetricError: If the processes hold different metrics or models, or one of them died.
    """
    comm = _Communicator(name, group)
    layers, size = _agree_on_layers(comm, state.layers, identity, size)
    learn(size)
    if not layers:
        return state
    wanted = layout(layers)
    own = wanted.complete(state, layers, comm.device)
    moments: dict[str, Moments] = {}
    for names in _buckets(wanted):
        moments |= _reduce_moments(comm, {key: own.moments[key] for key in names})
    pooled = State(layers, moments, _reduce_sums(comm, own.sums))
    home = next((tensor.device for tensor in state.tensors().values()), comm.device)
    return pooled.map(lambda tensor: tensor.to(home))


class _Communicator:
    """All-reduces on the device that the backend needs; an error says what happened and that the state is intact."""

    def __init__(self, name: str, group: Any) -> None:
        self.name, self.group = name, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        on_gpu = "nccl" in str(dist.get_backend(group)) and torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        try:
            dist.all_reduce(tensor, op=operation, group=self.group)
        except RuntimeError as error:
            raise MetricError(
                f"{self.name}: an all-reduce among {self.size} processes failed on rank {self.rank}: {error}\n"
                "  A process died, left, or is waiting in another collective. This rank's state is intact: compute_local() reads it,\n"
                "  save_state(path) saves it; then restart the run and call load_state(path)."
            ) from error
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        return self.reduce(tensor, dist.ReduceOp.MAX)

    def sum(self, tensor: Tensor) -> Tensor:
        return self.reduce(tensor, dist.ReduceOp.SUM)


def _agree_on_layers(
    comm: _Communicator, layers: dict[int, LayerInfo], identity: str, size: int | None
) -> tuple[dict[int, LayerInfo], int | None]:
    """Give every process the union of the layers seen anywhere, and the size; raise on all of them if any two disagree."""
    mark = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:7], "big")
    names = {index: (info.name or "").encode() for index, info in layers.items()}
    width = max((len(name) for name in names.values()), default=0)
    sizes = [0, -_NO_SIZE] if size is None else [size, -size]
    header = torch.tensor([mark, -mark, max(layers, default=-1) + 1, width, *sizes], dtype=torch.int64, device=comm.device)
    highest, lowest, num_layers, width, largest, smallest = comm.max(header).tolist()
    if highest != -lowest or (largest and largest != -smallest):
        raise MetricError(
            f"{comm.name}: the processes hold metrics of different classes, options or sizes; on rank {comm.rank} it is {identity}"
            f"{'' if size is None else f' of size {size}'}. "
            "Construct it with the same arguments everywhere. The state is unchanged."
        )
    if num_layers == 0:
        return {}, largest or None
    mine = torch.zeros(2, num_layers, _HEADS_BYTES + width, dtype=torch.uint8)
    for index, info in layers.items():
        _write(mine, index, slice(0, _HEADS_BYTES), info.num_heads.to_bytes(_HEADS_BYTES, "big"))
        if names[index]:
            _write(mine, index, slice(_HEADS_BYTES, None), names[index].ljust(width, b"\0"))
    return _read_layers(comm, comm.max(mine.to(comm.device)).cpu(), layers), largest or None


def _write(buffer: Tensor, index: int, columns: slice, text: bytes) -> None:
    """Write bytes and their complement: after a maximum the two still match only if all writers wrote the same."""
    row = torch.tensor(list(text), dtype=torch.uint8)
    buffer[0, index, columns], buffer[1, index, columns] = row, 255 - row


def _read_layers(comm: _Communicator, buffer: Tensor, mine: dict[int, LayerInfo]) -> dict[int, LayerInfo]:
    layers: dict[int, LayerInfo] = {}
    for index in range(buffer.shape[1]):
        heads, name = (_agreed(buffer[:, index, columns]) for columns in (slice(0, _HEADS_BYTES), slice(_HEADS_BYTES, None)))
        if heads is None or name is None:
            raise MetricError(
                f"{comm.name}: the processes disagree about layer {index}; on rank {comm.rank} it is "
                f"{mine.get(index, 'not seen')}. They must run the same model (for pipeline stages give each its own process_group=). "
                "The state is unchanged."
            )
        if heads:
            layers[index] = LayerInfo(int.from_bytes(heads, "big"), name.rstrip(b"\0").decode() or None)
    return layers


def _agreed(pair: Tensor) -> bytes | None:
    text, complement = pair
    if not bool(complement.any()):
        return b""  # no process wrote here
    return bytes(text.tolist()) if torch.equal(text, 255 - complement) else None


def _buckets(layout: Layout) -> Iterator[list[str]]:
    names: list[str] = []
    cells = 0
    for name in sorted(layout.moments):
        size = torch.Size(layout.moments[name].shape).numel()
        if names and cells + size > BUCKET_CELLS:
            yield names
            names, cells = [], 0
        names.append(name)
        cells += size
    if names:
        yield names


def _reduce_moments(comm: _Communicator, samples: dict[str, Moments]) -> dict[str, Moments]:
    def flat(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors])

    pools = list(samples.values())
    counts = [sample.count.shape.numel() for sample in pools]
    summed = comm.sum(torch.cat([flat(sample.count for sample in pools), flat(sample.mean * sample.count for sample in pools)]))
    count = [part.view_as(sample.count) for part, sample in zip(torch.split(summed[: sum(counts)], counts), pools, strict=True)]
    totals = _shaped(summed[sum(counts) :], pools)
    mean = [total / seen.clamp_min(1) for total, seen in zip(totals, count, strict=True)]
    own = (sample.m2 + sample.count * (sample.mean - common).square() for sample, common in zip(pools, mean, strict=True))
    m2 = _shaped(comm.sum(flat(own)), pools)
    highest, lowest = comm.max(torch.stack([flat(sample.max for sample in pools), -flat(sample.min for sample in pools)])).unbind()
    columns = zip(samples, count, mean, m2, _shaped(highest, pools), _shaped(-lowest, pools), strict=True)
    return {name: Moments(*parts) for name, *parts in columns}


def _shaped(flat: Tensor, pools: list[Moments]) -> list[Tensor]:
    pieces = torch.split(flat, [sample.mean.numel() for sample in pools])
    return [piece.view_as(sample.mean) for piece, sample in zip(pieces, pools, strict=True)]


def _reduce_sums(comm: _Communicator, sums: dict[str, Tensor]) -> dict[str, Tensor]:
    reduced: dict[str, Tensor] = {}
    for dtype in sorted({value.dtype for value in sums.values()}, key=str):
        chosen = {name: value for name, value in sums.items() if value.dtype == dtype}
        total = comm.sum(torch.cat([value.flatten() for value in chosen.values()]))
        parts = torch.split(total, [value.numel() for value in chosen.values()])
        reduced |= {name: part.reshape(value.shape) for (name, value), part in zip(chosen.items(), parts, strict=True)}
    return reduced
