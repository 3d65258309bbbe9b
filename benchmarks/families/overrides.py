"""What the shrinking rules cannot know: sizes of one family that depend on each other."""

from __future__ import annotations

from typing import Any

from benchmarks.families.backbones import (
    clip_of_width_64,
    resnet,
    resnet_in_four,
    resnet_of_detr,
    swin,
    timm_convolutions,
    timm_swin,
    timm_vit,
)

WIDTH = 32
KEPT = object()  # stands for the value that transformers gives
BAND = 9  # keys each query of Longformer and LED sees: a window of 8
BLOCK = 4  # tokens in a block of LongT5: a radius of 3


_WITH_RESNET: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": resnet}
_WITH_RT_RESNET = {
    "backbone_config": resnet_of_detr, "encoder_in_channels": [16, 32, 32], "decoder_in_channels": [32, 32, 32], "encoder_hidden_dim": 32,
    "num_queries": 9, "num_denoising": 0,
}  # fmt: skip
_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3], "num_time_features": 2}
_HIERA = {
    "image_size": [128, 128], "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
    "num_attention_heads": 1, "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}  # fmt: skip
_CODEC = {"quantization_dim": 64}
_SEVEN_STAGES = {"num_filters": 2, "depths": [1] * 7}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_TWO_STAGES = {"image_size": 32, "patch_size": 2, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4, "embed_dim": 16}

# The class that is built, and the sub-configuration it is built from, where the registry's own has no forward or another configuration.
MODELS: dict[str, tuple[str, str]] = {
    "bark": ("BarkSemanticModel", "semantic_config"),
    "evolla": ("EvollaModel", ""),
    "musicgen": ("MusicgenForConditionalGeneration", ""),
    "musicgen_melody": ("MusicgenMelodyForConditionalGeneration", ""),
}

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("detr", "conditional_detr", "dab-detr", "deformable_detr", "table-transformer"), _WITH_RESNET),
    **dict.fromkeys(("rt_detr", "rt_detr_v2", "d_fine", "deimv2"), _WITH_RT_RESNET),
    "pp_doclayout_v3": {**_WITH_RT_RESNET, "backbone_config": resnet_in_four, "x4_feat_dim": 16},
    "pp_doclayout_v4": _WITH_RT_RESNET,
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), _SERIES),
    "autoformer": {**_SERIES, "label_length": 4, "moving_average": 3},
    "mask2former": {"backbone_config": swin, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32},
    "maskformer": {"backbone_config": swin, "fpn_feature_size": 32, "mask_feature_size": 32},
    "oneformer": {"backbone_config": swin, "conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "task_seq_len": 9, "text_encoder_width": 32},
    "sam2_hiera_det_model": _HIERA,
    "sam2_vision_model": {
        "backbone_channel_list": [64, 32, 16, 8],
        "num_feature_levels": 3,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    },
    "blip-2": {"num_query_tokens": 4, "image_token_index": 5},
    "instructblip": {"num_query_tokens": 4, "image_token_index": 5},
    "align_vision_model": {"image_size": 64},
    "apertus1p5_vision_tokenizer": {"base_channels": 32},
    "apertus1p5_text": {"vocab_size": 160},
    "apertus1p5": {"image_token_offset": 10, "audio_token_offset": 74},
    "bros": {"hidden_size": 64, "dim_bbox_projection": 16, "dim_bbox_sinusoid_emb_2d": 32, "dim_bbox_sinusoid_emb_1d": 4},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "bridgetower": {"hidden_size": 128},
    "bridgetower_text_model": {"hidden_size": 128},
    "bridgetower_vision_model": {"hidden_size": 128},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "clap_audio_model": {
        "spec_size": 64,
        "num_mel_bins": 16,
        "depths": (1, 1),
        "num_attention_heads": (2, 4),
        "patch_embeds_hidden_size": 16,
        "num_hidden_layers": 2,
        "hidden_size": 32,
    },
    "cohere_compass_text": {
        "rope_parameters": {key: {**_ROPE, "mrope_section": [2, 1, 1]} for key in ("sliding_attention", "full_attention")}
    },
    "clvp_encoder": {"hidden_size": 128, "projection_dim": 128},
    "cvt": {"embed_dim": (16, 32, 64), "num_heads": (1, 2, 4), "depth": (1, 2, 3)},
    "depth_pro": {
        "patch_size": 32,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [16, 16],
        "scaled_images_feature_dims": [32, 32, 16],
        "fusion_hidden_size": 32,
    },
    "deepseek_ocr2_sam_vision_model": {"output_channels": 32, "downsample_channels": [32, 32]},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "edgetam_vision_model": {
        "backbone_config": timm_convolutions(
            "TimmWrapperConfig", "repvit_m1", model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        ),
        "backbone_channel_list": [384, 192, 96, 48],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 64, "hidden_dim": 320},
    "efficientloftr": {
        "out_features": [16, 16, 16, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_in_channels": [1, 16, 16, 16],
        "hidden_size": 32,
        "num_attention_heads": KEPT,
        "num_key_value_heads": KEPT,
    },
    "emu3.vq_config": {"base_channels": 32},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "fast_vlm": {"vision_config": timm_convolutions("TimmWrapperConfig", "fastvit_t8", hidden_size=768)},
    "fun_asr_nano.adaptor_config": {"intermediate_size": WIDTH // 4},
    "gemma3n": {"vision_config": timm_convolutions("Gemma3nVisionConfig", "mobilenetv4_conv_small", hidden_size=1280)},
    "gemma3n_vision": {"model_args": {"channel_multiplier": 0.125}},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [], "vision_config": clip_of_width_64},
    "instructblipvideo": {"num_query_tokens": 4, "video_token_index": 5},
    "janus_vqgan": {"base_channels": 32, "num_embeddings": 64},
    "lw_detr_vit": {"image_size": 64, "num_windows": 4, "num_windows_side": 2, "window_block_indices": [0]},
    "molmo2.adapter_config": {"vision_feature_layer": [1, 0]},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "moonshine_streaming_encoder": {"sliding_windows": [[16, 4], [16, 0]]},
    "muse_glimmer_assistant": {"sliding_window": 64},  # without its cache a window begins at the context, not at the drafted tokens
    "muse_spark_audio": {"num_hidden_layers": 4, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "omdet-turbo": {"backbone_config": timm_swin, "image_size": 64, "num_queries": 9},
    "pe_video_encoder": {"vision_config": timm_vit(num_classes=1024, global_pool="map")},
    "perception_lm": {"vision_config": timm_vit()},
    "pvt": {"image_size": 128},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "seggpt": {"image_size": [64, 32]},
    "t5gemma2_encoder.text_config": {"dropout_rate": 0.0},
    "timm_backbone": {"backbone": "test_vit"},
    "sam2.prompt_encoder_config": {"image_size": 64},
    "sam3_tracker.vision_config": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "qwen3_asr_encoder": {"n_window": KEPT, "n_window_infer": KEPT},
    "xcodec": {"codebook_dim": 64},
    **dict.fromkeys(("neucodec", "xcodec2"), _CODEC),
    "xcodec.acoustic_model_config": {"downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2], "hop_length": 320},
    **dict.fromkeys((f"vibevoice_acoustic_tokenizer{half}" for half in ("", "_encoder", "_decoder")), _SEVEN_STAGES),
    "sam.prompt_encoder_config": {"image_embedding_size": 4},
    "sam_hq.prompt_encoder_config": {"image_embedding_size": 4},
    "lw_detr": {"projector_scale_factors": [1.0], "num_feature_levels": 1, "projector_in_channels": [32]},
    "tvp": {"max_img_size": 128, "visual_prompt_size": 4, "num_frames": 2, "backbone_config": resnet},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [40] * 4,
        "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
    },
    "granite_speech5_encoder": {"context_size": 16},
    "granite_speech5_ctc": {"context_size": 16},
    "idefics_perciever": {"use_resampler": False},
    "kosmos-2": {"latent_query_num": 3},
    "layoutlmv2": {"coordinate_size": 6, "shape_size": 4},
    "levit": {
        "image_size": 128,
        "patch_size": 16,
        "hidden_sizes": [16, 32, 32],
        "num_attention_heads": [2, 4, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "lilt": {"hidden_size": 96, "channel_shrink_ratio": 4},
    "superpoint": {"keypoint_decoder_dim": 65, "max_keypoints": 16},
    "lxmert": {"l_layers": 1, "x_layers": 1, "r_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8},
    "mistral4": {"num_key_value_heads": 4, "qk_head_dim": 16, "head_dim": 16},
    "llama4_vision_model": {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32},
    **{key: {"vision_start_token_id": 6, "vision_end_token_id": 7} for key in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")},
    "sam_vision_model": {"output_channels": 32, "num_pos_feats": 16},
    "sam_hq_vision_model": {"output_channels": 32, "num_pos_feats": 16},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "patchtst": {"context_length": 32, "patch_length": 4, "patch_stride": 4, "num_input_channels": 2},
    "patchtsmixer": {"context_length": 32, "patch_length": 4, "patch_stride": 4, "num_input_channels": 2},
    "perceiver": {
        "num_latents": 6,
        "d_latents": 32,
        "d_model": 24,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "sew": {"conv_dim": (16, 16, 16), "conv_stride": (5, 4, 2), "conv_kernel": (10, 4, 2), "num_feat_extract_layers": 3},
    "sew-d": {"conv_dim": (16, 16, 16), "conv_stride": (5, 4, 2), "conv_kernel": (10, 4, 2), "num_feat_extract_layers": 3},
    "siglip2_vision_model": {"num_patches": 16},
    "timesfm": {"patch_length": 8, "horizon_length": 8, "context_length": 64},
    "timesfm2_5": {"patch_length": 8, "horizon_length": 8, "context_length": 64},
    "vits": {"flow_size": 32, "spectrogram_bins": 9},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "swin": _TWO_STAGES,
    "swinv2": _TWO_STAGES,
    "donut-swin": _TWO_STAGES,
    "maskformer-swin": _TWO_STAGES,
    "swin2sr": {**_TWO_STAGES, "patch_size": 1, "image_size": 16},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "block_repeats": [1, 1]},
    "zamba2": {
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "hybrid_layer_ids": [1],
    },
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
    "reformer": {
        "axial_pos_shape": (4, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
    },
}
