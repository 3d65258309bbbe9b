"""What a capture says when it saw less than the model has: which layers, why if that is known, and the cure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from attviz.hooks.scope.model_map import Layout
from attviz.names import implementation_of

_SHOWN = 4
_NONE_EXPECTED = (
    "no known attention operator ran, and no module is named after attention (convolutions, state-space models and Fourier mixers have "
    "no attention matrix)"
)
_CURE = 'use kernels that attviz can see: model.set_attn_implementation("sdpa") in transformers, F.scaled_dot_product_attention elsewhere'
_CURE_COMPILED = 'run the captured forwards without the compiler: with torch.compiler.set_stance("force_eager"): model(...)'

_SAY = (
    "do what each line suggests, register your own cache with attviz.register_cache, or declare with "
    "attviz.register_layout where a softmax "
    "holds each token's weight on itself"
)


def explain(model: nn.Module, layout: Layout, missed: Mapping[str, str], seen: int) -> str:
    """One message for all modules that ran without an attention call passing the tap."""
    reasons = sorted({reason or _reason(model, layout, name) for name, reason in missed.items()})
    names = ", ".join(repr(name) for name in list(missed)[:_SHOWN])
    more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
    return (
        f"capture: {len(missed)} attention module{'s' * (len(missed) > 1)} of {type(model).__name__} ran, but no attention operator was "
        f"seen for {names}{more} ({seen} seen elsewhere).\n  Why: {'; '.join(reasons)}.\n  Cure: {_cure(layout)}; to go on without these "
        "layers, pass layers= with the others, or strict=False."
    )


def undecided(model: nn.Module, untold: Mapping[str, str]) -> str:
    """One message for all modules whose attention was seen but could not be identified."""
    shown = "\n".join(f"  {name or type(model).__name__!r}: {why}." for name, why in list(untold.items())[:_SHOWN])
    more = f"\n  and {len(untold) - _SHOWN} more." if len(untold) > _SHOWN else ""
    return (
        f"capture: {type(model).__name__} has {len(untold)} module{'s' * (len(untold) > 1)} whose attention could not be "
        f"identified, so nothing was recorded there.\n{shown}{more}\n  Cure: {_SAY}; to go on without these layers, pass layers= "
        "with the others, or strict=False."
    )


def nothing_seen(model: nn.Module, layout: Layout) -> str:
    """The message for a forward in which no self-attention was found at all."""
    why = _reason(model, layout, layout.expected[0]) if layout.expected else _NONE_EXPECTED
    if layout.regions:
        why = _reason(model, layout, "")
    return (
        f"capture: no self-attention was found in {type(model).__name__} ({len(layout.expected)} modules look like attention by their "
        f"class names).\n  Why: {why}.\n  Cure: {_cure(layout)}; or name the attention modules in layers=. A compiled "
        "flex_attention is found if it is a global or an attribute of the module that calls it."
    )


def _cure(layout: Layout) -> str:
    return f"{_CURE_COMPILED}; or {_CURE}" if layout.regions else _CURE


def _reason(model: nn.Module, layout: Layout, name: str) -> str:
    module = layout.modules.get(name, model)
    implementation = implementation_of(module, model)
    if layout.regions:
        return (
            "inside torch.compile an eager softmax, SDPA with dropout on a CPU, or flex_attention is fused into another kernel and never "
            "passes the dispatcher"
        )
    if "flex" in implementation:
        return "flex_attention is a higher-order operator that bypasses the dispatcher, and it was called from a place that is not watched"
    if implementation not in ("", "sdpa", "eager"):
        return f"the attention implementation {implementation!r} calls a kernel that is not in the operator table"
    return f"{type(module).__name__} computes its attention with an operator that is not in the table (attviz.hooks.tap.operators)"
