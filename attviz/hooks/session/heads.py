"""Tensor parallelism: which heads of a layer this process holds, and how to join those of all ranks.

The evidence is in the weights while the layer runs: those of a tensor-parallel projection are DTensors sharded along their outputs. FSDP2
shards the same way but has gathered its weights by then, so its layers hold all heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attviz.errors import CaptureError
from attviz.names import heads_of_config
from attviz.records import DiagonalRecord


@dataclass(frozen=True, slots=True)
class Share:
    """The position of this process among those that hold the heads of a layer.

    Attributes:
        rank: Its rank.
        size: Number of processes.
        group: Their process group.
    """

    rank: int
    size: int
    group: Any


class HeadShares:
    """The shares of a model's layers, each found in the layer's first forward.

    Args:
        model: The model.
        gather: Whether records should hold the heads of all ranks.
    """

    def __init__(self, model: nn.Module, *, gather: bool) -> None:
        self._model, self._gather = model, gather
        self._total = heads_of_config(model)
        self._shares: dict[str, Share | None] = {}

    def note(self, layer: str | None) -> None:
        """Note that a layer is running."""
        if layer is not None and layer not in self._shares:
            self._shares[layer] = _share_of(self._model, layer)

    def settled(self, record: DiagonalRecord, *, fed: bool = False) -> DiagonalRecord:
        """The record with its range of heads noted, or with those of all ranks: then every rank must call this, layer by layer.

        Args:
            record: The record.
            fed: Whether a metric receives it.

        Raises:
            CaptureError: If a metric would take the heads of several ranks for the same heads.
        """
        share = None if record.layer is None else self._shares.get(record.layer)
        local = record.diagonal.shape[1]
        if share is None or record.heads is not None or local == self._total or "heads of all ranks" in record.evidence:
            return record
        first, total = share.rank * local, share.size * local
        if self._gather:
            return _gathered(record, share)
        if fed:
            raise CaptureError(
                f"{record.layer}: this process holds heads {first} to {first + local - 1} of {total} (tensor parallel), so a metric would "
                "take the heads of all ranks for the same ones. Pass gather=True, and to the metric process_group= of "
                "the data-parallel ranks."
            )
        told = f"heads {first} to {first + local - 1} of {total} are here"
        return replace(record, heads=(first, total), evidence=_with(record.evidence, told))

    def settle(self, pending: Iterable[Any]) -> None:
        """Settle all records of a forward that is over."""
        for one in pending:
            if any(self._shares.values()):
                one.replace(self.settled(one.record()))


def _share_of(model: nn.Module, layer: str) -> Share | None:
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        return None
    for parameter in module.parameters():
        mesh: Any = getattr(parameter, "device_mesh", None)
        for dim, placement in enumerate(getattr(parameter, "placements", ())):
            if placement.is_shard(0) and mesh.size(dim) > 1:
                return Share(mesh.get_local_rank(dim), mesh.size(dim), mesh.get_group(dim))
    return None


def _gathered(record: DiagonalRecord, share: Share) -> DiagonalRecord:
    local, readings, reasons = record.diagonal.shape[1], {}, dict(record.reasons)
    diagonal = _all_heads(record.diagonal, share)
    for name, found in record.readings.items():
        if found.ndim > 1 and found.shape[1] == local:
            readings[name] = _all_heads(found, share)
        else:
            reasons[name] = f"its shape {tuple(found.shape)} has no axis of heads, so ranks cannot be joined: read it without gather=True"
    told = f"heads of all ranks of {share.size} joined"
    return replace(record, diagonal=diagonal, readings=readings, reasons=reasons, evidence=_with(record.evidence, told))


def _all_heads(tensor: Tensor, share: Share) -> Tensor:
    import torch.distributed as dist

    own = tensor.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(share.size)]
    dist.all_gather(parts, own, group=share.group)
    return torch.cat(parts, dim=1)


def _with(evidence: str, told: str) -> str:
    return f"{evidence}; {told}" if evidence else told
