"""The ``attviz`` command: one file per subcommand, each with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import attviz
from attviz.errors import AttvizError
from attviz.spelling import printable

COMMANDS = ("demo", "analyze", "plot", "view", "pairs", "convert", "merge", "check", "bench", "info", "completion")

_EPILOG = """\
typical use:
  attviz demo                                       see it work on a small model and built-in texts
  attviz analyze MODEL texts.csv -o run.attviz      run a data set through any transformer
  attviz plot run.attviz -o figures/                draw every figure from it
  attviz view run.attviz -o run.html --open         look at it in the browser
  attviz pairs MODEL "some text" --open             which token attends to which
  attviz check MODEL                                verify every number on a model attviz has never seen

exit codes: 0 success, 1 finished with findings (check, bench), 2 wrong usage or input, 130 stopped by Ctrl-C.
Results go to stdout, progress and messages to stderr.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. A user's mistake is one line on stderr and code 2; a bug of ours keeps its traceback."""
    parser, commands = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(commands[args.command].run(args))
    except BrokenPipeError:  # the reader of our output has gone (`| head`): not an error; keep Python from saying it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"attviz {args.command}: stopped", file=sys.stderr)
        return 130
    except (AttvizError, OSError) as error:
        print(f"attviz {args.command}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """Return the parser of the whole command, and the module of each subcommand."""
    parser = argparse.ArgumentParser(
        prog="attviz",
        description="See how much attention each token of a text gives to its own position, in every layer and head of a transformer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"attviz {attviz.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands = {name: importlib.import_module(f"attviz.cli.{name}") for name in COMMANDS}
    for name, module in commands.items():
        about = module.__doc__ or ""
        sub = subparsers.add_parser(name, help=module.HELP, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(sub)
    return parser, commands
