"""Class names and probabilities of models that classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from attviz.errors import ArgumentError


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a classifier said about one input; both None if the model does not classify."""

    prediction: int | None = None
    probabilities: np.ndarray | None = None


def class_names(model: nn.Module, label_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names given, or those of the configuration of a classifier.

    Raises:
        ArgumentError: If their number differs from the model's classes.
    """
    config = getattr(model, "config", None)
    classifies = "ForSequenceClassification" in type(model).__name__ or "ForImageClassification" in type(model).__name__
    mapping = getattr(config, "id2label", None) if classifies else None
    if label_names is None:
        return tuple(str(mapping[index]) for index in sorted(mapping)) if mapping else None
    if mapping and len(label_names) != len(mapping):
        raise ArgumentError(
            f"label_names must be one per class of the model ({len(mapping)}), got {len(label_names)}: {', '.join(label_names)}."
        )
    return tuple(label_names)


def outcomes(output: Any, model: nn.Module, num_inputs: int) -> list[Outcome]:
    """Prediction and probabilities of each input: softmax, or sigmoid where the model's classes do not exclude each other."""
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        return [Outcome()] * num_inputs
    several = getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"
    probabilities = logits.float().sigmoid() if several else logits.float().softmax(-1)
    values = probabilities.cpu().numpy()
    return [Outcome(int(row.argmax()), row) for row in values]
