"""Which modules of a model are expected to attend, which contain them, and which never show themselves to a hook.

Names and structure are used to know what to *expect*, so that a miss is loud; what is recorded comes from the tap.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from attviz.errors import UnknownLayerError

_ATTENTION = re.compile(r"attention|attn|mha\b", re.IGNORECASE)
# Word parts that make a class with "attention" in its name something else: its output projection, a container, a mask builder.
_NOT_ATTENTION = re.compile(
    r"output|intermediate|norm|pool|embed|structure|mask|downsampl|projection|position|decoder_?layer|encoder_?layer", re.IGNORECASE
)
_NO_SOFTMAX = re.compile(r"linear_?att|lightning|delta|retention|rwkv|yoso|lsh|fourier|mamba|performer|hyena", re.IGNORECASE)
_OTHER_SOFTMAX = re.compile(r"router|gate|expert|moe|pool|classif|lm_head", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model looks like from outside, read once per capture.

    Names are those of the model as its author wrote it: the ``_orig_mod`` of a compiled module is left out of them.

    Attributes:
        names: Qualified name of each module by ``id``; the first where one module has several.
        modules: The modules by name; also what keeps the ids valid.
        expected: Names of the modules that should attend, in order of registration.
        containers: Modules that are called and hold several attention modules: the model, its encoder, its decoder.
        regions: Modules whose forward is compiled, outermost only, each as the caller sees it.
        hidden: Names below a region or in a fast-path layer, where a hook would not run or would change the path taken.
    """

    names: dict[int, str]
    modules: dict[str, nn.Module]
    expected: tuple[str, ...]
    containers: tuple[str, ...]
    regions: dict[str, nn.Module]
    hidden: frozenset[str]

    def expected_in(self, name: str) -> tuple[str, ...]:
        """Expected attention modules at or below ``name``."""
        return tuple(layer for layer in self.expected if _at_or_below(layer, name))


def read_layout(model: nn.Module) -> Layout:
    """Walk the model once and say what a capture has to know of it."""
    names: dict[int, str] = {}
    modules: dict[str, nn.Module] = {}
    regions: dict[str, nn.Module] = {}
    for raw, module in model.named_modules():
        name = raw if "_orig_mod" not in raw else ".".join(part for part in raw.split(".") if part != "_orig_mod")
        names[id(module)] = name
        modules[name] = module
        if is_compiled(module) and not any(_at_or_below(name, top) for top in regions):
            regions[name] = module
    fast = [name for name, module in modules.items() if isinstance(module, nn.TransformerEncoderLayer)]
    hidden: frozenset[str] = frozenset()
    if regions or fast:
        hidden = frozenset(
            name for name in modules if any(_below(name, top) for top in regions) or any(_at_or_below(name, top) for top in fast)
        )
    expected = tuple(_expected(modules))
    return Layout(names, modules, expected, tuple(_containers(modules, expected, hidden)), regions, hidden)


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` stands between the caller and this module's forward."""
    return is_compiled_wrapper(module) or module._compiled_call_impl is not None


def is_compiled_wrapper(module: nn.Module) -> bool:
    """Whether this is what ``torch.compile(module)`` returns (known without importing the compiler)."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _expected(modules: dict[str, nn.Module]) -> Iterator[str]:
    candidates = [name for name, module in modules.items() if _looks_like_attention(module)]
    for name, following in zip(candidates, [*candidates[1:], None], strict=False):
        if following is None or not _below(following, name):  # innermost: BertSelfAttention, not BertAttention right before it
            yield name


def _looks_like_attention(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return True
    if not _named_after_attention(type(module).__name__):
        return False
    if any(parameter is not None and parameter.ndim >= 2 for parameter in module._parameters.values()):
        return True
    matrices = (parameter for parameter in module.parameters() if parameter.ndim >= 2)
    return next(matrices, None) is not None and next(matrices, None) is not None


@lru_cache(maxsize=1024)  # a model has many modules of few classes
def _named_after_attention(class_name: str) -> bool:
    return bool(_ATTENTION.search(class_name)) and not _NOT_ATTENTION.search(class_name)


def _containers(modules: dict[str, nn.Module], expected: Sequence[str], hidden: frozenset[str]) -> Iterator[str]:
    yield ""
    for name, module in modules.items():
        if not name or name in hidden or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        if any(part.isdigit() for part in name.split(".")):
            continue  # a block of a stack: its forward is part of its container's
        if sum(_below(layer, name) for layer in expected) > 1:
            yield name


def is_other_softmax(name: str, module: nn.Module) -> bool:
    """Whether a softmax in this module is a router's, a pooling head's or a classifier's rather than attention."""
    return bool(_OTHER_SOFTMAX.search(name.rsplit(".", 1)[-1]) or _OTHER_SOFTMAX.search(type(module).__name__))


def without_softmax(module: nn.Module) -> str | None:
    """Why a module whose class is named after attention runs no softmax, where its name tells."""
    name = type(module).__name__
    return f"{name} weighs tokens without a softmax, so there is no attention matrix and no diagonal" if _NO_SOFTMAX.search(name) else None


def owner_of(layout: Layout, name: str) -> str:
    """The module an operator inside ``name`` belongs to: the innermost one that has parameters (``nn.Softmax`` has none)."""
    while name and next(layout.modules[name].parameters(), None) is None:
        name = name.rpartition(".")[0]
    return name


class Selection:
    """Which layers the user asked for: names (also of a container), glob patterns or indices; None means all."""

    def __init__(self, wanted: Sequence[str | int] | str | int | None, layout: Layout) -> None:
        entries = [wanted] if isinstance(wanted, (str, int)) else wanted
        self.named: tuple[str, ...] = ()
        self._patterns: tuple[str, ...] | None = None
        if entries is None:
            return
        patterns = [self._resolve(entry, layout) for entry in entries]
        if not patterns:
            raise UnknownLayerError("capture: layers=[] selects nothing. Pass None for all layers.")
        self._patterns = tuple(patterns)
        self.named = tuple(pattern for pattern in patterns if pattern in layout.modules)

    def __contains__(self, name: str) -> bool:
        return self._patterns is None or any(_matches(name, pattern) for pattern in self._patterns)

    @staticmethod
    def _resolve(entry: str | int, layout: Layout) -> str:
        expected = layout.expected
        if isinstance(entry, int):
            if not -len(expected) <= entry < len(expected):
                raise UnknownLayerError(f"capture: layer index {entry} is out of range: the model has {len(expected)} attention modules.")
            return expected[entry]
        if any(_matches(name, entry) for name in layout.modules):
            return entry
        near = difflib.get_close_matches(entry, expected or list(layout.modules), n=3, cutoff=0.3)
        shown = near or list(expected[:3])
        raise UnknownLayerError(
            f"capture: no module matches layer {entry!r}. Near: {', '.join(map(repr, shown)) or 'none'}; "
            f"{len(expected)} attention modules in all (cap.layers lists them)."
        )


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern) or _below(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")


def _below(name: str, top: str) -> bool:
    return name != top and (not top or name.startswith(top + "."))


def _at_or_below(name: str, top: str) -> bool:
    return name == top or _below(name, top)
