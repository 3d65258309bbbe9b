"""Every entry of the operator table against the schema of this torch, called on meta tensors where the backend is not here."""

import pytest
import torch

import attviz
from attviz.hooks.tap.dispatcher import keys_present
from attviz.hooks.tap.operators import Operator, register_operator, registered
from attviz.hooks.tap.operators.registry import unregister_operator
from attviz.kernels.references import dense_logits

BY_NAME = {operator.name: operator for operator in registered()}


def overload(name: str) -> torch._ops.OpOverload:
    namespace, rest = name.split("::")
    packet, _, which = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), which or "default")


YOUNGER = {  # seen there; an older torch does not have it
    "aten::_flash_attention_forward_no_dropout_inplace": "2.13",
    "aten::_scaled_dot_product_flash_attention.quantized": "2.13",
    "aten::_flash_attention_forward.quantized": "2.13",
}


def has(since: str) -> bool:
    return tuple(map(int, torch.__version__.split(".")[:2])) >= tuple(map(int, since.split(".")))


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("aten::") and has(YOUNGER.get(name, "0"))])
def test_operator_exists_in_this_torch(name):
    schema = overload(name)._schema
    assert name in (schema.name, f"{schema.name}.{schema.overload_name}")


def attention_inputs(dtype: torch.dtype = torch.float16, kv_len: int = 40) -> list[torch.Tensor]:
    return [torch.empty(2, 4, 40 if index == 0 else kv_len, 64, dtype=dtype, device="meta") for index in range(3)]


@pytest.mark.parametrize(
    ("name", "rest", "kwargs"),
    [
        ("aten::_scaled_dot_product_flash_attention", [0.0, True], {"scale": 0.5}),
        ("aten::_scaled_dot_product_flash_attention", [0.1, False, False], {}),
        ("aten::_scaled_dot_product_efficient_attention", [None, False, 0.0, True], {"scale": 0.5}),
        ("aten::_scaled_dot_product_efficient_attention", ["bias", False], {}),
        ("aten::_scaled_dot_product_cudnn_attention", [None, False, 0.0, True], {"scale": 0.5}),
    ],
)
def test_cuda_entry_reads_what_the_meta_kernel_returns(name, rest, kwargs):
    bias = torch.empty(2, 1, 40, 40, dtype=torch.float16, device="meta")
    operator = BY_NAME[name]
    args = (*attention_inputs(), *(bias if value == "bias" else value for value in rest))
    asked = (args, kwargs) if operator.prepare is None else operator.prepare(args, kwargs)
    result = overload(name)(*asked[0], **asked[1])
    call = operator.read(*asked, result)
    assert call is not None
    assert call.operator == name
    assert call.query is args[0]
    assert call.key is args[1]
    assert call.logsumexp.shape == (2, 4, 40)
    assert call.scale == kwargs.get("scale", 64**-0.5)
    assert call.is_causal is (True in rest[1:])
    assert (call.bias is bias) is ("bias" in rest)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_entry_of_mps_trusts_no_weights(is_causal):
    """Its fused kernels return their output twice (``aten/src/ATen/native/mps/operations/Attention.mm``); so query and key are read."""
    operator = BY_NAME["aten::_scaled_dot_product_attention_math_for_mps"]
    args = (*attention_inputs(), None, 0.0, is_causal)
    assert overload(operator.name)(*args)[1].shape == (2, 4, 40, 40)  # what its signature promises, and its meta kernel gives
    query, key = torch.randn(2, 4, 16, 16), torch.randn(2, 2, 16, 16)
    bias = None if is_causal else torch.randn(16, 16)
    output = torch.nn.functional.scaled_dot_product_attention(query, key, key, bias, is_causal=is_causal, enable_gqa=True)
    call = operator.read((query, key, key, bias, 0.0, is_causal), {"enable_gqa": True}, (output, output))
    logits = dense_logits(query, key, bias=bias, is_causal=is_causal)
    torch.testing.assert_close(call.defer().finish().double(), logits.softmax(-1).diagonal(0, -2, -1), rtol=1e-5, atol=1e-6)
    assert operator.keys == ("MPS",)


@pytest.mark.parametrize("name", ["aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention"])
def test_logsumexp_is_asked_for(name):
    prepare = BY_NAME[name].prepare
    assert prepare is not None
    schema = [argument.name for argument in overload(name)._schema.arguments]
    place = schema.index("compute_log_sumexp")
    args, _ = prepare(("q", "k", "v", None, False, 0.1, True), {"scale": 2.0})
    assert args == ("q", "k", "v", None, True, 0.1, True)
    assert args[place] is True
    _, kwargs = prepare(("q", "k", "v", None), {"compute_log_sumexp": False})
    assert kwargs == {"compute_log_sumexp": True}


@pytest.mark.parametrize("name", sorted(name for name in BY_NAME if has(YOUNGER.get(name, "0"))))
def test_positions_agree_with_the_schema(name):
    if "native_multi_head" in name:
        schema = [argument.name for argument in overload(name)._schema.arguments]
        assert schema.index("need_weights") == 10
        assert schema.index("average_attn_weights") == 11
    elif name.startswith("aten::_scaled_dot_product") and "mps" not in name:
        schema = [argument.name for argument in overload(name)._schema.arguments]
        assert schema[:3] == ["query", "key", "value"]
        assert [result.name for result in overload(name)._schema.returns][1] in ("logsumexp", "log_sumexp")
        place = {"flash_attention_for_cpu": 4, "flash_attention": 4, "efficient_attention": 6, "cudnn_attention": 6}
        for part, index in place.items():
            if name.endswith(part):
                assert schema[index] == "is_causal"


def test_an_overload_of_another_torch_is_passed_over():
    """Seen on torch 2.9: its _flash_attention_forward has no overload named ``quantized``, and every capture failed."""
    mine = Operator("aten::_softmax.of_another_torch", lambda args, kwargs, result: None, "softmax")
    register_operator(mine)
    try:
        model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        with attviz.capture(model) as cap:
            model(torch.randn(1, 3, 8))
        assert len(cap.records) == 1
        assert keys_present(mine) == []
    finally:
        unregister_operator(mine.name)
