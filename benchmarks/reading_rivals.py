"""How the other tools get at a reading: each for the one that it is used for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.capture_cases import transformer_lens as _lens

if TYPE_CHECKING:
    from benchmarks.reading_cases import ReadingCase


def output_attentions(case: ReadingCase) -> Callable[[], Tensor]:
    """The whole matrix on eager attention, then a sum over it."""
    model, ids = case.model("eager"), case.ids

    def run() -> Tensor:
        return torch.stack([torch.special.entr(weights).sum(-1) for weights in model(ids, output_attentions=True).attentions])

    return run


def nnsight(case: ReadingCase) -> Callable[[], Tensor]:
    """A trace that saves the last row of each layer."""
    from nnsight import NNsight

    model, ids = case.model("eager"), case.ids
    traced = NNsight(model)

    def run() -> Tensor:
        with traced.trace(input_ids=ids, output_attentions=True):
            rows = list().save()
            for layer in traced.layers:
                rows.append(layer.self_attn.output[1][..., -1:, :])
        return torch.stack(list(rows))

    return run


def transformer_lens(case: ReadingCase) -> Callable[[], Tensor]:
    """A hook on each attention pattern: its head detector reads off-diagonals there."""
    hooked: Any = _lens(case.model("eager"), {"input_ids": case.ids}, lambda pattern: pattern.diagonal(-1, -2, -1).clone())
    return lambda: torch.nn.functional.pad(hooked(), (1, 0), value=torch.nan)


def attnread(case: ReadingCase) -> Callable[[], Tensor]:
    """All rows by runs with partial identities as values, then the last."""
    from attnread import extract_attention

    model, ids = case.model("sdpa"), case.ids

    def run() -> Tensor:
        found = extract_attention(model, {"input_ids": ids})
        rows = [torch.stack([found["text", layer, head][:, -1:] for head in range(case.num_heads)], 1) for layer in range(case.num_layers)]
        return torch.stack(rows)

    return run


def flash_colreduce(case: ReadingCase) -> Callable[[], Tensor]:
    """Column sums from the query and key of each layer; its kernel needs a GPU, its other form is the matrix."""
    from flash_colreduce.naive import naive_colreduce
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model, ids, sums = case.model("sdpa"), case.ids, []
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def reducing(module: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        sums.append(naive_colreduce(query, key, "sum", is_causal=True, scale=module.scaling))
        return attend(module, query, key, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("colreduce", reducing)
    model.set_attn_implementation("colreduce")

    def run() -> Tensor:
        sums.clear()
        model(ids)
        return torch.stack(sums)

    return run


RIVALS: dict[str, tuple[str, Callable[[ReadingCase], Callable[[], Tensor]]]] = {
    "output_attentions": ("row_entropy", output_attentions),
    "nnsight": ("rows(-1)", nnsight),
    "transformer_lens": ("offset(-1)", transformer_lens),
    "attnread": ("rows(-1)", attnread),
    "flash_colreduce": ("received", flash_colreduce),
}


def available(rival: str) -> bool:
    """Whether the tool is installed."""
    return rival == "output_attentions" or importlib.util.find_spec(rival) is not None
