"""Every reading of every kind of call, against the float64 matrix: the table of what can be read of what.

A cell is right, or the call says why it cannot give it. Random sizes and rules are in ``tests/calls``; here nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from attviz import readings as r
from attviz.calls import AttentionCall, DiagonalCall, FusedCall, PackedCall, ScoredCall, SoftmaxCall, trust
from attviz.errors import ReadingError
from attviz.kernels.references import dense_logits

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH, PAST = 2, 4, 2, 7, 8, 3
TEXTS = (3, 4)  # of the packed row


@dataclass
class Situation:
    """A call, its matrix, and its tokens."""

    call: AttentionCall
    weights: Tensor
    logits: Tensor
    tokens: r.Tokens
    past: int = 0

    @property
    def own(self) -> Tensor:
        return torch.arange(self.weights.shape[2]) + self.past

    @property
    def start(self) -> Tensor:
        """First key of each query's text."""
        documents = self.tokens.document_ids
        return torch.zeros(self.weights.shape[2]).long() if documents is None else (documents[0, :, None] != documents[0]).int().argmin(1)

    @property
    def end(self) -> Tensor:
        documents, (queries, keys) = self.tokens.document_ids, self.weights.shape[2:]
        return torch.full((queries,), keys) if documents is None else self.start + (documents[0, :, None] == documents[0]).sum(1)

    def at(self, index: Tensor, inside: bool = False) -> Tensor:
        """One number at a time; ``inside``: of the query's own text."""
        found = torch.full(self.weights.shape[:3], torch.nan, dtype=torch.float64)
        index = index.expand(*self.weights.shape[:3])
        for b, h, i in torch.cartesian_prod(*(torch.arange(size) for size in found.shape)).tolist():
            low, high = (int(self.start[i]), int(self.end[i])) if inside else (0, self.weights.shape[3])
            if low <= (j := int(index[b, h, i])) < high:
                found[b, h, i] = self.weights[b, h, i, j]
        return found

    def earlier(self) -> Tensor:
        """Key of the last earlier occurrence of each query's token, of its own text; -1."""
        ids, found = self.tokens.key_ids, torch.full((self.weights.shape[0], self.weights.shape[2]), -1)
        for b in range(len(found)):
            for i, own in enumerate(self.own.tolist()):
                same = [j for j in range(int(self.start[i]), own) if ids[b, j] == ids[b, own]]
                found[b, i] = max(same, default=-1)
        return found[:, None]


def _qk(q_len: int = LENGTH, kv_len: int = LENGTH, heads: int = HEADS, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    torch.manual_seed(q_len)
    return 1.5 * torch.randn(batch, heads, q_len, WIDTH), torch.randn(batch, KV_HEADS, kv_len, WIDTH)


def _situation(
    call: AttentionCall, logits: Tensor, past: int = 0, sinks: Tensor | None = None, documents: Tensor | None = None
) -> Situation:
    columns = logits.double()
    if sinks is not None:
        columns = torch.cat([columns, sinks.double()[:, None, None].expand(*logits.shape[:3], 1)], -1)
    weights = columns.softmax(-1)[..., : logits.shape[-1]].nan_to_num(0.0)
    ids = torch.randint(0, 3, (logits.shape[0], logits.shape[3]), generator=torch.Generator().manual_seed(3))
    tokens = r.Tokens(ids[:, past : past + logits.shape[2]], ids, document_ids=documents, special_ids=(1,), past=past)
    return Situation(call, weights, logits.double(), tokens, past)


def fused(is_causal: bool = True, biased: bool = False, lse: bool = True, on_device: bool = False, q_len: int = LENGTH, past: int = 0):
    query, key = _qk(q_len, q_len + past + (2 if on_device else 0))
    bias = None
    if biased or past:
        places = torch.arange(q_len)[:, None] + past
        bias = torch.randn(BATCH, HEADS, q_len, key.shape[2]).masked_fill(torch.arange(key.shape[2]) > places, -torch.inf)
    is_causal = is_causal and bias is None
    logits = dense_logits(query, key, scale=0.4, bias=bias, is_causal=is_causal)
    offset = torch.tensor(past) if on_device else past
    given = logits.logsumexp(-1).float() if lse else None
    return _situation(FusedCall("fused", query, key, given, 0.4, bias, is_causal, offset), logits, past)


def softmax(sinks: bool = False, logits_shown: bool = True, past: int = 0):
    query, key = _qk(LENGTH, LENGTH + past)
    logits = dense_logits(query, key, scale=0.4, is_causal=True)
    learned = torch.linspace(-1, 1, HEADS) if sinks else None
    columns = logits.float()
    if sinks:
        columns = torch.cat([columns, learned[:, None, None].expand(*columns.shape[:3], 1)], -1)
    call = SoftmaxCall("softmax", columns.softmax(-1), columns if logits_shown else None, past, int(sinks))
    return _situation(call, logits, past, learned)


def flash(**options):
    query, key = _qk()
    sinks = options.get("sinks")
    logits = dense_logits(query, key, **{name: value for name, value in options.items() if name != "sinks"})
    return _situation(PackedCall("flash", query, key, None, options), logits, 0, sinks)


def packed():
    query, key = _qk(sum(TEXTS), sum(TEXTS), batch=1)
    bounds = torch.tensor([0, *TEXTS]).cumsum(0).int()
    logits = torch.full((1, HEADS, sum(TEXTS), sum(TEXTS)), -torch.inf, dtype=torch.float64)
    for a, b in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
        logits[:, :, a:b, a:b] = dense_logits(query[:, :, a:b], key[:, :, a:b], scale=0.4, is_causal=True)
    options = {"scale": 0.4, "is_causal": True, "cu_seqlens_q": bounds, "cu_seqlens_k": bounds}
    documents = torch.tensor([[number for number, size in enumerate(TEXTS) for _ in range(size)]])
    return _situation(PackedCall("varlen", query, key, None, options), logits, documents=documents)


def flex(sinks: bool = False):
    query, key = _qk()
    mask = create_block_mask(lambda b, h, q, k: q >= k, BATCH, None, LENGTH, LENGTH, device="cpu")
    slopes = torch.linspace(0.1, 0.4, HEADS)
    logits = dense_logits(query, key, scale=0.4, is_causal=True)
    places = torch.arange(LENGTH)
    logits = logits - slopes.double()[:, None, None] * (places[:, None] - places).abs()
    learned = torch.linspace(-1, 1, HEADS) if sinks else None
    call = ScoredCall("flex", query, key, lambda s, b, h, q, k: s - slopes[h] * (q - k).abs(), mask, 0.4, None, learned, 0)
    return _situation(call, logits, 0, learned)


CALLS: dict[str, Callable[[], Situation]] = {
    "fused": fused,
    "fused, no mask": lambda: fused(is_causal=False),
    "fused, a bias": lambda: fused(biased=True),
    "fused, no log-sum-exp": lambda: fused(lse=False),
    "fused, a decode step": lambda: fused(q_len=1, past=PAST),
    "fused, several queries over a cache": lambda: fused(past=PAST),
    "fused, a static cache": lambda: fused(past=PAST, on_device=True),
    "softmax": softmax,
    "softmax, sinks": lambda: softmax(sinks=True),
    "softmax, weights only": lambda: softmax(logits_shown=False),
    "softmax, a cache": lambda: softmax(past=PAST),
    "flash": lambda: flash(scale=0.4, is_causal=True),
    "flash, window, softcap, sinks": lambda: flash(
        scale=0.4, is_causal=True, window_size=(3, -1), softcap=2.0, sinks=torch.linspace(-1, 1, HEADS)
    ),
    "packed": packed,
    "flex": flex,
    "flex, sinks": lambda: flex(sinks=True),
}


def _mass(chosen: Callable[[Situation], Tensor]) -> Callable[[Situation], Tensor]:
    return lambda s: (s.weights * chosen(s)).sum(-1)


def _first(count: int) -> Callable[[Situation], Tensor]:
    def chosen(s: Situation) -> Tensor:
        keys = torch.arange(s.weights.shape[3])
        return (keys >= s.start[:, None]) & (keys < torch.minimum(s.start + count, s.end)[:, None])

    return _mass(chosen)


def _near(w: int) -> Callable[[Situation], Tensor]:
    return _mass(lambda s: (torch.arange(s.weights.shape[3]) - s.own[:, None]).abs() <= w)


def _segments(s: Situation) -> Tensor:
    odd = (s.tokens.key_ids % 2 == 1)[:, None, None]
    return torch.stack([(s.weights * ~odd).sum(-1), (s.weights * odd).sum(-1)], -1)


def _induction(s: Situation) -> Tensor:
    earlier = s.earlier()
    return s.at(torch.where(earlier < 0, -1, earlier + 1))


def _seen(s: Situation) -> Tensor:
    return s.logits > -torch.inf


def _mirrored(tokens: r.Tokens) -> Tensor:
    return tokens.ids * 2  # some key of each query


READINGS: dict[str, tuple[r.Reading, Callable[[Situation], Tensor]]] = {
    "own": (r.Own(), lambda s: s.at(s.own, inside=True)),
    "offset(-1)": (r.Offset(-1), lambda s: s.at(s.own - 1, inside=True)),
    "offset(1)": (r.Offset(1), lambda s: s.at(s.own + 1, inside=True)),
    "at": (r.At(_mirrored), lambda s: s.at(_mirrored(s.tokens)[:, None])),
    "induction": (r.Induction(), _induction),
    "duplicate": (r.Duplicate(), lambda s: s.at(s.earlier())),
    "keys(first=2)": (r.Keys(first=2), _first(2)),
    "keys(first=20)": (r.Keys(first=20), _first(20)),
    "keys(mask)": (r.Keys(lambda tokens: tokens.key_ids == 2), _mass(lambda s: (s.tokens.key_ids == 2)[:, None, None])),
    "keys(special)": (r.Keys(special=True), _mass(lambda s: (s.tokens.key_ids == 1)[:, None, None])),
    "window(1)": (r.Window(1), _near(1)),
    "window(20)": (r.Window(20), _near(20)),
    "segments": (r.Segments(lambda tokens: tokens.key_ids % 2, 2), _segments),
    "rows(-1)": (r.Rows(-1), lambda s: s.weights[:, :, -1:]),
    "top_keys(3)": (r.TopKeys(3), lambda s: s.weights.sort(-1, descending=True).values[..., :3]),
    "row_entropy": (r.RowEntropy(), lambda s: torch.special.entr(s.weights).sum(-1)),
    "max_logit": (r.MaxLogit(), lambda s: s.logits.amax(-1)),
    "visible": (r.Visible(), lambda s: _seen(s).sum(-1)),
    "received": (r.Received(), lambda s: s.weights.sum(-2)),
    "received(mean)": (r.Received(mean=True), lambda s: s.weights.sum(-2) / _seen(s).sum(-2)),
    "distance": (r.Distance(), lambda s: (s.weights * (torch.arange(s.weights.shape[3]) - s.own[:, None]).abs()).sum(-1)),
}
CANNOT = {  # and the words that say so
    ("softmax, weights only", "max_logit"): "exposes the weights of its rows, but not the logits",
    ("softmax, sinks", "max_logit"): "exposes the weights of its rows, but not the logits",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reading", READINGS)
def test_each_cell(reading, call):
    trust.forget()
    situation, (asked, expected) = CALLS[call](), READINGS[reading]
    if (call, reading) in CANNOT:
        with pytest.raises(ReadingError, match=CANNOT[call, reading]):
            asked.read(situation.call, situation.tokens)
        return
    found = asked.read(situation.call, situation.tokens)
    found = found["weights"] if reading == "top_keys(3)" else found
    want = expected(situation)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want.double().expand(found.shape), rtol=1e-5, atol=2e-6, equal_nan=True)
    trust.forget()


@pytest.mark.parametrize("call", CALLS)
def test_query_and_key_make_the_weights_again(call):
    situation = CALLS[call]()
    found = r.QueryKey(dtype=torch.float32).read(situation.call, situation.tokens)
    if "weights" in found:
        made = found["weights"].double()
    else:
        key = found["key"].double().repeat_interleave(HEADS // KV_HEADS, 1)
        scores = found["scale"].double() * found["query"].double() @ key.mT + found["bias"].double()
        made = (scores - found["logsumexp"].double()[..., None]).exp()
    torch.testing.assert_close(made, situation.weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reading", sorted(set(READINGS) - {"own"}))
def test_a_call_that_shows_its_diagonal_only_gives_the_reason(reading):
    call, (asked, _) = DiagonalCall("aten::_softmax", torch.rand(BATCH, HEADS, LENGTH)), READINGS[reading]
    tokens = fused().tokens
    with pytest.raises(ReadingError, match="anything but the diagonal cannot be read"):
        asked.read(call, tokens)
