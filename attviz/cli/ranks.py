"""Which share of a run this process takes: typed (``--shard 3/8``), or told by ``torchrun``, whose rank 0 merges at the end."""

from __future__ import annotations

import os
from datetime import timedelta

from attviz.errors import ArgumentError


def share_of(typed: str | None) -> tuple[int, int] | None:
    """(index, count) of ``"3/8"``, or of ``RANK`` and ``WORLD_SIZE``; None for a run of one process.

    Raises:
        ArgumentError: If it is not like ``3/8``.

    Example:
        >>> share_of("3/8")
        (3, 8)
    """
    if typed is None:
        return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if under_torchrun() else None
    index, slash, count = typed.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ArgumentError(f"--shard must be like 3/8 (the fourth of eight shards, counted from 0), got {typed!r}.")
    return int(index), int(count)


def under_torchrun() -> bool:
    """Whether ``torchrun`` started several of us."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def device_of(device: str) -> str:
    """The device of this rank: ``cuda`` becomes ``cuda:LOCAL_RANK``."""
    local = os.environ.get("LOCAL_RANK")
    return f"{device}:{local}" if under_torchrun() and local is not None and device in ("cuda", "xpu") else device


def wait_for_all() -> None:
    """Return when every rank is here, whatever the difference of their shares."""
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        dist.barrier()
    finally:
        dist.destroy_process_group()
