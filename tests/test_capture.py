"""The surface of Capture: what is kept, what is selected, what is said when something is wrong."""

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection

import attviz
from attviz.errors import ArgumentError, CaptureError, CaptureWarning, RaggedLayersError, UnknownLayerError
from attviz.hooks.tap import dispatcher
from attviz.metrics import AttentionHealth, HeadStatistics
from attviz.readings import Offset, RowEntropy
from tests.tiny import Encoder, SelfAttention, hook_counts, reference


@pytest.fixture
def model() -> Encoder:
    return Encoder().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 10, 32)


NAMES = ("blocks.0.attention", "blocks.1.attention", "blocks.2.attention")


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_diagonal_belongs_to_its_layer(by_hand, causal, num_kv_heads, x):
    model = Encoder(by_hand=by_hand, causal=causal, num_kv_heads=num_kv_heads).eval()
    with attviz.capture(model) as cap:
        model(x)
    assert cap.layers == NAMES
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)
    assert cap.diagonal.dtype is torch.float32
    assert not cap.diagonal.requires_grad


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_long_input_is_as_right_as_a_short_one(causal, num_kv_heads):
    """Larger diagonals are kept in another form, and their products formed in another way."""
    model, x = Encoder(causal=causal, num_kv_heads=num_kv_heads).eval(), torch.randn(2, 2049, 32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(x)
    truth = torch.cat([reference(model, x[row : row + 1]) for row in range(2)], 1)
    torch.testing.assert_close(cap.diagonal.double(), truth, rtol=0, atol=1e-6)


def test_block_of_any_name_is_found(x):
    class Mixer(nn.Module):  # no word of attention anywhere
        def __init__(self) -> None:
            super().__init__()
            self.inner = SelfAttention()
            self.inner.__class__ = type("Blend", (SelfAttention,), {})

        def forward(self, x):
            return self.inner(x)

    model = nn.Sequential(Mixer(), nn.Linear(32, 32), Mixer())
    with attviz.capture(model) as cap:
        model(x)
        model(x)
    assert cap.layers == ("0.inner", "2.inner")
    assert cap.diagonal.shape == (2, 2, 4, 10)


def test_softmax_module_belongs_to_its_parent(x):
    class Blend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_qk, self.attend = nn.Linear(32, 64), nn.Softmax(dim=-1)

        def forward(self, x):
            query, key = self.to_qk(x).chunk(2, -1)
            return self.attend(query @ key.mT) @ x

    model = nn.Sequential(Blend(), Blend())
    with attviz.capture(model) as cap:
        model(x)
    assert cap.layers == ("0", "1")
    assert cap.diagonal.shape == (2, 2, 1, 10)


def test_last_forward_is_kept_by_default(model, x):
    with attviz.capture(model) as cap:
        model(x)
        model(2 * x)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, 2 * x), rtol=0, atol=1e-6)
    assert [record.step for record in cap.records] == [1, 1, 1]
    assert len(cap.steps) == 1


def test_all_forwards_are_kept_on_request(model, x):
    with attviz.capture(model, keep="all") as cap:
        for factor in (1, 0.5, 0.25):
            model(factor * x)
    assert [step[0].step for step in cap.steps] == [0, 1, 2]
    for factor, step in zip((1, 0.5, 0.25), cap.steps, strict=True):
        torch.testing.assert_close(torch.stack([r.diagonal for r in step]).double(), reference(model, factor * x), rtol=0, atol=1e-6)


def test_every_nth_forward_is_recorded(model, x):
    hooks = []
    with attviz.capture(model, keep="all", every=3) as cap:
        for _ in range(7):
            model(x)
            hooks.append((sum(hook_counts(model).values()), dispatcher.installed()))
    assert [step[0].step for step in cap.steps] == [0, 3, 6]
    assert all(count == 2 and not installed for count, installed in hooks)  # the model's own two; no tap between samples


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str | None]] = []

    def update(self, record: attviz.records.DiagonalRecord) -> None:
        self.seen.append((record.step, record.layer_index, record.layer))


def test_metrics_are_fed_layer_by_layer(model, x):
    metric = Recorder()
    with attviz.capture(model, metrics=[metric], keep="none") as cap:
        model(x)
        assert metric.seen == [(0, index, name) for index, name in enumerate(NAMES)]
        model(x)
    assert len(metric.seen) == 6
    with pytest.raises(CaptureError, match="keep='none'"):
        _ = cap.diagonal


def test_a_metric_asks_for_readings_which_the_record_carries(model, x):
    class Entropies(Recorder):
        readings = (RowEntropy(), Offset(-1, name="previous"))
        prepared = None

        def prepare(self, model):
            self.prepared = model

        def update(self, record):
            self.seen.append((*(tuple(record.readings[name].shape) for name in ("row_entropy", "previous")), record.layer))

    metric = Entropies()
    with attviz.capture(model, metrics=metric):
        model(x)
    assert metric.seen == [((2, 4, 10), (2, 4, 10), name) for name in NAMES]
    assert metric.prepared is model


def test_a_collection_of_metrics_stands_for_its_members_and_a_dictionary_is_refused(model, x):
    collection = MetricCollection({"heads": HeadStatistics(), "health": AttentionHealth(), "previous": HeadStatistics(reading=Offset(-1))})
    with attviz.capture(model, metrics=collection, keep="none"):
        model(x)
    found = collection.compute()
    assert found["health"].row_entropy.shape == found["heads"].mean.shape == found["previous"].mean.shape == (3, 4)
    assert found["health"].max_logit.isfinite().all()
    with pytest.raises(ArgumentError, match=r"a list of metrics, not a dictionary. Pass list\(metrics.values\(\)\)"):
        attviz.capture(model, metrics={"heads": HeadStatistics()})


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("blocks.1.attention", NAMES[1:2]),
        (["blocks.2", 0], (NAMES[0], NAMES[2])),
        ("blocks.[01].*", NAMES[:2]),
        (-1, NAMES[2:]),
        (None, NAMES),
    ],
)
def test_layers_selects(model, x, layers, expected):
    with attviz.capture(model, layers=layers) as cap:
        assert cap.layers == expected
        model(x)
    assert cap.layers == expected
    wanted = [NAMES.index(name) for name in expected]
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x)[wanted], rtol=0, atol=1e-6)


def test_unknown_layer_names_the_near_misses(model):
    with pytest.raises(UnknownLayerError, match=r"no module matches layer 'block.1.attention'. Near: 'blocks.\d.attention'"):
        attviz.capture(model, layers="block.1.attention")
    with pytest.raises(UnknownLayerError, match="index 3 is out of range: the model has 3"):
        attviz.capture(model, layers=3)
    with pytest.raises(UnknownLayerError, match="selects nothing"):
        attviz.capture(model, layers=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": "some"}, "keep must be 'last', 'all' or 'none', got 'some'"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"keep": "none"}, "without metrics= records nothing"),
        ({"metrics": [3]}, "but int has none"),
    ],
)
def test_bad_argument_is_named(model, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        attviz.capture(model, **arguments)


def test_what_is_no_module_is_refused():
    with pytest.raises(ArgumentError, match="must be a torch.nn.Module, got str"):
        attviz.capture("bert")


def test_meta_model_is_refused():
    with pytest.raises(CaptureError, match="meta device"):
        attviz.capture(Encoder().to("meta"))


def test_reading_before_any_forward_says_so(model):
    cap = attviz.capture(model)
    with pytest.raises(CaptureError, match="nothing was recorded yet"):
        _ = cap.diagonal
    with cap, pytest.raises(CaptureError, match="no forward of Encoder was seen"):
        _ = cap.diagonal


def test_entering_twice_is_refused(model):
    cap = attviz.capture(model)
    with cap, pytest.raises(CaptureError, match="already used"):
        cap.__enter__()
    with pytest.raises(CaptureError, match="already used"):
        cap.__enter__()
    assert not any(hook_counts(model).values())


def test_model_without_attention_is_loud():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(CaptureError, match="no self-attention was found in Sequential"), attviz.capture(model):
        model(torch.zeros(1, 4))
    with pytest.warns(CaptureWarning, match="no self-attention was found"), attviz.capture(model, strict=False):
        model(torch.zeros(1, 4))


class KernelAttention(nn.Module):
    """Attends with no operator of the table, and no word in its name says so."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.out(query @ (key.mT @ value))


def test_layer_that_runs_unseen_is_loud(model, x):
    model.blocks[1].attention = KernelAttention()
    with pytest.raises(
        CaptureError,
        match=r"(?s)'blocks.1.attention'.*KernelAttention computes its attention with an operator that is not in the table.*Cure",
    ):
        with attviz.capture(model):
            model(x)
    with pytest.warns(CaptureWarning, match="1 attention module of Encoder ran"), attviz.capture(model, strict=False) as cap:
        model(x)
    assert cap.layers == (NAMES[0], NAMES[2])
    with attviz.capture(model, layers=["blocks.0", "blocks.2"]) as cap:
        model(x)
    assert cap.layers == (NAMES[0], NAMES[2])


class LinearAttention(KernelAttention):
    pass


def test_attention_that_is_linear_by_its_name_is_skipped_with_the_reason(model, x):
    model.blocks[1].attention = LinearAttention()
    with attviz.capture(model) as cap:
        model(x)
    assert cap.layers == (NAMES[0], NAMES[2])
    assert cap.skipped == {NAMES[1]: "LinearAttention weighs tokens without a softmax, so there is no attention matrix and no diagonal"}


def test_error_of_the_user_is_not_replaced_by_ours(model, x):
    model.blocks[1].attention = KernelAttention()
    with pytest.raises(ZeroDivisionError), attviz.capture(model):
        model(x)
        raise ZeroDivisionError


def test_layer_that_did_not_run_is_no_miss(model, x):
    with attviz.capture(model) as cap:
        model.blocks[0](x)
    assert cap.layers == NAMES[:1]


def test_ragged_layers_are_named(x):
    class Halving(Encoder):
        def forward(self, x):
            for block in self.blocks:
                x = block(x)[:, ::2]
            return x

    model = Halving()
    with attviz.capture(model) as cap:
        model(x)
    with pytest.raises(RaggedLayersError, match=r"(?s)'blocks.0.attention': batch=2 num_heads=4 q_len=10.*'blocks.2.attention'.*q_len=3"):
        _ = cap.diagonal
    assert [record.diagonal.shape[-1] for record in cap.records] == [10, 5, 3]


class Classifier(nn.Module):
    """Token ids in, as a hand-written model would take them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(50, 32), Encoder()

    def forward(self, words, attention_mask=None):
        return self.encoder(self.embedding(words))


@pytest.mark.parametrize("source", ["words", lambda args, kwargs: args[0], None])
def test_token_ids_are_found(source):
    model, ids = Classifier(), torch.randint(0, 50, (2, 7))
    with attviz.capture(model, token_ids=source) as cap:
        model(ids)
    assert torch.equal(cap.token_ids, ids)
    assert cap.query_mask.all()
    assert cap.query_mask.shape == (2, 7)


def test_ids_of_a_buffer_that_is_used_again_stay_those_of_their_step():
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(20, 32), Encoder()

        def forward(self, input_ids):
            return self.encoder(self.embed(input_ids))

    model, buffer = Embedded().eval(), torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        for step in range(2):
            model(buffer.fill_(step))
    assert [step[0].token_ids.unique().tolist() for step in cap.steps] == [[0], [1]]


def test_token_ids_may_be_given(model, x):
    ids = torch.arange(20).view(2, 10)
    with attviz.capture(model, token_ids=ids) as cap:
        model(x)
    assert torch.equal(cap.token_ids, ids)
    with attviz.capture(model) as cap:
        model(x)
    assert cap.token_ids is None


def test_padding_queries_are_missing_values():
    model, ids = Classifier(), torch.randint(0, 50, (2, 7))
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    with attviz.capture(model) as cap:
        model(ids, attention_mask=mask)
    assert torch.equal(cap.query_mask, mask.bool())
    assert torch.equal(cap.diagonal.isnan(), ~mask.bool()[None, :, None, :].expand_as(cap.diagonal))


def test_shared_module_is_one_name_and_several_calls(x):
    model = Encoder(1)
    model.blocks.append(model.blocks[0])
    with attviz.capture(model) as cap:
        model(x)
    assert cap.layers == ("blocks.0.attention", "blocks.0.attention")
    assert [record.layer_index for record in cap.records] == [0, 1]
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-6)


def test_cross_attention_is_skipped_with_a_reason():
    model = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
    x = torch.randn(2, 6, 32)
    with attviz.capture(model) as cap:
        model(x, torch.randn(2, 6, 32))  # as long as the queries: lengths say nothing
    assert cap.layers == ("self_attn",)
    assert list(cap.skipped) == ["multihead_attn"]
    assert "cross-attention" in cap.skipped["multihead_attn"]


class ReadingAttention(nn.Module):
    """A hand-written attention that may be given a second sequence, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(32, 96)

    def forward(self, x, mask=None, memory=None):
        query, key, value = self.heads(x).chunk(3, -1)
        if memory is not None:
            _, key, value = self.heads(memory).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (query, key, value))
        return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Readers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_own, self.attention_other, self.attention_named = ReadingAttention(), ReadingAttention(), ReadingAttention()

    def forward(self, x, other):
        return self.attention_own(x, None, x) + self.attention_other(x, None, other) + self.attention_named(x, memory=other)


def test_second_sequence_is_seen_by_position_and_by_name():
    model, x = Readers(), torch.randn(2, 6, 32)
    with attviz.capture(model) as cap:
        model(x, torch.randn(2, 6, 32))  # as long as the queries: lengths say nothing
    assert cap.layers == ("attention_own",)
    assert list(cap.skipped) == ["attention_other", "attention_named"]


def test_fault_in_a_metric_reaches_the_user_and_not_the_model(model, x):
    class Broken:
        def update(self, record):
            raise KeyError("mine")

    expected = model(x)
    with pytest.raises(KeyError, match="mine"), attviz.capture(model, metrics=Broken()):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert not any(hook_counts(model).values())
    assert not dispatcher.installed()


def test_running_another_model_only_is_loud(model, x):
    with pytest.raises(CaptureError, match="no forward of Encoder was seen.*2 attention operators ran outside it"), attviz.capture(model):
        Encoder(2)(x)
