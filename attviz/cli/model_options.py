"""Options of every subcommand that loads a model: running code and reading pickles must be allowed explicitly."""

from __future__ import annotations

import argparse


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--trust-remote-code`` and ``--allow-pickle``."""
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model (never without this)")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="also load .bin weights, which can run code (default: safetensors only)"
    )
