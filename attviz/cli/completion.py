"""Print a completion script for your shell.

The script is written by the package shtab, which the extra `completion` installs.

eval "$(attviz completion bash)"                     for this session
attviz completion zsh > ~/.zfunc/_attviz             for good (a folder in $fpath)
attviz completion tcsh | source /dev/stdin
"""

from __future__ import annotations

import argparse

from attviz.errors import ArgumentError

HELP = "print a completion script for bash, zsh or tcsh"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``attviz completion``."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise ArgumentError("completion needs the package shtab: pip install 'attviz[completion]'") from None
    from attviz.cli import build_parser

    print(shtab.complete(build_parser()[0], args.shell))
    return 0
