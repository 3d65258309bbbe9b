"""Inputs for any model, read off the signature of its forward; several guesses, the first that runs is taken."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families.tiny import VOCABULARY

BATCH, LENGTH, PADDING = 2, 7, 2

Inputs = dict[str, Any]


def guesses(model: nn.Module) -> Iterator[Inputs]:
    """Keyword arguments to try, the richest first."""
    names = set(inspect.signature(model.forward).parameters)
    text, image, sound = _text(model, names), _image(model, names), _sound(model, names)
    targets = _targets(model, names)
    for parts in ((text, image, sound), (text, image), (text, sound), (text,), (image,), (sound,), (_packed_patches(model, names),)):
        if all(parts):
            yield {**{name: value for part in parts for name, value in part.items()}, **targets}
            if targets:
                yield {name: value for part in parts for name, value in part.items()}


def _ids(length: int, batch: int = BATCH) -> Tensor:
    return torch.randint(10, VOCABULARY - 1, (batch, length))


def _mask(length: int) -> Tensor:
    mask = torch.ones(BATCH, length, dtype=torch.long)
    mask[1, length - PADDING :] = 0
    return mask


def _text(model: nn.Module, names: set[str]) -> Inputs:
    if "input_ids" not in names:
        return {}
    length = next((value for name in ("max_position_embeddings",) if 0 < (value := _find(model.config, name) or LENGTH) < LENGTH), LENGTH)
    inputs: Inputs = {"input_ids": _ids(length)}
    if "attention_mask" in names:
        inputs["attention_mask"] = _mask(length)
    if "bbox" in names:
        inputs["bbox"] = torch.zeros(BATCH, length, 4, dtype=torch.long)
    return inputs


def _targets(model: nn.Module, names: set[str]) -> Inputs:
    if "decoder_input_ids" not in names:
        return {}
    inputs: Inputs = {"decoder_input_ids": _ids(5)}
    if "decoder_attention_mask" in names:
        inputs["decoder_attention_mask"] = torch.ones(BATCH, 5, dtype=torch.long)
    return inputs


def _image(model: nn.Module, names: set[str]) -> Inputs:
    name = next((name for name in ("pixel_values", "pixel_values_videos", "images") if name in names), None)
    if name is None:
        return {}
    size = _find(model.config, "image_size") or _find(model.config, "img_size") or _find(model.config, "input_size") or 32
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _find(model.config, "num_channels") or 3
    frames = _find(model.config, "num_frames") or _find(model.config, "frames_per_clip")
    shape = (BATCH, frames, channels, height, width) if frames else (BATCH, channels, height, width)
    return {name: torch.randn(shape)}


def _sound(model: nn.Module, names: set[str]) -> Inputs:
    if "input_features" in names:
        bins = (
            _find(model.config, "num_mel_bins")
            or _find(model.config, "feature_size")
            or _find(model.config, "input_feat_per_channel")
            or 16
        )
        if getattr(model.config, "model_type", "") in ("whisper",):
            return {"input_features": torch.randn(BATCH, bins, 2 * (_find(model.config, "max_source_positions") or 32))}
        return {"input_features": torch.randn(BATCH, 32, bins)}
    if "input_values" in names:
        return {"input_values": torch.randn(BATCH, 1600)}
    return {}


def _packed_patches(model: nn.Module, names: set[str]) -> Inputs:
    if not {"hidden_states", "grid_thw"} <= names:
        return {}
    config = model.config
    width = (
        (_find(config, "in_channels") or _find(config, "in_chans") or 3)
        * (config.temporal_patch_size if hasattr(config, "temporal_patch_size") else 1)
        * config.patch_size**2
    )
    return {"hidden_states": torch.randn(16 + 32, width), "grid_thw": torch.tensor([[1, 4, 4], [1, 4, 8]])}


def _find(config: Any, name: str) -> Any:
    """An attribute of a configuration or of the first sub-configuration that has it."""
    if getattr(config, name, None) is not None:
        return getattr(config, name)
    for value in vars(config).values():
        if hasattr(value, "to_dict") and (found := _find(value, name)) is not None:
            return found
    return None
