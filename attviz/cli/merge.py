"""Join the shards that several processes wrote into one archive. The shards stay where they are.

Shards come from `torchrun` (which merges them at the end) or from the jobs of an array:

  attviz analyze MODEL texts.csv -o run.attviz --shard $SLURM_ARRAY_TASK_ID/64     in each of 64 jobs
  attviz merge run.attviz                                                         when all are done
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "join the shards of a run into one archive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz merge``."""
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="such as run.attviz, with its shards next to it")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing archive")


def run(args: argparse.Namespace) -> int:
    """Merge; the path goes to stdout."""
    from attviz.io import merge

    print(merge(args.archive, overwrite=args.overwrite))
    return 0
