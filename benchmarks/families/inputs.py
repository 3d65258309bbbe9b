"""Inputs for any model, read off the signature of its forward; several guesses, the first that runs is taken."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families.by_hand import INPUTS
from benchmarks.families.tiny import VOCABULARY

BATCH, LENGTH, PADDING = 2, 7, 2

Inputs = dict[str, Any]
# Pyramids that pool keys or shrink the image: large enough that each attention has more than one query and one key.
_LARGE_IMAGES = {"glpn": 128, "mobilevit": 128, "pvt": 128, "pvt_v2": 128, "segformer": 128, "swiftformer": 128}


def guesses(model: nn.Module) -> Iterator[Inputs]:
    """Keyword arguments to try: those made by hand for the family, then guesses, the richest first."""
    if model.config.model_type in INPUTS:
        yield INPUTS[model.config.model_type](model.config)
    names = set(inspect.signature(model.forward).parameters)
    text, image, targets = _text(model, names), _image(model, names), _targets(model, names)
    first, *others = _sounds(model, names) or [{}]
    sounds: list[tuple[Inputs, ...]] = [(sound,) for sound in others]
    uncached: Inputs = {**text, "use_cache": False} if "use_cache" in names and text else {}  # caches that know no attention layer
    together = ((text, image, first), (text, image), (text, first), (text,), (uncached,), (image,), (first,))
    for parts in (*together, *sounds, (_packed_patches(model, names),)):
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
    size = (
        _LARGE_IMAGES.get(model.config.model_type)
        or _find(model.config, "image_size")
        or _find(model.config, "img_size")
        or _find(model.config, "input_size")
        or 32
    )
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _find(model.config, "num_channels") or 3
    frames = _find(model.config, "num_frames") or _find(model.config, "frames_per_clip")
    shape = (BATCH, frames, channels, height, width) if frames else (BATCH, channels, height, width)
    return {name: torch.randn(shape)}


def _sounds(model: nn.Module, names: set[str]) -> list[Inputs]:
    """Sound in the layouts in use, the commonest first: features in time, time in features, waves with and without a channel."""
    bins = _find(model.config, "num_mel_bins") or _find(model.config, "feature_size") or _find(model.config, "input_feat_per_channel") or 16
    if "input_features" in names:
        places = 2 * (_find(model.config, "max_source_positions") or 32)
        wide = _find(model.config, "feature_projection_input_dim") or bins
        shapes = [(32, bins), (bins, places), (bins, 32), (32, wide)]
        if getattr(model.config, "model_type", "") in ("whisper",):
            shapes = shapes[1:]
        found = [{"input_features": torch.randn(BATCH, *shape)} for shape in shapes]
        if "input_features_mask" in names:
            found += [
                {**one, "input_features_mask": torch.ones(BATCH, one["input_features"].shape[-1], dtype=torch.long)} for one in found[2:3]
            ]
            found += [{**one, "input_features_mask": torch.ones(BATCH, one["input_features"].shape[-1 if turned else 1])}
                      for one in found[:3] for turned in (False, True)]  # fmt: skip
        return found
    if "input_values" in names:
        return [
            {"input_values": torch.randn(BATCH, *shape)}
            for shape in ((1600,), (1, 1600), (32, bins), (_find(model.config, "max_length") or 64, bins))
        ]
    return []


def _packed_patches(model: nn.Module, names: set[str]) -> Inputs:
    """Patches of two images in one row, with the sizes of each."""
    patches = next((name for name in ("hidden_states", "pixel_values") if name in names), None)
    grid = next((name for name in ("grid_thw", "image_grid_thw") if name in names), None)
    config = model.config
    if patches is None or grid is None or not isinstance(getattr(config, "patch_size", None), int):
        return {}
    width = (
        (_find(config, "in_channels") or _find(config, "in_chans") or _find(config, "num_channels") or 3)
        * (config.temporal_patch_size if hasattr(config, "temporal_patch_size") else 1)
        * config.patch_size**2
    )
    inputs = {patches: torch.randn(16 + 32, width), grid: torch.tensor([[1, 4, 4], [1, 4, 8]])}
    if "merge_sizes" in names:
        inputs["merge_sizes"] = torch.tensor([2, 2])
    return inputs


def _find(config: Any, name: str) -> Any:
    """An attribute of a configuration or of the first sub-configuration that has it."""
    if getattr(config, name, None) is not None:
        return getattr(config, name)
    for value in vars(config).values():
        if hasattr(value, "to_dict") and (found := _find(value, name)) is not None:
            return found
    return None
