"""Models of diffusers, built small, and what each is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import attviz
from benchmarks.families.check import Outcome, outcome_of

_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 16, "norm_num_groups": 8, "attention_head_dim": 8,
}  # fmt: skip
_TEXT = {**_UNET, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32}
_FLUX = {
    "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 32, "axes_dims_rope": [4, 4, 8],
}  # fmt: skip
_SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 64,
}  # fmt: skip


def _r(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _at() -> Tensor:
    return torch.tensor([7, 3])


def _mask(length: int = 7, kind: torch.dtype = torch.long) -> Tensor:
    """The second text is two tokens shorter."""
    mask = torch.ones(2, length, dtype=kind)
    mask[1, -2:] = 0
    return mask


def _blocks(*kinds: str) -> dict[str, Any]:
    return {"down_block_types": kinds[:2], "up_block_types": kinds[2:]}


def _noise(text: int, *noise: int, **more: Any) -> Callable[[], dict[str, Any]]:
    """Noise, the step it is at, and a text of seven tokens."""
    return lambda: {"hidden_states": _r(*noise), "timestep": _at(), "encoder_hidden_states": _r(2, 7, text), **more}


def _unet(*noise: int) -> Callable[[], dict[str, Any]]:
    return lambda: {"sample": _r(*noise), "timestep": torch.tensor(7), "encoder_hidden_states": _r(noise[0], 7, 32)}


def _flux(**more: Any) -> Callable[[], dict[str, Any]]:
    return _noise(32, 2, 16, 4, img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
                  txt_ids=torch.zeros(7, 3), **more)  # fmt: skip


# The class, behind a slash what tells it from others of the class; its sizes; its inputs.
MODELS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "UNet2DModel": (
        {**_UNET, "in_channels": 3, "out_channels": 3, **_blocks("DownBlock2D", "AttnDownBlock2D", "AttnUpBlock2D", "UpBlock2D")},
        lambda: {"sample": _r(2, 3, 16, 16), "timestep": torch.tensor(7)},
    ),
    "UNet2DConditionModel": (
        {**_TEXT, **_blocks("CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")}, _unet(2, 4, 16, 16),
    ),
    "UNet3DConditionModel": (
        {**_TEXT, **_blocks("CrossAttnDownBlock3D", "DownBlock3D", "UpBlock3D", "CrossAttnUpBlock3D")}, _unet(1, 4, 4, 16, 16),
    ),
    "UNetSpatioTemporalConditionModel": (
        {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 16, "in_channels": 4, "out_channels": 4,
         "cross_attention_dim": 32, "num_attention_heads": (2, 4), "addition_time_embed_dim": 32,
         "projection_class_embeddings_input_dim": 96,
         **_blocks("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal", "UpBlockSpatioTemporal",
                   "CrossAttnUpBlockSpatioTemporal")},
        lambda: {"sample": _r(1, 4, 4, 16, 16), "timestep": torch.tensor(7), "encoder_hidden_states": _r(1, 1, 32),
                 "added_time_ids": torch.ones(1, 3)},
    ),
    "Transformer2DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 32, "norm_num_groups": 8},
        lambda: {"hidden_states": _r(2, 32, 8, 8)},
    ),
    "DiTTransformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10},
        lambda: {"hidden_states": _r(2, 4, 8, 8), "timestep": _at(), "class_labels": torch.tensor([1, 2])},
    ),
    "PixArtTransformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "sample_size": 8,
         "cross_attention_dim": 32, "caption_channels": 16, "use_additional_conditions": False},
        _noise(16, 2, 4, 8, 8, added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    "SD3Transformer2DModel": (_SD3, _noise(32, 2, 4, 8, 8, pooled_projections=torch.ones(2, 64))),
    "SD3Transformer2DModel/dual": (
        {**_SD3, "dual_attention_layers": (0,), "qk_norm": "rms_norm"}, _noise(32, 2, 4, 8, 8, pooled_projections=torch.ones(2, 64)),
    ),
    "FluxTransformer2DModel": ({**_FLUX, "pooled_projection_dim": 32}, _flux(pooled_projections=torch.ones(2, 32))),
    "ChromaTransformer2DModel": (
        {**_FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1}, _flux(),
    ),
    "AuraFlowTransformer2DModel": (
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
         "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32,
         "pos_embed_max_size": 64},
        _noise(32, 2, 4, 8, 8),
    ),
    "CogVideoXTransformer3DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2, "text_embed_dim": 8,
         "num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 5, "patch_size": 2, "max_text_seq_length": 7},
        _noise(8, 2, 2, 4, 8, 8),
    ),
    "CogView4Transformer2DModel": (
        {"patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "out_channels": 4,
         "text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 4},
        _noise(8, 2, 4, 8, 8, original_size=torch.ones(2, 2), target_size=torch.ones(2, 2), crop_coords=torch.zeros(2, 2)),
    ),
    "LTXVideoTransformer3DModel": (
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "num_layers": 2,
         "caption_channels": 16},
        _noise(16, 2, 32, 4, encoder_attention_mask=_mask(), num_frames=2, height=4, width=4),
    ),
    "HunyuanVideoTransformer3DModel": (
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1, "num_single_layers": 1,
         "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True, "text_embed_dim": 16,
         "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4)},
        _noise(16, 2, 4, 2, 4, 4, encoder_attention_mask=_mask(), pooled_projections=torch.ones(2, 8), guidance=torch.ones(2)),
    ),
    "WanTransformer3DModel": (
        {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
         "freq_dim": 64, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32},
        _noise(16, 2, 4, 2, 8, 8),
    ),
    "MochiTransformer3DModel": (
        {"patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4,
         "text_embed_dim": 16, "time_embed_dim": 4, "max_sequence_length": 7},
        _noise(16, 2, 4, 2, 8, 8, encoder_attention_mask=_mask(kind=torch.bool)),
    ),
    "AllegroTransformer3DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 2,
         "cross_attention_dim": 24, "sample_width": 8, "sample_height": 8, "sample_frames": 8, "caption_channels": 24},
        lambda: {"hidden_states": _r(2, 4, 2, 8, 8), "timestep": _at(), "encoder_hidden_states": _r(2, 7, 24)},
    ),
    "LatteTransformer3DModel": (
        {"sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 4, "caption_channels": 8,
         "in_channels": 4, "cross_attention_dim": 32, "out_channels": 8, "norm_type": "ada_norm_single",
         "norm_elementwise_affine": False, "num_embeds_ada_norm": 10, "video_length": 2},
        _noise(8, 2, 4, 2, 8, 8),
    ),
    "SanaTransformer2DModel": (
        {"patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
         "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 8, "sample_size": 8},
        _noise(8, 2, 4, 8, 8),
    ),
    "Lumina2Transformer2DModel": (
        {"sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1,
         "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 2, "axes_dim_rope": (4, 2, 2), "axes_lens": (64, 64, 64),
         "cap_feat_dim": 8},
        _noise(8, 2, 4, 16, 16, encoder_attention_mask=_mask(kind=torch.bool)),
    ),
    "QwenImageTransformer2DModel": (
        {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
        _noise(16, 2, 16, 16, encoder_hidden_states_mask=_mask(), img_shapes=[(1, 4, 4)] * 2),
    ),
    "AutoencoderKL": (
        {"block_out_channels": (32, 64), "norm_num_groups": 8, "latent_channels": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
         "up_block_types": ("UpDecoderBlock2D",) * 2},
        lambda: {"sample": _r(2, 3, 16, 16)},
    ),
    "ControlNetModel": (
        {**{key: value for key, value in _TEXT.items() if key not in ("out_channels", "sample_size")},
         "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "conditioning_embedding_out_channels": (8, 16)},
        lambda: {**_unet(2, 4, 16, 16)(), "controlnet_cond": _r(2, 3, 32, 32)},
    ),
}  # fmt: skip


def check_model(name: str) -> list[Outcome]:
    """A model with the attention that diffusers gives it."""
    torch.manual_seed(0)
    sizes, inputs = MODELS[name]
    try:
        model = getattr(importlib.import_module("diffusers"), name.partition("/")[0])(**sizes).eval()
        given = inputs()
        with torch.no_grad():
            model(**given)
    except Exception as error:
        return [Outcome(name, "native", "unbuilt", note=f"{type(error).__name__}: {error}")]
    try:
        return [outcome_of(name, "native", attviz.check(model, **given))]
    except Exception as error:
        return [Outcome(name, "native", "crashed", note=f"{type(error).__name__}: {error}")]
