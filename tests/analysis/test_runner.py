"""Models of other kinds: causal without padding, encoder-decoder, RoBERTa's position offset, several labels."""

import numpy as np
import pytest
import torch

from attviz.analysis import analyze
from attviz.analysis.encoding import length_limit

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}


@pytest.fixture
def without_padding():
    """A tokenizer like GPT-2's: no padding token, no special tokens, so that an empty text has no token at all."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", model_input_names=["input_ids", "attention_mask"])


def test_a_causal_model_without_padding_token_gets_batches_of_equal_length(without_padding):
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=2, n_head=2)).eval()
    texts = ["a b c", "", "b", "c b a", "a"]
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, __, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    analysis = analyze(model, without_padding, texts, progress=False, precision="float32")
    handle.remove()
    assert sorted(sizes) == [(2, 1), (2, 3)]
    assert [document.diagonal.shape for document in analysis.documents] == [(2, 2, n) for n in (3, 0, 1, 3, 1)]
    for document in analysis.documents:
        np.testing.assert_allclose(document.diagonal[:, :, :1], 1.0)  # the first token sees only itself


def test_the_encoder_of_an_encoder_decoder_reads_the_text(without_padding):
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=4, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)).eval()
    analysis = analyze(model, without_padding, ["a b c"], progress=False)
    assert all("decoder" not in layer for layer in analysis.layers)
    assert analysis.documents[0].diagonal.shape == (2, 2, 3)


def test_roberta_counts_positions_from_behind_its_padding(without_padding):
    from transformers import RobertaConfig, RobertaModel

    model = RobertaModel(RobertaConfig(vocab_size=8, max_position_embeddings=14, pad_token_id=1, **SMALL)).eval()
    assert length_limit(model, without_padding) == 12
    long = analyze(model, without_padding, ["a " * 40], progress=False)
    assert long.documents[0].diagonal.shape[2] == 12


def test_classes_that_do_not_exclude_each_other_have_their_own_probabilities(without_padding):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=8, num_labels=3, problem_type="multi_label_classification", **SMALL)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.bias.fill_(4.0)
    document = analyze(model, without_padding, ["a b"], progress=False).documents[0]
    assert document.probabilities.sum() > 2


def test_a_text_without_tokens_alone_cannot_be_analysed(without_padding):
    from transformers import GPT2Config, GPT2Model

    from attviz.errors import ArgumentError

    model = GPT2Model(GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    with pytest.raises(ArgumentError, match="none of the 2 texts has any tokens"):
        analyze(model, without_padding, ["", " "], progress=False)
