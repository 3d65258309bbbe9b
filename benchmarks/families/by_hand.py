"""Inputs of families whose forward cannot be guessed from its signature: one function each, tried before the guesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.families.tiny import VOCABULARY, WIDTH

Inputs = dict[str, Any]
_BATCH, _LENGTH = 2, 7


def _ids(length: int = _LENGTH, low: int = 10, high: int = VOCABULARY - 1) -> Tensor:
    return torch.randint(low, high, (_BATCH, length))


def _ones(*shape: int) -> Tensor:
    return torch.ones(_BATCH, *shape, dtype=torch.long)


def _text(length: int = _LENGTH) -> Inputs:
    mask = _ones(length)
    mask[1, length - 2 :] = 0
    return {"input_ids": _ids(length), "attention_mask": mask}


def _image(size: int = 32, **more: Any) -> Inputs:
    return {"pixel_values": torch.randn(_BATCH, 3, size, size), **more}


def _series(config: Any) -> Inputs:
    """Past and future of a time series."""
    past, future, features = config.context_length + max(config.lags_sequence), config.prediction_length, config.num_time_features
    return {
        "past_values": torch.randn(_BATCH, past),
        "past_time_features": torch.randn(_BATCH, past, features),
        "past_observed_mask": _ones(past),
        "future_values": torch.randn(_BATCH, future),
        "future_time_features": torch.randn(_BATCH, future, features),
    }


def _trajectory(config: Any) -> Inputs:
    """States, actions and rewards of a decision transformer."""
    return {
        "states": torch.randn(_BATCH, 5, config.state_dim), "actions": torch.randn(_BATCH, 5, config.act_dim),
        "rewards": torch.randn(_BATCH, 5, 1), "returns_to_go": torch.randn(_BATCH, 5, 1),
        "timesteps": torch.arange(5).expand(_BATCH, 5), "attention_mask": _ones(5),
    }  # fmt: skip


def _question_and_image(config: Any) -> Inputs:
    """A question for the query tokens, and a text with a place for each of them."""
    ids = _ids(12)
    names = ("image_token_id", "image_token_index", "video_token_index")
    ids[:, 2 : 2 + config.num_query_tokens] = next(getattr(config, name) for name in names if hasattr(config, name))
    return {**_image(), "input_ids": ids, "attention_mask": _ones(12), "qformer_input_ids": _ids(5), "qformer_attention_mask": _ones(5)}


def _patches(config: Any) -> Inputs:
    """An image cut into patches, 4 by 4, of which the second has 4 by 3."""
    mask = _ones(16)
    mask[1, 12:] = 0
    patches = torch.randn(_BATCH, 16, 3 * config.patch_size**2)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[4, 4], [4, 3]])}


def _siglip2(config: Any) -> Inputs:
    return {"input_ids": _ids(), "attention_mask": _ones(_LENGTH), **_patches(config.vision_config)}


def _waves(config: Any) -> Inputs:
    """Sound as waves, and as the features that the semantic half of a codec hears."""
    bins = config.semantic_model_config.feature_projection_input_dim
    return {"input_values": torch.randn(_BATCH, 1, 6400), "input_features": torch.randn(_BATCH, 20, bins)}


def _classes() -> Inputs:
    """Two classes and a task for each of two images."""
    ids, mask = torch.randint(3, 60, (2 * _BATCH, 5)), torch.ones(2 * _BATCH, 5, dtype=torch.long)
    return {
        "classes_input_ids": ids, "classes_attention_mask": mask, "tasks_input_ids": ids[:_BATCH], "tasks_attention_mask": mask[:_BATCH],
        "classes_structure": torch.tensor([2, 2]),
    }  # fmt: skip


def _actions(config: Any) -> Inputs:
    """A text with an image in it, and actions that look at both."""
    ids = _ids(4 + _LENGTH)
    ids[:, :4] = config.vlm_config.image_token_id
    mask = _ones(4 + _LENGTH)
    mask[1, -2:] = 0
    size = config.vlm_config.vision_config.image_size
    return {
        "input_ids": ids, "attention_mask": mask, "action_embeds": torch.randn(_BATCH, 5, config.dit_config.hidden_size),
        "pixel_values": torch.randn(_BATCH, 1, 3, size, size), "pixel_attention_mask": torch.ones(_BATCH, 1, dtype=torch.bool),
    }  # fmt: skip


def _boxes(length: int, sides: int = 4) -> Tensor:
    return torch.randint(0, 50, (_BATCH, length, sides)).sort(-1).values


def _prompted(config: Any) -> Inputs:
    """An image and two points in it."""
    size = config.vision_config.image_size if hasattr(config.vision_config, "image_size") else 64
    points = torch.tensor([[[[5.0, 6.0], [9.0, 3.0]]]]).expand(_BATCH, 1, 2, 2)
    return {"pixel_values": torch.randn(_BATCH, 3, size, size), "input_points": points, "input_labels": _ones(1, 2)}


def _grid(name: str, grid: str) -> Callable[[Any], Inputs]:
    def inputs(config: Any) -> Inputs:
        frames = getattr(config, "temporal_patch_size", None) or getattr(config, "patch_temporal", 1)
        width = 3 * frames * config.patch_size**2
        return {name: torch.randn(48, width), grid: torch.tensor([[1, 4, 4], [1, 4, 8]])}

    return inputs


def _row_of_patches(config: Any) -> Inputs:
    """Patches of two images in one row of pixels, with the sizes of both."""
    pixels = torch.randn(1, 3, config.patch_size, 48 * config.patch_size)
    return {"pixel_values": pixels, "target_sizes": torch.tensor([[4, 4], [4, 8]])}


def _bands(frames: int, *, first: bool = True, bins: int | None = None) -> Callable[[Any], Inputs]:
    """Sound as bands in time, with a mask that is shorter for the second."""

    def inputs(config: Any) -> Inputs:
        wide = bins or getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_size", None) or 16
        mask = _ones(frames)
        mask[1, frames - 8 :] = 0
        sound = torch.randn(_BATCH, wide, frames) if first else torch.randn(_BATCH, frames, wide)
        return {"input_features": sound, "input_features_mask": mask}

    return inputs


INPUTS: dict[str, Callable[[Any], Inputs]] = {
    "autoformer": _series,
    "informer": _series,
    "time_series_transformer": _series,
    "decision_transformer": _trajectory,
    "patchtst": lambda config: {"past_values": torch.randn(_BATCH, config.context_length, config.num_input_channels)},
    "patchtsmixer": lambda config: {"past_values": torch.randn(_BATCH, config.context_length, config.num_input_channels)},
    "timesfm": lambda config: {
        "past_values": torch.randn(_BATCH, 64), "past_values_padding": torch.zeros(_BATCH, 64), "freq": torch.zeros(_BATCH, 1).long(),
    },
    "timesfm2_5": lambda config: {"past_values": torch.randn(_BATCH, 64), "past_values_padding": torch.zeros(_BATCH, 64)},
    "blip-2": lambda config: {name: value for name, value in _question_and_image(config).items() if "qformer" not in name},
    "blip_2_qformer": lambda config: {
        "query_embeds": torch.randn(_BATCH, 6, config.hidden_size),
        "encoder_hidden_states": torch.randn(_BATCH, 9, config.encoder_hidden_size),
    },
    "depth_pro": lambda config: _image(128),
    "fastspeech2_conformer_with_hifigan": lambda config: {
        "input_ids": _ids(high=config.model_config.vocab_size), "attention_mask": _ones(_LENGTH),
    },
    "instructblip": _question_and_image,
    "instructblipvideo": lambda config: {
        **_question_and_image(config), "pixel_values": torch.randn(_BATCH, 4, 3, 32, 32),
    },
    "bros": lambda config: {**_text(), "bbox": torch.rand(_BATCH, _LENGTH, 8)},
    "lilt": lambda config: {**_text(), "bbox": _boxes(_LENGTH)},
    "clap": lambda config: {**_text(), "input_features": torch.randn(_BATCH, 1, 256, 16), "is_longer": torch.zeros(_BATCH, 1).bool()},
    "clvp": lambda config: {**_text(), "input_features": torch.randn(_BATCH, config.decoder_config.feature_size, 24)},
    "dia": lambda config: {**_text(), "decoder_input_ids": torch.randint(3, 60, (_BATCH, 6, config.decoder_config.num_channels))},
    "esmc": lambda config: {"input_ids": _ids(high=60), "attention_mask": _text()["attention_mask"]},
    "fastspeech2_conformer": lambda config: {"input_ids": _ids(high=config.vocab_size), "attention_mask": _ones(_LENGTH)},
    "fun_asr_nano_encoder": lambda config: _bands(32, first=False, bins=config.num_mel_bins * config.num_stacked_frames)(config),
    "gemma4_audio": _bands(64, first=False, bins=128),
    "gemma3n_audio": lambda config: {
        "audio_mel": torch.randn(_BATCH, 64, config.input_feat_size), "audio_mel_mask": torch.zeros(_BATCH, 64, dtype=torch.bool),
    },
    "gemma4_vision": lambda config: {
        "pixel_values": torch.rand(_BATCH, 36, 3 * config.patch_size**2),
        "pixel_position_ids": torch.cartesian_prod(torch.arange(6), torch.arange(6)).expand(_BATCH, 36, 2),
    },
    "idefics": lambda config: {
        **_text(), "pixel_values": torch.randn(_BATCH, 1, 3, 32, 32), "image_attention_mask": _ones(_LENGTH, 1),
    },
    "inkling2_vision": lambda config: {
        "pixel_values": torch.randn(12, 2 * config.patch_size, 2 * config.patch_size, 3),
        "image_grid_thw": torch.tensor([[1, 2, 2], [1, 2, 4]]),
    },
    "kimi_k25_vision": lambda config: {
        "pixel_values": torch.randn(48, 3, config.patch_size, config.patch_size), "grid_thw": torch.tensor([[1, 4, 4], [1, 4, 8]]),
    },
    "muse_glimmer_vision": _grid("pixel_values", "grid_thw"),
    "muse_spark_vision": _grid("pixel_values", "grid_thw"),
    "minicpm_ocr_vision": _row_of_patches,
    "minicpmv4_7_vision": _row_of_patches,
    "mimi_decoder": lambda config: {"latents": torch.randn(_BATCH, config.hidden_size, 6)},
    "pocket_tts_audio_tokenizer_decoder": lambda config: {"latents": torch.randn(_BATCH, config.latent_dim, 6)},
    "neucodec": _waves,
    "xcodec2": _waves,
    "edgetam": lambda config: _image(64),
    "edgetam_vision_model": lambda config: _image(64),
    "vibevoice_asr": lambda config: {**_text(), "input_values": torch.randn(_BATCH, 1, 6400)},
    "vibevoice": lambda config: _text(),
    "vibevoice_acoustic_tokenizer_encoder": lambda config: {"hidden_states": torch.randn(_BATCH, 1, 6400)},
    "vibevoice_acoustic_tokenizer": lambda config: {"input_values": torch.randn(_BATCH, 1, 6400)},
    "omdet-turbo": lambda config: _image(64, **_classes()),
    "pe_video_encoder": lambda config: {"pixel_values_videos": torch.randn(_BATCH, 4, 3, 28, 28)},
    "pe_video": lambda config: {**_text(), "pixel_values_videos": torch.randn(_BATCH, 4, 3, 28, 28)},
    "pe_audio_video_encoder": lambda config: {
        "pixel_values_videos": torch.randn(_BATCH, 4, 3, 28, 28), "input_values": torch.randn(_BATCH, 1, 16000),
    },
    "pe_audio_video": lambda config: {
        **_text(), "pixel_values_videos": torch.randn(_BATCH, 4, 3, 28, 28), "input_values": torch.randn(_BATCH, 1, 16000),
    },
    "pi0": _actions,
    "bark": lambda config: _text(),
    "evolla": lambda config: {
        **_text(), "protein_input_ids": torch.randint(4, 60, (_BATCH, 9)), "protein_attention_mask": _ones(9),
    },
    "nemotron3_5_transcribe_word_timestamp": lambda config: {
        "inputs_embeds": torch.randn(_BATCH, _LENGTH, config.hidden_size), "attention_mask": _text()["attention_mask"],
    },
    "tvp": lambda config: {"input_ids": _ids()[:1], "attention_mask": _ones(_LENGTH)[:1], "pixel_values": torch.randn(1, 2, 3, 128, 128)},
    "efficientloftr": lambda config: {"pixel_values": torch.randn(_BATCH, 2, 3, 128, 128)},
    "lw_detr": lambda config: _image(64),
    **dict.fromkeys(
        ("pp_ocrv5_mobile_rec", "pp_ocrv5_server_rec", "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"),
        lambda config: {"pixel_values": torch.randn(_BATCH, 3, 96, 320)},
    ),
    **dict.fromkeys(("deimv2", "pp_doclayout_v3", "pp_doclayout_v4"), lambda config: _image(64)),
    "vibevoice_acoustic_tokenizer_decoder": lambda config: {"hidden_states": torch.randn(_BATCH, config.hidden_size, 6)},
    "kosmos-2": lambda config: {
        **_text(), **_image(), "image_embeds_position_mask": (torch.arange(_LENGTH) < config.latent_query_num).long().expand(_BATCH, -1),
    },
    "layoutlmv2": lambda config: {**_text(), "bbox": _boxes(_LENGTH), "image": torch.randn(_BATCH, 3, 32, 32)},
    "levit": lambda config: _image(128),
    "cvt": lambda config: _image(64),
    "mobilevitv2": lambda config: _image(128),
    "lightglue": lambda config: {"pixel_values": torch.randn(_BATCH, 2, 1, 64, 64)},
    "lxmert": lambda config: {
        **_text(), "visual_feats": torch.randn(_BATCH, 5, config.visual_feat_dim), "visual_pos": torch.rand(_BATCH, 5, 4),
    },
    "llama4": lambda config: _image(
        input_ids=torch.cat([torch.full((_BATCH, 4), config.image_token_index), _ids()], 1), attention_mask=_ones(11)),
    "step3p7": lambda config: _text(),
    "ernie4_5_vl_moe": lambda config: _text(),
    "qwen2_5_omni_thinker": lambda config: _text(),
    "qwen3_omni_moe_thinker": lambda config: _text(),
    "mask2former": lambda config: _image(64),
    "maskformer": lambda config: _image(64),
    "detr": lambda config: _image(64, pixel_mask=_ones(64, 64)),
    "conditional_detr": lambda config: _image(64),
    "dab-detr": lambda config: _image(64),
    "deformable_detr": lambda config: _image(64),
    "table-transformer": lambda config: _image(64),
    "rt_detr": lambda config: _image(64),
    "rt_detr_v2": lambda config: _image(64),
    "d_fine": lambda config: _image(64),
    "muse_spark_audio": lambda config: {"input_values": torch.randn(_BATCH, 4 * 1920)},
    "mimi": lambda config: {"input_values": torch.randn(1, 1, 16000)},
    "moonshine": lambda config: {"input_values": torch.randn(_BATCH, 6400), "decoder_input_ids": _ids(5)},
    "musicgen": lambda config: {**_text(), "decoder_input_ids": torch.randint(3, 60, (_BATCH * config.decoder.num_codebooks, 5))},
    "musicgen_melody": lambda config: {**_text(), "decoder_input_ids": torch.randint(3, 60, (_BATCH * config.decoder.num_codebooks, 5))},
    "oneformer": lambda config: _image(64, task_inputs=_ids(config.task_seq_len)),
    "pe_audio": lambda config: {**_text(), "input_values": torch.randn(_BATCH, 1, 16000)},
    "perceiver": lambda config: {"inputs": torch.randn(_BATCH, 9, config.d_model)},
    "qwen3_asr_encoder": _bands(400),
    "voxtral_realtime": lambda config: {
        **_text(), "input_features": torch.randn(_BATCH, config.audio_config.num_mel_bins, 8 * _LENGTH), "use_cache": False,
    },
    "sam": _prompted,
    "sam_hq": _prompted,
    "sam3_tracker": _prompted,
    "sam2": lambda config: _image(128),
    "sam2_hiera_det_model": lambda config: _image(128),
    "sam2_vision_model": lambda config: _image(128),
    "seamless_m4t": lambda config: {"input_ids": _ids(), "attention_mask": _ones(_LENGTH), "decoder_input_ids": _ids(5)},
    "seamless_m4t_v2": lambda config: {"input_ids": _ids(), "attention_mask": _ones(_LENGTH), "decoder_input_ids": _ids(5)},
    "seggpt": lambda config: {
        "pixel_values": torch.randn(_BATCH, 3, 32, 32), "prompt_pixel_values": torch.randn(_BATCH, 3, 32, 32),
        "prompt_masks": torch.randn(_BATCH, 3, 32, 32),
    },
    "siglip2": _siglip2,
    "siglip2_vision_model": _patches,
    "speecht5": lambda config: {"input_values": torch.randn(_BATCH, 9, WIDTH), "decoder_input_values": torch.randn(_BATCH, 5, WIDTH)},
    "vits": lambda config: {"input_ids": _ids(high=config.vocab_size), "attention_mask": _ones(_LENGTH)},
    "xcodec": lambda config: {"input_values": torch.randn(1, 1, 12800)},
    "muse_glimmer_assistant": lambda config: {
        "noise_embeds": torch.randn(_BATCH, config.block_size, config.hidden_size),
        "context_hidden_states": torch.randn(_BATCH, 5, config.hidden_size * len(config.target_layer_ids)),
        # the text that was accepted so far is two tokens shorter in the second row
        "attention_mask": (torch.arange(5 + config.block_size) >= torch.tensor([[0], [2]])).long(),
    },
    "kyutai_speech_to_text": lambda config: {"input_ids": torch.randint(3, 60, (_BATCH, _LENGTH, config.num_codebooks + 1))},
    "csm": lambda config: {"input_ids": torch.randint(3, 60, (_BATCH, _LENGTH, config.num_codebooks)), "attention_mask": _ones(_LENGTH)},
}  # fmt: skip
