"""Join the shards that several processes wrote: into one archive or, for a run with --statistics, into the states of its metrics.

The shards stay where they are, unless --remove says otherwise.

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
    parser.add_argument("--remove", action="store_true", help="remove the shards once the archive is whole")


def run(args: argparse.Namespace) -> int:
    """Merge; the path goes to stdout."""
    from attviz.analysis.statistics import is_statistics, join_statistics
    from attviz.io import merge

    join = join_statistics if is_statistics(args.archive) else merge
    join(args.archive, overwrite=args.overwrite, remove=args.remove)
    print(args.archive)
    return 0
