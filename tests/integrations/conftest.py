"""A small decoder and texts of bytes, for the tests of this folder."""

import os

import pytest
import torch


@pytest.fixture
def tiny_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=32,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def tiny_data():
    """Twelve texts of ten tokens, as a map-style data set; the last three tokens of every other text are padding."""
    ids = torch.randint(1, 32, (12, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, -3:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return [{"input_ids": i, "attention_mask": m, "labels": t} for i, m, t in zip(ids, mask, labels, strict=True)]


@pytest.fixture(autouse=True)
def _no_settings_left():
    """transformers 4.57 leaves ``torch_compile=True`` of one Trainer in the environment, for all that come after it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        if name.startswith("ACCELERATE_"):
            del os.environ[name]
