"""Models of timm, built small: one of every file that holds an attention."""

from __future__ import annotations

import importlib
from typing import Any

import torch

import attviz
from benchmarks.families.check import Outcome, outcome_of

_FLAT = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 4}
_DEFAULT: dict[str, Any] = {}
_AT_224, _AT_256 = {"img_size": 224}, {"img_size": 256}
_STAGES = {"img_size": 64, "depths": (1, 1, 1, 1)}

# What each is built with, beside num_classes; the image is as large as it says, 64 by 64 where it does not.
MODELS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("test_vit", "test_vit2", "test_vit3", "test_vit4", "test_vit_relpos", "test_maxvit", "test_coatnet"), _DEFAULT),
    **dict.fromkeys(("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"), _FLAT),
    **dict.fromkeys(("beit_base_patch16_224", "beitv2_base_patch16_224", "eva02_tiny_patch14_224"), _FLAT),
    **dict.fromkeys(("vit_base_patch16_siglip_224", "vit_base_patch16_clip_224", "vit_tiny_patch16_224"), _FLAT),
    "vit_base_patch16_dinov3": _FLAT,
    "vit_pe_core_tiny_patch16_384": _FLAT,
    "vit_small_patch14_reg4_dinov2": {**_FLAT, "img_size": 56},
    "vit_relpos_small_patch16_224": _FLAT,
    "vit_srelpos_small_patch16_224": _FLAT,
    "vit_tiny_r_s16_p8_224": _FLAT,
    "samvit_base_patch16": {**_FLAT, "global_attn_indexes": (1,), "window_size": 2},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 32, "num_heads": 4},
    "cait_xxs24_224": {**_FLAT, "depth_token_only": 1},
    "convit_tiny": _FLAT,
    "volo_d1_224": {"img_size": 224, "layers": (1, 1, 1, 1), "embed_dims": (32, 64, 64, 64), "num_heads": (2, 4, 4, 4)},
    "xcit_nano_12_p16_224": _FLAT,
    "tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 2},
    "pit_ti_224": {"img_size": 224, "depths": (1, 1, 1)},
    "swin_tiny_patch4_window7_224": {**_STAGES, "window_size": 4, "embed_dim": 24},
    "swinv2_tiny_window8_256": {**_STAGES, "window_size": 4, "embed_dim": 24},
    "swinv2_cr_tiny_224": {**_STAGES, "window_size": 2, "embed_dim": 24},
    "davit_tiny": {"depths": (1, 1, 1, 1)},
    "gcvit_xxtiny": {"img_size": 224, "depths": (1, 1, 1, 1)},
    "mvitv2_tiny": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "hiera_tiny_224": {"img_size": 64, "stages": (1, 1, 1, 1)},
    "sam2_hiera_tiny": {"img_size": 64, "stages": (1, 1, 1, 1), "global_att_blocks": (2,)},
    "pvt_v2_b0": {"img_size": 64},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "twins_pcpvt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "nest_tiny": {"img_size": 64, "depths": (1, 1, 1)},
    "crossvit_tiny_240": {"img_size": 240},
    "coat_lite_tiny": {"img_size": 64, "serial_depths": (1, 1, 1, 1)},
    "levit_128s": {"img_size": 224},
    "visformer_tiny": {"img_size": 64},
    "tiny_vit_5m_224": {"img_size": 224, "depths": (1, 1, 1, 1)},
    "vitamin_small_224": {"img_size": 64},
    "caformer_s18": {"depths": (1, 1, 1, 1)},
    **dict.fromkeys(("efficientformer_l1", "efficientformerv2_s0"), _AT_224),
    **dict.fromkeys(("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "fastvit_sa12", "nextvit_small"), _DEFAULT),
    **dict.fromkeys(("efficientvit_b0", "efficientvit_m0", "shvit_s1", "iformer_t"), _AT_224),
    **dict.fromkeys(("halonet26t", "botnet26t_256"), _AT_256),
    **dict.fromkeys(("convnext_atto", "poolformer_s12", "mixer_s32_224"), _AT_224),
}


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
                model(image)
        except Exception as error:
            return [Outcome(name, path, "unbuilt", note=f"{type(error).__name__}: {error}")]
        try:
            found.append(outcome_of(name, path, attviz.check(model, image)))
        except Exception as error:
            found.append(Outcome(name, path, "crashed", note=f"{type(error).__name__}: {error}"))
    one, other = found
    return found[:1] if {row.operator for row in one.rows} == {row.operator for row in other.rows} else found


def _built(timm: Any, name: str, sizes: dict[str, Any]) -> tuple[torch.nn.Module, int]:
    """A model and the size of its images; some take no size and read any."""
    size = sizes.get("img_size", 64)
    try:
        return timm.create_model(name, pretrained=False, num_classes=5, **sizes).eval(), size
    except TypeError as error:
        if "img_size" not in sizes or "img_size" not in str(error):
            raise
        return _built(timm, name, {key: value for key, value in sizes.items() if key != "img_size"})[0], size
