"""Which share of a run this process takes: given (``--shard 3/8``) or, under ``torchrun``, whatever is left; rank 0 merges at the end."""

from __future__ import annotations

import os
from datetime import timedelta

from attviz.errors import ArgumentError


def share_of(typed: str | None) -> tuple[int, int] | str | None:
    """(index, count) of ``"3/8"``; ``"any"`` if that was given or ``torchrun`` started us; None for a single process.

    Raises:
        ArgumentError: If it is neither.

    Example:
        >>> share_of("3/8")
        (3, 8)
    """
    if typed is None:
        return "any" if under_torchrun() else None
    if typed == "any":
        return typed
    index, slash, count = typed.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ArgumentError(
            "--shard must be any (take what no other process has), or like 3/8 (the fourth of eight shards, counted "
            f"from 0), got {typed!r}."
        )
    return int(index), int(count)


def is_first() -> bool:
    """Whether this process reports for all: it is alone, or rank 0."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def under_torchrun() -> bool:
    """Whether ``torchrun`` started several of us."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def device_of(device: str) -> str:
    """The device of this rank: ``cuda`` becomes ``cuda:LOCAL_RANK``."""
    local = os.environ.get("LOCAL_RANK")
    return f"{device}:{local}" if under_torchrun() and local is not None and device in ("cuda", "xpu") else device


def wait_for_all() -> None:
    """Return once every rank is here, however different their shares are."""
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        dist.barrier()
    finally:
        dist.destroy_process_group()
