"""Images and sounds: patches with their grid, frames by number, classes and resuming as for texts."""

import numpy as np
import pytest
import torch

from attviz.analysis import analyze
from attviz.analysis.figures import write_figures
from attviz.errors import ArgumentError

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}


@pytest.fixture
def pictures():
    return [np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8) for seed in range(3)]


@pytest.fixture
def vit():
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=(16, 24), patch_size=8, id2label={0: "cat", 1: "dog"}, **SMALL)).eval()
    return model, ViTImageProcessor(size={"height": 16, "width": 24})


def test_patches_are_tokens_with_their_grid(vit, pictures):
    model, processor = vit
    analysis = analyze(model, processor, pictures, labels=["dog", "cat", None], batch_size=2, progress=False, precision="float32")
    assert [document.label for document in analysis.documents] == [1, 0, None]
    assert [document.name for document in analysis.documents] == ["0", "1", "2"]
    for document, picture in zip(analysis.documents, pictures, strict=True):
        assert document.grid == (2, 3)
        assert document.tokens == ("[CLS]", "0,0", "0,1", "0,2", "1,0", "1,1", "1,2")
        model.set_attn_implementation("eager")
        with torch.no_grad():
            output = model(**processor([picture], return_tensors="pt"), output_attentions=True)
        model.set_attn_implementation("sdpa")
        expected = torch.stack([weights[0].diagonal(dim1=-2, dim2=-1) for weights in output.attentions])
        np.testing.assert_allclose(document.diagonal, expected, atol=1e-6)
        np.testing.assert_allclose(document.probabilities, output.logits[0].softmax(-1), atol=1e-6)


def test_every_figure_that_fits_is_drawn_of_images(vit, pictures, tmp_path):
    model, processor = vit
    analysis = analyze(model, processor, pictures, progress=False)
    assert [path.name for path in write_figures(analysis, tmp_path, figures=["image_map"], documents=[1], dpi=40)] == ["image_map_0001.png"]


def test_a_stopped_run_over_images_is_taken_up_again(vit, pictures, tmp_path):
    model, processor = vit

    def until_the_second():
        yield from pictures[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(model, processor, until_the_second(), batch_size=1, archive=tmp_path / "run", progress=False)
    forwards = []
    handle = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    resumed = analyze(model, processor, pictures, batch_size=1, archive=tmp_path / "run", progress=False)
    handle.remove()
    assert len(forwards) == 2  # the second picture was read, but its batch was not yet run
    assert [document.name for document in resumed.documents] == ["0", "1", "2"]


def test_frames_of_sounds_are_tokens():
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    convolutions = {"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (4, 4), "num_conv_pos_embeddings": 4}
    model = Wav2Vec2Model(Wav2Vec2Config(num_conv_pos_embedding_groups=2, **convolutions, **SMALL)).eval()
    sounds = [np.random.default_rng(seed).normal(size=size).astype(np.float32) for seed, size in enumerate([160, 320, 320])]
    analysis = analyze(model, Wav2Vec2FeatureExtractor(sampling_rate=16000), sounds, progress=False)
    assert [document.diagonal.shape for document in analysis.documents] == [(2, 2, 10), (2, 2, 20), (2, 2, 20)]
    assert analysis.documents[0].tokens[9] == "frame 9"
    assert analysis.documents[0].grid is None


def test_the_encoder_of_a_speech_model_hears_the_sound():
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    sizes = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        vocab_size=64, encoder_layers=2, decoder_layers=1, num_mel_bins=8, max_source_positions=50, pad_token_id=0, **sizes
    )
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    analysis = analyze(WhisperModel(config).eval(), extractor, [np.zeros(8000, dtype=np.float32)], progress=False)
    assert analysis.documents[0].diagonal.shape == (2, 2, 50)


def test_a_model_whose_tokens_are_no_grid_is_named(pictures):
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    config = SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=(1,), num_heads=(2,), window_size=2)
    with pytest.raises(ArgumentError, match="cannot be laid out as patches of 4 in an image of 16 x 16"):
        analyze(SwinModel(config).eval(), ViTImageProcessor(size={"height": 16, "width": 16}), pictures[:1], progress=False)
