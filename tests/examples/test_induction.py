"""The example: heads of a small model appear in training, and one layer is not enough for induction."""

import matplotlib.pyplot as plt
import pytest
import torch

import attviz
from attviz.errors import ArgumentError
from examples.induction.train import AttentionOnly, train


@pytest.fixture(scope="module")
def trained():
    return train(350)


def test_previous_token_heads_feed_induction_heads_and_the_figure_shows_them(trained):
    model, losses = trained
    table = attviz.head_roles(model, vocab_size=64)
    assert sum(losses[-20:]) / 20 < 1 < losses[0]
    assert {head.layer for head in table.find("previous")} == {0}
    assert {head.layer for head in table.find("induction")} == {1}
    assert table.find("induction")[0].mass > 0.5
    assert table.find("induction")[0].lift > 10
    assert (table.null / table.chance[0]).mean().item() == pytest.approx(1, abs=0.5)  # a key picked blindly gets what any key gets
    ax = attviz.plots.head_roles(table)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"previous", "induction"} <= set(names)
    assert len(ax.patches) == sum(label != "none" for row in table.labels for label in row)
    plt.close("all")
    with pytest.raises(ArgumentError, match="needs the result of attviz.head_roles, got int"):
        attviz.plots.head_roles(3)


def test_before_training_and_with_one_layer_there_is_no_induction_head():
    torch.manual_seed(0)
    untrained = attviz.head_roles(AttentionOnly(), vocab_size=64)
    assert not untrained.find("induction")
    shallow, losses = train(150, num_layers=1)
    assert not attviz.head_roles(shallow, vocab_size=64).find("induction")
    assert min(losses) > 1


def test_the_model_is_left_as_it_was():
    model = AttentionOnly().train()
    before = [parameter.clone() for parameter in model.parameters()]
    first, second = (attviz.head_roles(model, vocab_size=64, texts=8) for _ in range(2))
    assert model.training
    assert all(layer.training for layer in model.layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(left, right) for left, right in zip(before, model.parameters(), strict=True))
    assert torch.equal(first.mass, second.mass)  # the same seed gives the same table


def test_what_cannot_be_is_told():
    with pytest.raises(ArgumentError, match="the vocabulary size is not known. Pass vocab_size="):
        attviz.head_roles(AttentionOnly())
    with pytest.raises(ArgumentError, match="repeats=1 at least 2"):
        attviz.head_roles(AttentionOnly(), vocab_size=64, repeats=1)
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=40, bos_token_id=39))
    with pytest.raises(ArgumentError, match="texts of 49 tokens are too long for the model, which takes 32. Choose a smaller period="):
        attviz.head_roles(small)
    assert attviz.head_roles(small, period=8, texts=8).mass.shape == (6, 1, 2)
