"""How many kernels a capture launches on a GPU for one layer, counted without one: tensors without storage, taken for a GPU's.

A number here that grows is a regression: on a device every launch costs as much as a small layer's own.
"""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.utils._python_dispatch import TorchDispatchMode

from attviz.calls import fused, packed, padded, scored, trust
from attviz.calls.fused import FusedCall
from attviz.calls.packed import PackedCall
from attviz.calls.padded import PaddedCall, Padding
from attviz.calls.scored import ScoredCall
from attviz.hooks.scope.tokens import TokenContext
from attviz.hooks.session.packing import document_ids

VIEWS = {  # no kernel runs for these
    *("device", "view", "transpose", "slice", "select", "expand", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "permute", "t"),
    *("_unsafe_view", "empty", "new_empty", "empty_like", "empty_strided", "diagonal", "unbind", "split", "unfold", "reshape"),
}


class Launches(TorchDispatchMode):
    """The operators that would start a kernel."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def device(monkeypatch):
    """A GPU that is not there, on which every kernel's log-sum-exp was found right before."""

    class Right(dict):
        def get(self, key, default=None):
            return "(1)" not in key[0]  # of sinks the second way: they are to be added

    monkeypatch.setattr(trust, "_verdicts", Right())
    for module in (fused, packed, padded, scored):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # knows no such device
    return torch.device("meta")


def counted(make):
    with Launches() as log:
        make()
    return log.names


def layer(device, kv_len=512, q_len=512, packed=False):
    query = torch.empty(1 if packed else 2, q_len, 8, 64, dtype=torch.bfloat16, device=device).transpose(1, 2)
    key = torch.empty(1 if packed else 2, kv_len, 2, 64, dtype=torch.bfloat16, device=device).transpose(1, 2)
    return query, key, torch.empty(*query.shape[:3], device=device)


def diagonal(call):
    return call.defer().finish()


OWN = ["diagonal_from_logsumexp"]


def test_scaled_dot_product_attention_on_every_backend(device):
    query, key, lse = layer(device)
    bias = torch.empty(2, 1, 512, 512, dtype=torch.bfloat16, device=device)
    padded = torch.empty(2, 8, 544, device=device)[..., :512]  # memory-efficient attention
    for call in (
        FusedCall("flash", query, key, lse, 0.1, is_causal=True),
        FusedCall("efficient", query, key, padded, 0.1, bias),
        FusedCall("cudnn", query, key, lse[..., None], 0.1, bias[:, :, :1]),
    ):
        assert counted(lambda call=call: diagonal(call)) == OWN


def test_a_static_cache_and_a_decode_step(device):
    query, key, lse = layer(device, kv_len=2048, q_len=1)
    bias = torch.empty(2, 1, 1, 2048, dtype=torch.bfloat16, device=device)
    assert counted(lambda: diagonal(FusedCall("efficient", query, key, lse, 0.1, bias, kv_offset=511))) == OWN
    offset = torch.empty((), dtype=torch.long, device=device)  # only the device knows it
    assert len(counted(lambda: diagonal(FusedCall("efficient", query, key, lse, 0.1, bias, kv_offset=offset)))) <= 5


def test_without_a_logsumexp_one_pass_over_query_and_key(device):
    query, key, _ = layer(device)
    assert counted(lambda: diagonal(FusedCall("fast path", query, key, None, 0.1))) == ["diagonal_from_qk"]


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("texts", [None, "heads first", "heads last", "row of each text"])
def test_flash_attention_dense_and_packed(device, texts, sinks):
    query, key, lse = layer(device, packed=texts is not None)
    edges = torch.empty(5, dtype=torch.int32, device=device)
    layouts = {"heads first": lse[0], "heads last": lse[0].mT, "row of each text": torch.empty(4, 8, 300, device=device)}
    options = {"scale": 0.1, "is_causal": True, "window_size": (128, 0), "softcap": 30.0}
    options["sinks"] = torch.empty(8, device=device) if sinks else None
    if texts is not None:
        options |= {"cu_seqlens_q": edges, "cu_seqlens_k": edges}
    assert counted(lambda: diagonal(PackedCall("flash", query, key, layouts.get(texts, lse), options))) == OWN
    assert counted(lambda: diagonal(PackedCall("flash", query, key, None, options))) == ["diagonal_from_qk"]


def test_which_text_a_token_is_of_is_found_once_a_forward(device):
    query, key, lse = layer(device, packed=True)
    edges = torch.empty(5, dtype=torch.int32, device=device)
    calls = [PackedCall("flash", query, key, lse[0], {"scale": 0.1, "cu_seqlens_q": edges, "cu_seqlens_k": edges}) for _ in range(3)]
    assert len(counted(lambda: document_ids(calls[0], None))) <= 6
    assert counted(lambda: [document_ids(call, None) for call in calls]) == []
    edges.copy_(torch.empty(5, dtype=torch.int32, device=device))  # refilled for the next batch
    assert counted(lambda: document_ids(calls[0], None)) != []


def test_compiled_flex_attention_without_a_score_mod(device):
    query, key, lse = layer(device)

    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    blocks = torch.empty(1, 1, 4, dtype=torch.int32, device=device), torch.empty(1, 1, 4, 4, dtype=torch.int32, device=device)
    mask = BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=128, mask_mod=causal)
    assert counted(lambda: diagonal(ScoredCall("flex", query, key, scale=0.1, logsumexp=lse))) == OWN
    first = counted(lambda: diagonal(ScoredCall("flex", query, key, block_mask=mask, scale=0.1, logsumexp=lse)))
    assert OWN[0] in first
    sinks = torch.empty(8, device=device)
    for options in ({}, {"sinks": sinks}):  # the next layer with the same mask
        assert counted(lambda options=options: diagonal(ScoredCall("flex", query, key, None, mask, 0.1, lse, **options))) == OWN


@pytest.mark.parametrize("kind", ["fused", "packed"])
def test_readings_at_another_key_are_one_launch_each(device, kind):
    query, key, lse = layer(device, packed=kind == "packed")
    edges = torch.empty(5, dtype=torch.int32, device=device)
    index = torch.empty(*query.shape[:3], dtype=torch.long, device=device)
    call = FusedCall("flash", query, key, lse, 0.1, is_causal=True)
    if kind == "packed":
        call = PackedCall("flash", query, key, lse[0], {"scale": 0.1, "cu_seqlens_q": edges, "cu_seqlens_k": edges})
    else:
        assert counted(lambda: call.own(-1)) == OWN
    at = counted(lambda: call.at(index, bounded=True))
    assert [name for name in at if name == OWN[0]] == OWN
    assert len(at) <= (1 if kind == "fused" else 8)


def test_readings_at_another_key_under_alibi_gather_no_keys(device):
    query, key, lse = layer(device)
    rules = {"scale": 0.1, "is_causal": True, "alibi_slopes": torch.empty(8, device=device)}
    call = PackedCall("flash", query, key, lse, rules)
    names = counted(lambda: call.at(torch.empty(*query.shape[:3], dtype=torch.long, device=device)))
    assert [name for name in names if name == OWN[0]] == OWN
    assert not {"gather", "index_select", "_to_copy", "bmm"} & set(names)
    assert len(names) <= 7


@pytest.mark.parametrize("kind", ["fused", "dense", "packed"])
def test_a_reading_over_all_pairs_is_one_launch(device, kind):
    query, key, lse = layer(device, packed=kind == "packed")
    edges = torch.empty(5, dtype=torch.int32, device=device)
    rules = {"scale": 0.1, "is_causal": True, "window_size": (128, 0), "softcap": 30.0}
    call = FusedCall("flash", query, key, lse, 0.1, is_causal=True)
    if kind == "dense":
        call = PackedCall("flash", query, key, lse, rules)
    elif kind == "packed":
        call = PackedCall("flash", query, key, lse[0], {**rules, "cu_seqlens_q": edges, "cu_seqlens_k": edges})
    features = torch.empty(512, 3, device=device)
    for ask, name in (
        (lambda: call.received(), "received_from_logsumexp"),
        (lambda: call.mass(features), "mass_from_logsumexp"),
        (lambda: call.within(64), "mass_from_logsumexp"),
    ):
        assert counted(ask) == [name]


def test_padded_rows_are_answered_by_the_packed_texts(device):
    query, key, lse = layer(device, packed=True)
    edges = torch.empty(3, dtype=torch.int32, device=device)
    packed_call = PackedCall("flash", query, key, lse[0], {"scale": 0.1, "is_causal": True, "cu_seqlens_q": edges, "cu_seqlens_k": edges})
    kept = torch.empty(2, 300, dtype=torch.bool, device=device)
    call = PaddedCall(packed_call, Padding(kept, kept))
    for ask in (lambda: call.own(-1), lambda: call.received(kept), lambda: call.mass(torch.empty(300, 3, device=device)), call.within):
        names = counted(ask)
        assert len([name for name in names if name.endswith("_from_logsumexp")]) == 1
        assert not {"bmm", "softmax", "_softmax", "matmul", "mm", "nonzero", "index_put"} & set(names)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_padded_rows_find_their_tokens_once_a_forward(device, mode):
    """From the second layer on the diagonal is read, put back, and NaN where there is no token."""
    mask, edges = torch.empty(2, 300, dtype=torch.long, device=device), torch.empty(3, dtype=torch.int32, device=device)
    query, key, lse = layer(device, packed=True)
    with mode():
        contexts = [TokenContext(mask=mask, length=300, cached=cached) for cached in (False, False, True)]
        rules = {"scale": 0.1, "is_causal": True, "cu_seqlens_q": edges, "cu_seqlens_k": edges}

        def read(context):
            return PaddedCall(PackedCall("flash", query, key, lse[0], rules), Padding(*context.padding_of(2, 512))).defer()

        assert OWN[0] in counted(lambda: read(contexts[0]))
        for context in contexts[1:]:
            names = counted(lambda context=context: read(context))
            assert [name for name in names if name != "scalar_tensor"] == [*OWN, "index", "where"]  # a number is no launch
