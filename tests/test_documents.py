"""A real Capture goes wherever an Analysis goes: page, archive, tables, figures. No stand-ins."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

import attviz
from attviz.documents import as_analysis
from attviz.errors import ArgumentError, CaptureError, RaggedLayersError, ShapeError

IDS = torch.tensor([[5, 7, 8, 6, 9], [5, 7, 6, 0, 0]])
MASK = (IDS != 0).long()


class Tokenizer:
    """Five words; a tokenizer as far as attviz asks it."""

    all_special_ids = (0, 5, 6)

    def convert_ids_to_tokens(self, ids):
        return [f"<{i}>" for i in ids]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def cap():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 12}
    model = BertModel(BertConfig(**sizes)).eval()
    with torch.no_grad(), attviz.capture(model) as captured:
        model(input_ids=IDS, attention_mask=MASK)
    return captured


@pytest.fixture(scope="module")
def packed():
    """Three texts packed into one row, told apart by their positions."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 12}
    model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2)).eval()
    positions = torch.tensor([[0, 1, 0, 1, 2, 0, 1]])
    with torch.no_grad(), attviz.capture(model) as captured:
        model(input_ids=torch.tensor([[5, 7, 8, 6, 9, 5, 6]]), position_ids=positions, use_cache=False)
    return captured


def test_padding_is_left_out_and_the_tokenizer_names_the_rest(cap):
    first, second = as_analysis(cap, "view", tokenizer=Tokenizer()).documents
    assert second.tokens == ("<5>", "<7>", "<6>")
    assert second.special.tolist() == [True, False, True]
    assert second.text == "5 7 6"
    np.testing.assert_array_equal(first.diagonal, cap.diagonal[:, 0].numpy())
    np.testing.assert_array_equal(second.diagonal, cap.diagonal[:, 1, :, :3].numpy())


def test_tokens_may_be_given_with_or_without_padding(cap):
    padded, bare = [list("abcde"), ["f", "g", "h", "pad", "pad"]], [list("abcde"), list("fgh")]
    for tokens in (padded, bare):
        documents = as_analysis(cap, "view", tokens=tokens).documents
        assert [one.tokens for one in documents] == [tuple("abcde"), tuple("fgh")]
    assert as_analysis(cap, "view").documents[1].tokens == ("5", "7", "6")


def test_texts_packed_into_a_row_are_several(packed):
    documents = as_analysis(packed, "view").documents
    assert [one.tokens for one in documents] == [("5", "7"), ("8", "6", "9"), ("5", "6")]
    np.testing.assert_array_equal(documents[1].diagonal, packed.diagonal[:, 0, :, 2:5].numpy())


def test_what_does_not_fit_is_told(cap):
    with pytest.raises(ShapeError, match="view: tokens has 1 sequences, but the capture holds 2 texts"):
        attviz.view(cap, tokens=[["a"]])
    with pytest.raises(ShapeError, match=r"view: tokens\[0\] has 1 strings; the text has 5 tokens"):
        attviz.view(cap, tokens=[["a"], ["b"]])
    with pytest.raises(ArgumentError, match="view: tokens= and tokenizer= belong to a capture; Analysis has its own"):
        attviz.view(as_analysis(cap, "view"), tokenizer=Tokenizer())
    with pytest.raises(ArgumentError, match="io.save: needs an Analysis, a Capture, or Documents, got int"):
        attviz.io.save(3, "x")
    with pytest.raises(CaptureError, match="nothing was recorded yet"):
        attviz.view(attviz.capture(torch.nn.Linear(2, 2)))
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with attviz.capture(attention) as vision:
        attention(*3 * [torch.zeros(1, 4, 8)])
    with pytest.raises(ArgumentError, match=r"no token_ids for the tokenizer to read; pass tokens="):
        attviz.view(vision, tokenizer=Tokenizer())
    assert as_analysis(vision, "view").documents[0].tokens == ("#0", "#1", "#2", "#3")


def test_a_capture_becomes_a_page_an_archive_and_a_table(cap, tmp_path):
    page = attviz.view(cap, tokenizer=Tokenizer())
    assert "2 documents" in repr(page)
    attviz.io.save(cap, tmp_path / "cap.attviz", precision="float32")
    saved = attviz.io.load(tmp_path / "cap.attviz")
    assert saved.layers == cap.layers
    np.testing.assert_array_equal(saved.documents[1].diagonal, cap.diagonal[:, 1, :, :3].numpy())
    wide = attviz.io.to_pandas(cap)
    assert wide.shape == (8, 8 + 2 * 4)
    np.testing.assert_allclose(wide["L1H2"], np.r_[cap.diagonal[1, 0, 2].numpy(), cap.diagonal[1, 1, 2, :3].numpy()])


def test_the_long_table_has_one_row_per_value_with_named_columns(cap, packed):
    table = cap.to_pandas()
    assert list(table) == ["step", "layer", "layer_index", "head", "batch", "document", "position", "token_id", "diagonal"]
    assert len(table) == 2 * 4 * 8  # layers x heads x real tokens
    for row in table.sample(20, random_state=0).itertuples():
        assert row.diagonal == cap.diagonal[row.layer_index, row.batch, row.head, row.position]
        assert row.token_id == IDS[row.batch, row.position]
        assert row.layer == cap.layers[row.layer_index]
    assert packed.to_pandas().query("head == 0 and layer_index == 0")["document"].tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_every_kept_forward_is_in_the_long_table():
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with attviz.capture(attention, keep="all") as cap:
        for length in (3, 4):
            attention(*3 * [torch.zeros(1, length, 8)])
    assert cap.to_pandas().groupby("step").size().tolist() == [6, 8]
    assert "2 forwards kept" in repr(cap)


def test_the_labelled_array_is_found_by_name(cap):
    found = cap.to_xarray()
    assert found.diagonal.dims == ("layer", "batch", "head", "position")
    np.testing.assert_array_equal(found.diagonal.sel(layer=cap.layers[1], head=3), cap.diagonal[1, :, 3].numpy())
    assert found.token_id.values.tolist() == IDS.tolist()
    assert found.query_mask.values.tolist() == MASK.bool().tolist()


def test_layers_of_different_shapes_are_no_labelled_array():
    model = torch.nn.ModuleList([torch.nn.MultiheadAttention(8, heads, batch_first=True) for heads in (2, 4)])
    model.forward = lambda x: model[1](*3 * [model[0](x, x, x)[0]])
    with attviz.capture(model) as cap:
        model(torch.zeros(1, 3, 8))
    with pytest.raises(RaggedLayersError, match="to_xarray"):
        cap.to_xarray()
    assert "2 different shapes" in repr(cap)
    assert len(cap.to_pandas()) == 3 * (2 + 4)


def test_repr_and_summary_say_what_was_seen(cap):
    assert repr(cap) == "<Capture of BertModel, closed: 2 layers x 4 heads, batch 2 x 5 tokens>"
    lines = cap.summary().splitlines()
    assert lines[0] == repr(cap)
    assert [line.split()[1] for line in lines[2:4]] == list(cap.layers)
    assert "2 x 4 x 5" in lines[2]
    assert "scaled_dot_product" in lines[3]
    fresh = attviz.capture(torch.nn.MultiheadAttention(8, 2))
    assert repr(fresh) == "<Capture of MultiheadAttention, new: nothing recorded>"
    assert fresh.summary() == repr(fresh)


def test_the_summary_names_what_was_skipped_and_missed():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.cross_attn = (torch.nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))

        def forward(self, x, memory):
            x, _ = self.self_attn(x, x, x)
            return self.cross_attn(x, memory, memory)[0]

    block = Block()
    with attviz.capture(block) as cap:
        block(torch.rand(1, 4, 8), torch.rand(1, 7, 8))
    assert "skipped (no diagonal):\n  cross_attn: cross-attention" in cap.summary()
    assert repr(cap).endswith("1 modules without a diagonal>")


FIGURES = ("head_map", "token_bars", "word_clouds", "head_similarity", "distributions", "quantiles")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_a_data_set_take_a_capture_or_an_analysis(cap, name):
    figure = getattr(attviz.plots, name)
    for source in (cap, as_analysis(cap, "plots"), as_analysis(cap, "plots").documents):
        assert figure(source) is not None
        plt.close("all")


@pytest.mark.parametrize("name", ["sequence", "series", "aggregates"])
def test_figures_of_a_text_take_one_text_and_refuse_a_batch(cap, name):
    figure = getattr(attviz.plots, name)
    for source in (cap.documents[1], as_analysis(cap, "plots").documents[1]):
        assert figure(source) is not None
        plt.close("all")
    with pytest.raises(ArgumentError, match=rf"plots.{name}: shows one text, but Capture holds 2. Choose one, such as documents=0"):
        figure(cap)
    with pytest.raises(ShapeError, match="is a batch, whose texts would be pooled as if they were heads"):
        figure(cap.diagonal.nan_to_num(), tokens=list("abcde"))
    plt.close("all")


def test_a_sequence_of_an_array_needs_its_tokens(cap):
    with pytest.raises(ArgumentError, match=r"needs tokens, which an array does not have. Pass tokens="):
        attviz.plots.sequence(cap.diagonal[:, 0])
    with pytest.raises(ArgumentError, match=r"needs tokens to name the bars, which an array lacks. Pass tokens="):
        attviz.plots.token_bars(np.ones(3))


def test_a_head_map_of_a_capture_is_the_mean_of_its_real_tokens(cap):
    drawn = attviz.plots.head_map(cap).images[0].get_array()
    real = cap.diagonal.transpose(1, 2)[:, :, MASK.bool()].double()
    np.testing.assert_allclose(drawn, real.mean(-1), rtol=1e-6)
    plt.close("all")
