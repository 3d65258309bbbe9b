"""flex_attention, compiled: a higher-order operator that bypasses the dispatcher, so its Python function is watched."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attviz.calls.scored import ScoredCall
from attviz.hooks.tap.operators.registry import Arguments, Keywords, Operator

NAME = "flex_attention"
_PARAMETERS = ("query", "key", "value", "score_mod", "block_mask", "scale")


def flex_operator(sinks: Tensor | None = None) -> Operator:
    """The entry for one call; ``sinks`` is the learned logit of each head that joins the denominator after the kernel."""

    def read(args: Arguments, kwargs: Keywords, result: Any) -> ScoredCall | str:
        given = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        query, key = given["query"], given["key"]
        if query.is_nested:
            return "flex_attention over jagged tensors is not read; pad them, or call it on one text after the other"
        rules = given.get("score_mod"), given.get("block_mask"), given.get("scale")
        return ScoredCall(NAME, query, key, *rules, _logsumexp_of(result), sinks)

    return Operator(NAME, read, "fused", ())


def _logsumexp_of(result: Any) -> Tensor | None:
    """The natural log-sum-exp among the results of flex_attention, if it was requested."""
    if isinstance(result, Tensor):
        return None
    found = result[1]
    return found if isinstance(found, Tensor) else getattr(found, "lse", None)
