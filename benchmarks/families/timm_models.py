"""Models of timm, built small: one of every file that holds an attention."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch

import attviz
from benchmarks.families.check import Outcome, outcome_of

_FLAT = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 4}
_FLAT_56 = {**_FLAT, "img_size": 56}
_DEFAULT: dict[str, Any] = {}
_AT_64, _AT_160, _AT_224, _AT_256 = {"img_size": 64}, {"img_size": 160}, {"img_size": 224}, {"img_size": 256}
_STAGES = {"img_size": 64, "depths": (1, 1, 1, 1)}
_DEPTHS_1 = {"img_size": 256, "depths": (1, 1, 1, 1)}
_STAGES_AT_224 = {"img_size": 224, "depths": (1, 1, 1, 1)}

# What each is built with, beside num_classes; the image is as large as it says, 64 by 64 where it does not.
MODELS: dict[str, dict[str, Any]] = {
    # vision_transformer.py and its kin: each kind of block, of attention and of pooling
    **dict.fromkeys(("test_vit", "test_vit2", "test_vit3", "test_vit4", "test_vit_relpos", "test_maxvit", "test_coatnet"), _AT_160),
    **dict.fromkeys(("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"), _FLAT),
    **dict.fromkeys(("vit_base_patch16_siglip_224", "vit_base_patch16_clip_224", "vit_tiny_patch16_224", "beit3_base_patch16_224"), _FLAT),
    **dict.fromkeys(("vit_base_patch16_18x2_224", "vit_base_patch16_xp_224", "vit_base_patch16_rpn_224", "flexivit_small"), _FLAT),
    **dict.fromkeys(("vit_dlittle_patch16_reg1_gap_256", "vit_dpwee_patch16_reg1_gap_256"), _FLAT),
    "aimv2_large_patch14_224": _FLAT_56,
    "vit_small_patch14_reg4_dinov2": _FLAT_56,
    "vit_relpos_small_patch16_224": _FLAT,
    "vit_relpos_base_patch16_cls_224": _FLAT,
    "vit_relpos_small_patch16_rpn_224": _FLAT,
    "vit_srelpos_small_patch16_224": _FLAT,
    "vit_tiny_r_s16_p8_224": _FLAT,
    "samvit_base_patch16": {**_FLAT, "global_attn_indexes": (1,), "window_size": 2},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    "naflexvit_base_patch16_map": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    # rotary positions
    **dict.fromkeys(("eva02_tiny_patch14_224", "eva02_base_patch14_224", "eva_giant_patch14_224"), _FLAT_56),
    **dict.fromkeys(("vit_medium_patch16_rope_reg1_gap_256", "vit_small_patch16_rope_mixed_224", "vit_base_patch16_dinov3"), _FLAT),
    "vit_pe_core_tiny_patch16_384": _FLAT,
    "vit_pe_spatial_tiny_patch16_512": _FLAT,
    "deepseek_vit_412m": {"img_size": 84, "depth": 2, "embed_dim": 64, "num_heads": 4},
    "gemma4_vit_167m": {"img_size": 96, "depth": 2, "embed_dim": 32, "num_heads": 4, "head_dim": 8, "intermediate_size": 40},
    "qwen3_vit_88m": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    # biases and gates of their own
    **dict.fromkeys(("beit_base_patch16_224", "beitv2_base_patch16_224"), _FLAT),
    "cait_xxs24_224": {**_FLAT, "depth_token_only": 1},
    "convit_tiny": _FLAT,
    "volo_d1_224": _AT_224,
    "xcit_nano_12_p16_224": _FLAT,
    "tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 2},
    # windows and pyramids
    "pit_ti_224": _AT_224,
    "swin_tiny_patch4_window7_224": {**_STAGES, "window_size": 4, "embed_dim": 24},
    "swin_s3_tiny_224": {"img_size": 224, "depths": (1, 1, 1, 1)},
    "swinv2_tiny_window8_256": {**_STAGES, "window_size": 4, "embed_dim": 24},
    "swinv2_cr_tiny_224": {**_STAGES, "window_size": 2, "embed_dim": 24},
    "davit_tiny": {"depths": (1, 1, 1, 1)},
    **dict.fromkeys(("gcvit_xxtiny", "nest_tiny"), _AT_224),
    **dict.fromkeys(("mvitv2_tiny", "mvitv2_small_cls"), _AT_64),
    "hiera_tiny_224": {"img_size": 64, "stages": (1, 1, 1, 1)},
    "sam2_hiera_tiny": {"img_size": 256, "stages": (1, 2, 2, 1), "global_att_blocks": (4,)},
    "pvt_v2_b0": _AT_64,
    "pvt_v2_b2_li": {"img_size": 64, "depths": (1, 1, 1, 1)},
    **dict.fromkeys(("twins_svt_small", "twins_pcpvt_small"), _STAGES_AT_224),
    "crossvit_tiny_240": {"img_size": 240},
    "coat_lite_tiny": {"img_size": 64, "serial_depths": (1, 1, 1, 1)},
    "coat_tiny": {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1},
    **dict.fromkeys(("levit_128s", "levit_conv_128s"), _AT_224),
    "visformer_tiny": _AT_224,
    "tiny_vit_5m_224": {"img_size": 224, "depths": (1, 1, 1, 1)},
    "vitamin_small_224": _AT_64,
    # convolutions and attention together
    **dict.fromkeys(("coatnet_nano_rw_224", "coatnet_rmlp_nano_rw_224", "coatnext_nano_rw_224"), _AT_224),
    **dict.fromkeys(("maxvit_tiny_tf_224", "maxvit_tiny_pm_256", "maxxvitv2_nano_rw_256"), _DEPTHS_1),
    "caformer_s18": _DEFAULT,  # its depths are not to be chosen
    **dict.fromkeys(("csatv2", "lowformer_b0", "cpubone_nano", "mobilenetv4_hybrid_medium"), _AT_224),
    "mobilenetv5_base": {"img_size": 128},
    **dict.fromkeys(("efficientformer_l1", "efficientformerv2_s0"), _AT_224),
    **dict.fromkeys(("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "fastvit_sa12", "nextvit_small"), _DEFAULT),
    **dict.fromkeys(("efficientvit_b0", "efficientvit_m0", "shvit_s1", "iformer_t"), _AT_224),
    **dict.fromkeys(("halonet26t", "botnet26t_256", "lambda_resnet26t"), _AT_256),
    "resnet50_clip": _AT_224,
    # no attention
    **dict.fromkeys(("convnext_atto", "poolformer_s12", "mixer_s32_224", "resnest14d", "efficientvim_m1"), _AT_224),
}


_ATTENDS = re.compile(r"scaled_dot_product_attention|softmax\(|\w*Attention\w*\(|attn_pool")


def files_without_a_model() -> list[str]:
    """Files of timm that seem to run attention, and of which no model is listed."""
    timm = importlib.import_module("timm")
    registry = importlib.import_module("timm.models._registry")
    listed = {registry._model_to_module[name] for name in MODELS}
    folder = Path(timm.__file__).parent / "models"
    attending = {registry._model_to_module[name] for name in timm.list_models()}
    return sorted(file for file in attending - listed if _ATTENDS.search((folder / f"{file}.py").read_text("utf-8")))


def check_model(name: str) -> list[Outcome]:
    """Both paths of a model; one where it has no choice."""
    timm = importlib.import_module("timm")
    found = []
    for path, fused in (("fused", True), ("plain", False)):
        timm.layers.set_fused_attn(enable=fused)
        torch.manual_seed(0)
        try:
            model, size = _built(timm, name, MODELS.get(name, {}))
            image = torch.randn(2, 3, size, size)
            with torch.no_grad():
                _settle(model, image)
                model(image)
        except Exception as error:
            return [Outcome(name, path, "unbuilt", note=f"{type(error).__name__}: {error}")]
        try:
            found.append(outcome_of(name, path, attviz.check(model, image)))
        except Exception as error:
            found.append(Outcome(name, path, "crashed", note=f"{type(error).__name__}: {error}"))
    one, other = found
    return found[:1] if {row.operator for row in one.rows} == {row.operator for row in other.rows} else found


def _settle(model: torch.nn.Module, image: torch.Tensor) -> None:
    """Give batch norms the statistics of this image: fresh ones let the scores of deep models grow until each softmax is all or nothing."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for module in norms:
        module.momentum = 1.0
    model.train()
    model(image)
    model.eval()


def _built(timm: Any, name: str, sizes: dict[str, Any]) -> tuple[torch.nn.Module, int]:
    """A model and the size of its images; some take no size and read any."""
    size = sizes.get("img_size", 64)
    try:
        return timm.create_model(name, pretrained=False, num_classes=5, **sizes).eval(), size
    except TypeError as error:
        if "img_size" not in sizes or "img_size" not in str(error):
            raise
        return _built(timm, name, {key: value for key, value in sizes.items() if key != "img_size"})[0], size
