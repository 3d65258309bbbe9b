"""Sinks of compiled attention: the graph says whose a softmax is and what was joined to its scores; what it does not say is loud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attviz
from attviz.errors import CaptureError
from tests.evidence.judge import B, E, T, heads
from tests.evidence.test_null_keys import ByHand
from tests.evidence.test_sinks import LENGTHS, READ, Capped, Learned, NullKey, OfTokens, OneMore, Several, Sunk, assert_readings, truth

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
NAMES = ("layers.0.attention", "layers.1.attention")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Depth(nn.Module):
    """Weighs what it is given by a softmax that is no attention of tokens, as Inkling 2 weighs its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(E, 1, bias=False)

    def forward(self, *several: Tensor) -> Tensor:
        stacked = torch.stack(several, 2)
        return (self.query(stacked).mT.softmax(-1) @ stacked).squeeze(2)


class Layer(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        attention.__class__ = type(f"{type(attention).__name__}Attention", (type(attention),), {})
        self.attention, self.depth = attention, Depth()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        self.seen = x  # for the reference
        output = self.attention(x, mask)
        return self.depth(x, output[0] if isinstance(output, tuple) else output)


class Model(nn.Module):
    def __init__(self, kind: type[nn.Module], broken: bool) -> None:
        super().__init__()
        self.layers, self.broken = nn.ModuleList(Layer(kind()) for _ in range(2)), broken

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        for layer in self.layers:
            if self.broken:
                torch._dynamo.graph_break()
            x = layer(x, attention_mask)
        return x


def assert_right(cap: attviz.Capture, model: Model, x: Tensor, real: Tensor) -> None:
    assert cap.layers == NAMES
    with torch.no_grad():
        model(x, real.long())
        for record, layer in zip(cap.records, model.layers, strict=True):
            logits, _ = layer.attention.logits(layer.seen, real.long())
            assert_readings(record, truth(logits, T, real, real))
            own = logits.double().softmax(-1).diagonal(0, -2, -1)
            torch.testing.assert_close(
                record.diagonal.double(), torch.where(real[:, None], own, torch.nan), rtol=0, atol=1e-5, equal_nan=True
            )


def given(kind: type[Sunk], broken: bool = False) -> tuple[Model, Tensor, Tensor]:
    torch.manual_seed(0)
    return Model(kind, broken).eval(), torch.randn(B, T, E), torch.arange(T)[None] < LENGTHS[:, None]


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", [OfTokens, Capped, Several, Learned])
def test_a_compiled_sink_is_no_key(kind, backend, broken):
    """With a broken graph both layers run the code that was compiled for the first."""
    model, x, real = given(kind, broken)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), attviz.capture(compiled, read=READ) as cap:
        compiled(x, real.long())
    assert_right(cap, model, x, real)
    if kind is not Learned:  # a parameter that its name says is a sink, as gpt-oss's
        assert all("compiled graph" in record.evidence for record in cap.records)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("cure", ["captured before", "force_eager"])
def test_a_column_that_the_graph_does_not_settle_is_loud_and_its_cures_work(cure, broken):
    """A graph of aot_eager does not say which of its inputs are parameters."""
    model, x, real = given(NullKey, broken)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad(), pytest.raises(CaptureError) as loud, attviz.capture(compiled, read=READ) as cap:
        compiled(x, real.long())
    for part in (*NAMES, "learned sink", "tokens of another input", "before the model is compiled", "force_eager"):
        assert part in str(loud.value)
    assert not cap.skipped
    with torch.no_grad():
        if cure == "force_eager":
            with torch.compiler.set_stance("force_eager"), attviz.capture(compiled, read=READ) as cap:
                compiled(x, real.long())
        else:
            with attviz.capture(model):
                model(x, real.long())
            with attviz.capture(compiled, read=READ) as cap:
                compiled(x, real.long())
    assert_right(cap, model, x, real)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["feature by feature", "product of matrices"])
def test_a_token_behind_the_scores_is_not_taken_for_a_sink(how, backend):
    model, x, real = given(lambda: OneMore(how))
    for layer in model.layers:
        layer.attention.held = torch.randn(B, 1, E)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), pytest.raises(CaptureError, match="tokens of another input"), attviz.capture(compiled) as cap:
        compiled(x, real.long())
    assert not any(cap.steps[0]) if cap.steps else True


class Apart(Layer):
    """Its code is compiled in two parts, apart from the model's."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x, mask)


class Fused(Sunk):
    def forward(self, x, attention_mask, past=None):
        query, key = heads(self.q(x)), heads(self.k(x))
        return F.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2)


def test_what_the_compiler_took_away_behind_a_broken_graph_is_loud():
    """The first attention passes the dispatcher, inductor makes another kernel of the second."""
    model, x, real = given(Fused)
    model.layers = nn.ModuleList([Apart(Fused()), Apart(Capped())])
    compiled = torch.compile(model)
    with torch.no_grad(), pytest.raises(CaptureError, match=r"'layers\.1\.attention'.*\n.*fused"), attviz.capture(compiled) as cap:
        compiled(x, real.long())
    assert cap.layers == NAMES[:1]


class Unused(Model):
    """Has an attention that this forward does not run."""

    def __init__(self, kind: type[nn.Module], broken: bool) -> None:
        super().__init__(kind, broken)
        self.vision_attention = nn.MultiheadAttention(E, 4, batch_first=True)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_module_in_no_compiled_graph_did_not_run(backend, broken):
    torch.manual_seed(0)
    model, x, real = Unused(OfTokens, broken).eval(), torch.randn(B, T, E), torch.arange(T)[None] < LENGTHS[:, None]
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), attviz.capture(compiled, read=READ) as cap:
        compiled(x, real.long())
    assert_right(cap, model, x, real)
    assert not cap.missed


class NullAttention(ByHand):
    """A fused kernel over keys that learned ones are joined to."""

    def __init__(self) -> None:
        super().__init__(fused=True, causal=False)


class Nulls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ordinary, self.null = nn.MultiheadAttention(E, 4, batch_first=True), NullAttention()

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.null(self.ordinary(x, x, x, need_weights=False)[0], padding)


@pytest.mark.parametrize("cure", ["captured before", "force_eager"])
def test_null_keys_of_a_compiled_kernel_are_loud_and_the_cures_work(cure):
    torch.manual_seed(0)
    model, x, padding = Nulls().train(), torch.randn(B, T, E), torch.zeros(B, T, dtype=torch.bool)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad(), pytest.raises(CaptureError, match=r"'null'.*null keys") as loud, attviz.capture(compiled):
        compiled(x, padding)
    assert "'ordinary'" not in str(loud.value)
    with torch.no_grad():
        if cure == "force_eager":
            with torch.compiler.set_stance("force_eager"), attviz.capture(compiled, read=READ) as cap:
                compiled(x, padding)
        else:
            with attviz.capture(model):
                model(x, padding)
            with attviz.capture(compiled, read=READ) as cap:
                compiled(x, padding)
        logits = model.null.logits(model.ordinary(x, x, x, need_weights=False)[0], padding)
    assert cap.layers == ("ordinary", "null")
    assert_readings(cap.records[1], truth(logits, T, ~padding, ~padding))


def test_a_call_without_a_diagonal_in_generated_code_is_loud():
    """One attention of the region is recorded, of the other only its lengths are known."""
    model, x, padding = Nulls().train(), torch.randn(B, T, E), torch.zeros(B, T, dtype=torch.bool)
    compiled = torch.compile(model)
    with torch.no_grad(), pytest.raises(CaptureError, match="1 of its attention calls show no diagonal.*null keys.*force_eager"):
        with attviz.capture(compiled):
            compiled(x, padding)
