"""Small backbones that some families are built around: what stands in a configuration where its default would be a large one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def resnet() -> Any:
    from transformers import ResNetConfig

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(**sizes, out_features=["stage4"])


def resnet_of_detr() -> Any:
    from transformers import RTDetrResNetConfig

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])


def resnet_in_four() -> Any:
    from transformers import RTDetrResNetConfig

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return RTDetrResNetConfig(**sizes, out_features=["stage1", "stage2", "stage3", "stage4"])


def swin() -> Any:
    from transformers import SwinConfig

    sizes = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "window_size": 4}
    return SwinConfig(**sizes, out_features=["stage1", "stage2", "stage3", "stage4"])


def timm_vit(**more: Any) -> Callable[[], Any]:
    """A vision transformer of timm, of the architecture that Perception Encoder has."""

    def build() -> Any:
        from transformers import TimmWrapperConfig

        sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": [28, 28]}
        return TimmWrapperConfig(architecture="vit_pe_core_large_patch14_336", model_args=sizes, **more)

    return build


def timm_convolutions(kind: str, architecture: str, **more: Any) -> Callable[[], Any]:
    """A backbone of timm that has no attention."""

    def build() -> Any:
        import transformers

        return getattr(transformers, kind)(architecture=architecture, **more)

    return build


def clip_of_width_64() -> Any:
    from transformers import CLIPVisionConfig

    sizes = {"hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPVisionConfig(**sizes, image_size=32, patch_size=8)


def timm_swin() -> Any:
    from transformers import TimmBackboneConfig

    sizes = {"img_size": 64, "always_partition": True}
    return TimmBackboneConfig(backbone="swin_tiny_patch4_window7_224", features_only=True, out_indices=[1, 2, 3], **sizes)
