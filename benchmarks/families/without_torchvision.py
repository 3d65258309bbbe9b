"""Imports timm where torchvision is not installed: its wheels replace the CPU build of torch, and no model needs more than a class of it.

timm reads torchvision's image transforms and data sets when it is imported, for training; its models use ``FrozenBatchNorm2d`` at
most. While it is imported, every module of torchvision is one that has every name; afterwards nothing of that is left. transformers offers
its timm backbones only beside torchvision, which their forwards do not use either: it is told that timm is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn


class _Anything(type):
    """A class that has every name: the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Empty(ModuleType):
    """A module that has every name."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (nn.BatchNorm2d,), {})


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def import_timm() -> ModuleType | None:
    """timm, or None where it is not installed."""
    if importlib.util.find_spec("timm") is None:
        return None
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    _tell_transformers()
    finder = _Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        return importlib.import_module("timm")
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def _tell_transformers() -> None:
    """Its models with a timm backbone can be built."""
    import transformers.utils
    from transformers.utils import import_utils

    def is_timm_available() -> bool:
        return True

    import_utils.is_timm_available = transformers.utils.is_timm_available = is_timm_available
    import_utils.BACKENDS_MAPPING["timm"] = (is_timm_available, import_utils.BACKENDS_MAPPING["timm"][1])
