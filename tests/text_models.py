"""Fixtures: a tiny BERT with random weights and a tokenizer of a few words, made here: no network, no files."""

import pytest
import torch

WORDS = "the old bridge over river bank was closed open late so in town by storm . , a good bad film ##s ##ed match goal".split()


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: place for place, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=24, model_input_names=["input_ids", "attention_mask"], **marks)


@pytest.fixture(scope="session")
def config(tokenizer):
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "max_position_embeddings": 24}
    return BertConfig(vocab_size=len(tokenizer), id2label={0: "film", 1: "sport", 2: "town"}, **sizes)


@pytest.fixture(scope="session")
def classifier(config):
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="session")
def texts():
    return [
        "the old bridge",
        "a good film , a bad film .",
        "",
        "match",
        "the bank by the river was closed so late . the town was open",
        "storms",
    ]
