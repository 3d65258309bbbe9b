"""A reading that does not fit is a clear error before the forward, or a reason of the layer after it; never NaN without a word."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attviz
from attviz import readings as r
from attviz.errors import ArgumentError, CaptureError, RaggedLayersError
from tests.readings.test_readings import LENGTH, batch, build
from tests.tiny import Encoder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: r.Offset(1.5), "Offset: n must be an integer, got 1.5"),
        (lambda: r.At(torch.zeros(3)), "At: index must be a tensor of whole numbers"),
        (lambda: r.Keys(), "Keys: pass exactly one of mask=, first= and special=True"),
        (lambda: r.Keys(first=0), "Keys: first must be a whole number of at least 1, got 0"),
        (lambda: r.Window(-1), "Window: w must be a whole number of at least 0, got -1"),
        (lambda: r.Segments(torch.zeros(3), 0), "Segments: num_segments must be a whole number of at least 1, got 0"),
        (lambda: r.Rows(()), "Rows: queries must be one or more integers"),
        (lambda: r.Rows("all"), "Rows: queries must be one or more integers"),
        (lambda: r.TopKeys(0), "TopKeys: k must be a whole number of at least 1"),
        (lambda: r.Distance(grid=(0, 3)), "Distance: grid must be (rows, columns) of the patches"),
        (lambda: r.QueryKey(dtype=torch.int8), "QueryKey: dtype must be a floating point dtype"),
        (lambda: r.RowEntropy(every=0), "RowEntropy: every=0 must be a whole number of at least 1"),
    ],
)
def test_an_impossible_reading_is_refused_where_it_is_made(make, message):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert message in str(caught.value)


class Waves(nn.Module):
    """A model whose forward takes no ids."""

    def __init__(self):
        super().__init__()
        self.inner = Encoder()

    def forward(self, waves, lengths=None, speaker=None):
        return self.inner(waves)


@pytest.mark.parametrize(
    ("read", "options", "message"),
    [
        ([r.Induction()], {}, "Induction: compares token ids, which this model's forward does not take. Pass them: attviz.capture"),
        ([r.Duplicate()], {}, "Duplicate: compares token ids"),
        ([r.Keys(special=True)], {}, "Keys(special=True): the model's configuration names no special tokens"),
        ([r.Offset(-1), r.Offset(-1)], {}, "two readings are called 'offset(-1)'. Give one of them another name="),
        ([r.RowEntropy], {}, "create an instance: RowEntropy(...)"),
        (["entropy"], {}, "read= must contain attviz.readings such as Offset(-1) or RowEntropy(), got 'entropy'"),
        (
            [r.Offset(-1)],
            {"cross": True},
            "cross=True reads cross-attention, where no key is a query's own. Put",
        ),
        ([], {"cross": True}, "cross=True reads cross-attention"),
    ],
)
def test_what_cannot_be_read_of_a_model_is_an_error_before_the_forward(read, options, message):
    with pytest.raises(ArgumentError) as caught:
        attviz.capture(Waves(), read=read, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (r.Rows(500), f"query 500 was requested, but the forward has {LENGTH} queries"),
        (r.Rows(tuple(range(-LENGTH, 0)), max_bytes=1000), "Ask for fewer rows, or for TopKeys, Received or Segments"),
        (r.Distance(grid=(9, 9)), f"a grid of 9 x 9 patches does not fit {LENGTH} queries and {LENGTH} keys"),
        (r.Keys(torch.ones(3, dtype=torch.bool)), f"its keys of shape (3,) do not fit batch=2 kv_len={LENGTH}"),
        (r.Segments(torch.zeros(5, dtype=torch.long), 2), f"its keys of shape (5,) do not fit batch=2 kv_len={LENGTH}"),
        (r.At(torch.zeros(2, 3, dtype=torch.long)), "its index of shape (2, 3) does not fit batch=2 num_heads=4"),
        (r.QueryKey(max_tokens=4), f"{LENGTH} tokens are more than max_tokens=4"),
    ],
)
def test_what_does_not_fit_the_forward_is_a_reason_of_every_layer(reading, reason):
    model, (ids, mask) = build("bert"), batch(None)
    with torch.no_grad(), attviz.capture(model, read=[reading, r.Offset(-1)]) as cap:
        model(ids, attention_mask=mask)
    assert cap.reading("offset(-1)").shape == (2, 2, 4, LENGTH)
    for record in cap.records:
        assert reason in record.reasons[reading.name]
        assert reading.name not in record.readings
    with pytest.raises(CaptureError) as caught:
        cap.reading(reading.name)
    assert "2 of 2 layers could not provide" in str(caught.value)
    assert reason in str(caught.value)
    assert "encoder.layer.0.attention.self" in str(caught.value)


def test_query_and_key_of_an_eager_model_are_its_weights_and_the_message_says_so():
    model, (ids, mask) = build("bert"), batch(None)
    model.set_attn_implementation("eager")
    with torch.no_grad(), attviz.capture(model, read=r.QueryKey()) as cap:
        weights = model(ids, attention_mask=mask, output_attentions=True).attentions
    torch.testing.assert_close(cap.reading("query_key.weights"), torch.stack(weights))
    with pytest.raises(CaptureError, match=r"has several parts: 'query_key.weights'. Name one of them instead of 'query_key.query'"):
        cap.reading("query_key.query")


def test_names_that_were_not_asked_for_are_told_with_those_that_were():
    model, (ids, mask) = build("bert"), batch(None)
    with torch.no_grad(), attviz.capture(model, read=[r.TopKeys(2), r.RowEntropy()]) as cap:
        with pytest.raises(CaptureError, match="no forward of BertModel was seen"):
            cap.reading("row_entropy")
        model(ids, attention_mask=mask)
    with pytest.raises(CaptureError, match=r"no reading is called 'entropy'; there are 'top_keys\(2\)', 'row_entropy'"):
        cap.reading("entropy")
    with pytest.raises(CaptureError, match=r"has several parts: 'top_keys\(2\).index', 'top_keys\(2\).weights'"):
        cap.reading("top_keys(2)")
    with pytest.raises(CaptureError, match="in a forward without cross-attention"):
        cap.reading("row_entropy", cross=True)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = Encoder(1), Encoder(1)

    def forward(self, x):
        return self.one(x), self.other(x[:, 1:])


def test_layers_of_different_shapes_are_no_single_tensor():
    model = Tower()
    with torch.no_grad(), attviz.capture(model, read=r.RowEntropy()) as cap:
        model(torch.randn(1, 6, 32))
    with pytest.raises(RaggedLayersError, match="'row_entropy' has layers of different shapes"):
        cap.reading("row_entropy")
    assert [record.readings["row_entropy"].shape[-1] for record in cap.records] == [6, 5]


def test_every_reading_has_a_clock_of_its_own():
    model, x = Encoder(), torch.randn(1, 6, 32)
    with torch.no_grad(), attviz.capture(model, keep="all", read=[r.RowEntropy(every=3), r.Offset(-1)]) as cap:
        for _ in range(5):
            model(x)
        fourth = cap.steps[3][0].readings["row_entropy"]
    assert [["row_entropy" in record.readings for record in step] for step in cap.steps] == [[number % 3 == 0] * 3 for number in range(5)]
    assert all("offset(-1)" in record.readings for step in cap.steps for record in step)
    assert torch.equal(cap.reading("row_entropy")[0], fourth)  # of the last forward in which it was due


def test_a_fault_of_a_users_reading_is_raised_at_the_end_and_leaves_the_forward_alone():
    def broken(tokens):
        raise ZeroDivisionError("mine")

    model, x = Encoder(), torch.randn(1, 6, 32)
    with pytest.raises(ZeroDivisionError, match="mine"), torch.no_grad(), attviz.capture(model, read=r.At(broken)):
        out = model(x)
        assert torch.equal(out, model(x))


class Uneven(nn.Module):
    """Layers that differ in their number of heads (pruned models do)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, heads, 32, batch_first=True) for heads in (4, 2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_layers_with_different_heads_are_loud_and_each_is_right_by_itself():
    model, x = Uneven().eval(), torch.randn(2, 6, 32)
    with torch.no_grad(), attviz.capture(model, read=[r.Offset(-1), r.RowEntropy()]) as cap:
        model(x)
    for name in ("offset(-1)", "row_entropy"):
        with pytest.raises(RaggedLayersError, match=r"(?s)layers of different shapes.*\(2, 4, 6\).*\(2, 2, 6\)"):
            cap.reading(name)
    attention, given = model.layers[1].self_attn, model.layers[0](x)
    _, weights = attention(given, given, given, need_weights=True, average_attn_weights=False)
    entropy = torch.special.entr(weights).sum(-1)
    torch.testing.assert_close(cap.records[1].readings["row_entropy"], entropy.detach(), rtol=0, atol=1e-5)
