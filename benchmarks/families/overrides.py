"""What the shrinking rules cannot know: sizes of one family that depend on each other."""

from __future__ import annotations

from typing import Any

BAND = 9  # keys each query of Longformer and LED sees: a window of 8
BLOCK = 4  # tokens in a block of LongT5: a radius of 3
_TWO_STAGES = {"image_size": 32, "patch_size": 2, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4, "embed_dim": 16}

OVERRIDES: dict[str, dict[str, Any]] = {
    "swin": _TWO_STAGES,
    "swinv2": _TWO_STAGES,
    "donut-swin": _TWO_STAGES,
    "maskformer-swin": _TWO_STAGES,
    "swin2sr": {**_TWO_STAGES, "patch_size": 1, "image_size": 16},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "block_repeats": [1, 1]},
    "zamba2": {"mamba_headdim": 8, "n_mamba_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen2_5_vl_vision": {"window_size": 32},
    "exaone4_5_vision": {"window_size": 32},
    "recurrent_gemma": {"num_hidden_layers": 3},  # the third attends
    "xmod": {"default_language": "en_XX"},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "longformer": {"attention_window": [BAND - 1, BAND - 1]},
    "led": {"attention_window": [BAND - 1, BAND - 1]},
    "pegasus_x": {"block_size": 4, "num_global_tokens": 3},
    "canine": {"downsampling_rate": 2, "local_transformer_stride": 16},
    "longt5": {"local_radius": BLOCK - 1},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "autoformer": {"prediction_length": 4},
    "reformer": {
        "axial_pos_shape": (4, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
    },
}
