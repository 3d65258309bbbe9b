"""Families that cannot be built here, each with the reason: what their own error does not say, or says in the words of a program."""

from __future__ import annotations

_SESSION = "its forward takes an inference session over the frames of a video; the attention of its image half is that of {}"

REASONS: dict[str, str] = {
    "dinat": "needs natten, whose kernels are compiled for a GPU",
    "dots3_note": "its configuration cannot be made shorter: transformers 5.24 keeps the indices of its 46 layers",
    "edgetam_video": _SESSION.format("edgetam"),
    "glm_image_vqmodel": "has no forward: an image quantizer without attention",
    "higgs_audio_v2_tokenizer": "needs torchaudio, whose wheels are built for another torch",
    "layoutlmv2": "needs detectron2, which the package index does not have",
    "llama4": "transformers 5.24 reads an output that its own text model does not return; llama4_text and llama4_vision_model are built",
    **dict.fromkeys(
        ("nemotron_asr_streaming_encoder", "nemotron_asr_streaming", "nemotron3_5_asr"),
        "its own eager forward gives NaN in transformers 5.24: whole rows of its streaming mask are hidden",
    ),
    "pp_ocrv6_medium_det": "a convolutional network; its configuration has no default for its neck",
    "pp_ocrv6_small_det": "a convolutional network; the default configuration does not fit together",
    "sam2_video": _SESSION.format("sam2"),
    "sam3_tracker_video": _SESSION.format("sam3_tracker"),
    "sam3_video": _SESSION.format("sam3"),
    "uvdoc": "a convolutional network; the default configuration does not fit together",
    "voxtral_realtime_text": "the registry of transformers 5.24 names a class that the package does not have",
}
