"""Shrinks any configuration of transformers: a few rules on names and values, and a small table for what the rules cannot know."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from benchmarks.families.overrides import KEPT, OVERRIDES, WIDTH

VOCABULARY = 99
HEADS = 4
_LARGE = 10**9

# The first rule whose pattern matches the whole name of an attribute sets it; a rule never makes a number larger.
_RULES: tuple[tuple[str, Callable[[int], int]], ...] = (
    (r"(.*_)?(token|patch)_(id|index)|.*_token_id_.*|forced_.*", lambda value: value if value < 8 else 3),
    (r"(.*_)?vocab(ulary)?_size|n_vocab|vocab_size_.*|.*_vocab_size_.*", lambda value: VOCABULARY),
    (r".*codebook_size|num_quantizers|num_codebooks", lambda value: 64 if value >= 64 else value),
    (r"num_feat_extract_layers|num_adapter_layers|num_windows|num_res.*_layers", lambda value: value),
    (r"rotary_dim", lambda value: 4),
    (r"qk_head_dim", lambda value: 2 * WIDTH // HEADS),
    (r"n_head_kv|num_kv_heads|.*num_key_value_heads|kv_n_heads", lambda value: 2 if value > 1 else 1),
    (r".*(attention_heads|num_heads|n_heads?|nhead|_heads)", lambda value: HEADS),
    (r"(.*_)?head_dim|d_kv|attention_head_size|kv_channels|qk_.*head_dim|v_head_dim", lambda value: WIDTH // HEADS),
    (r"(.*_)?num_hidden_layers|.*_?(encoder|decoder)_layers|n_layers?|num_layers|depth|num_blocks|num_.*_layers|.*_depth", lambda value: 2),
    (r".*max_(position_embeddings|source_positions|target_positions|seq_len.*|2d_position.*)|n_positions|.*_max_len.*", lambda value: 64),
    (r"image_size|img_size|input_size|pretrain_image_size", lambda value: 32),
    (r"patch_size|vision_patch_size", lambda value: 8),
    (r"num_mel_bins|feature_size|num_mels", lambda value: 16),
    (r"num_(local_)?experts|n_routed_experts|moe_num_experts|num_.*experts", lambda value: 4),
    (r"index_topk", lambda value: 64),  # more than there are tokens: else it is chance which keys are hidden
    (r"(num_experts_per_tok|moe_k|moe_topk|num_experts_per_token|.*top_?k)", lambda value: 2),
    (r"n_group|topk_group|num_expert_group", lambda value: 1),
    (
        r"(.*_)?intermediate_size|.*ffn_dim|d_ff|n_inner|.*ffn_hidden.*|mlp_dim|.*_mlp_dim|ffn_hidden_size|dim_feedforward",
        lambda value: WIDTH + 8,
    ),
    (r".*lora_rank|.*_rank", lambda value: WIDTH // 2),
    (
        r"(.*_)?(hidden_size|d_model|n_embd|embed_dim|hidden_dim|dim|projection_dim|embedding_size|embedding_dim|out_dim|output_dim|proj_dim|proj_size|hidden_channels|channels_dim)(_.*)?",
        lambda value: WIDTH,
    ),
    (r"sliding_window|.*window(_size)?|attention_chunk_size", lambda value: 4),
    (r"num_labels|num_queries|.*_num_queries", lambda value: 5),
    (r"num_.*groups|.*_groups", lambda value: 2),
)

_OF_DEPTH = frozenset(
    pattern for pattern, _ in _RULES if any(word in pattern for word in ("token", "vocab", "feat_extract", "hidden_layers", "experts"))
)
Mode = Literal["small", "filled", "shallow"]


def tiny_config(model_type: str, mode: Mode = "small") -> PretrainedConfig:
    """A configuration of ``model_type`` of a few thousand parameters, or, of mode ``"shallow"``, of a few million."""
    config = shrink(CONFIG_MAPPING[model_type], model_type, mode)
    if isinstance(classes := MODEL_MAPPING_NAMES.get(model_type), (tuple, list)):
        config.architectures = [classes[0]]  # the registry offers several models for this configuration
    return config


def shrink(kind: type[PretrainedConfig], model_type: str, mode: Mode = "small", **fixed: Any) -> PretrainedConfig:
    """An instance of ``kind`` with small numbers, and of its sub-configurations too.

    Args:
        kind: The configuration's class.
        model_type: The family, and the name of the sub-configuration behind a dot: what overrides are found by.
        mode: ``"small"``; ``"filled"`` gives sizes that are None by default a number too; ``"shallow"`` keeps all widths as they are, for
            families whose widths depend on each other, and makes few layers and a small vocabulary only.
        **fixed: Values to set.
    """
    full = kind()
    overrides = {**OVERRIDES.get(getattr(kind, "model_type", ""), {}), **OVERRIDES.get(model_type, {}), **fixed}
    layers = next(
        (value for name in ("num_hidden_layers", "num_layers", "n_layer") if isinstance(value := getattr(full, name, None), int)), 0
    )
    kept = _kept_layers(full, layers)
    small: dict[str, Any] = {}
    for name, value in vars(full).items():
        if name.startswith("_") or name in overrides or isinstance(value, bool) or name in ("transformers_version", "dtype"):
            continue
        if isinstance(value, PretrainedConfig):
            small[name] = shrink(type(value), f"{model_type}.{name}", mode)
        elif isinstance(value, int):
            smaller = _shrunk(name, value, mode)
            if smaller != value:
                small[name] = smaller
        elif isinstance(value, (list, tuple)) and kept is not None and len(value) == layers:
            small[name] = [value[index] for index in kept]
        elif isinstance(value, (list, tuple)) and mode != "shallow" and (stages := _shrunk_stages(name, value)) is not None:
            small[name] = type(value)(stages)
        elif isinstance(value, dict) and "mrope_section" in value:
            small[name] = {**value, "mrope_section": [2, 1, 1]}
        elif name == "head_dim" and value is None and mode != "shallow":
            small[name] = WIDTH // HEADS
        elif mode == "filled" and value is None and _shrunk(name, _LARGE) != _LARGE:
            small[name] = _shrunk(name, _LARGE)
    if mode != "shallow" and _rotates_by_sections(kind):
        small["rope_parameters"] = _sections(full, small.get("rope_parameters"))
    if kept is not None:
        for name in ("num_hidden_layers", "num_layers", "n_layer"):
            if name in small:
                small[name] = len(kept)
    heads, key_heads = vars(full).get("num_attention_heads"), vars(full).get("num_key_value_heads")  # reading them may be refused
    if mode != "shallow" and heads == key_heads and "num_key_value_heads" in small and "num_key_value_heads" not in overrides:
        small["num_key_value_heads"] = HEADS
    small.update({name: value() if callable(value) else value for name, value in overrides.items() if value is not KEPT})
    return kind(**small)


def _rotates_by_sections(kind: type[PretrainedConfig]) -> bool:
    """Whether the model of this configuration splits its rotation over time, height and width."""
    if not hasattr(kind, "rope_parameters") or "vision" in kind.__name__.lower():
        return False
    place = importlib.util.find_spec(kind.__module__.replace(".configuration_", ".modeling_"))
    return place is not None and place.origin is not None and "mrope_section" in Path(place.origin).read_text(encoding="utf-8")


def _sections(full: PretrainedConfig, small: Any) -> Any:
    """The rotation's parameters with sections that add up to half of what a small head rotates."""
    given = small or getattr(full, "rope_parameters", None) or {"rope_type": "default", "rope_theta": 10000.0}
    half = int(WIDTH // HEADS * given.get("partial_rotary_factor", 1.0)) // 2
    return {**given, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}


def _kept_layers(full: PretrainedConfig, layers: int) -> list[int] | None:
    """Indices of layers that show every kind of layer once, and two at least."""
    types = getattr(full, "layer_types", None) or getattr(full, "layers_block_type", None)
    if not isinstance(types, list) or len(types) != layers or layers < 2:
        return None
    firsts = [types.index(kind) for kind in dict.fromkeys(types)]
    return sorted(firsts) if len(firsts) > 1 else [0, 1]


_STAGES: dict[str, tuple[int, ...]] = {
    "image_size": (32, 32), "depths": (2, 1, 1, 1, 1), "num_heads": (2, 4, 4, 4, 4), "num_attention_heads": (2, 4, 4, 4, 4),
    "embed_dim": (16, 32, 32, 32),
    "hidden_sizes": (16, 32, 32, 32, 32), "embed_dims": (16, 32, 32, 32), "conv_dim": (16,) * 9, "encoder_hidden_sizes": (16, 32, 32, 32),
}  # fmt: skip


def _shrunk_stages(name: str, value: list[int] | tuple[int, ...]) -> list[int] | None:
    """Sizes of the stages of a pyramid, small but different."""
    sizes = _STAGES.get(name)
    if sizes is None or not value or not all(isinstance(size, int) for size in value):
        return None
    sizes += (sizes[-1],) * (len(value) - len(sizes))
    return [min(size, small) for size, small in zip(value, sizes, strict=False)]


def _shrunk(name: str, value: int, mode: Mode = "small") -> int:
    for pattern, rule in _RULES:
        if (mode != "shallow" or pattern in _OF_DEPTH) and re.fullmatch(pattern, name):
            return min(value, rule(value)) if value > 0 else value
    return value


def families() -> tuple[str, ...]:
    """Model types that the installed transformers can build from a configuration, by its own registry."""
    return tuple(MODEL_MAPPING_NAMES)
