"""transformers' flex_attention on a GPU: the kernel's own log-sum-exp, and sinks folded in after it."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel

import attviz

SIZES = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "gemma2": {"sliding_window": 32, "attn_logit_softcapping": 2.0},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 32},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about how transformers compiles its block mask
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_eager_model_and_keeps_the_outputs(family):
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    model = AutoModel.from_config(config, attn_implementation="flex_attention").cuda().eval()
    ids, mask = torch.randint(1, 99, (2, 160), device="cuda"), torch.ones(2, 160, dtype=torch.long, device="cuda")
    mask[1, 100:] = 0
    with torch.no_grad():
        plain = model(ids, attention_mask=mask).last_hidden_state
        with attviz.capture(model) as cap:
            captured = model(ids, attention_mask=mask).last_hidden_state
        twin = copy.deepcopy(model)  # not in float64: there transformers' own mask makes NaN of a padded query whose window holds no key
        twin.set_attn_implementation("eager")
        weights = twin(ids, attention_mask=mask, output_attentions=True).attentions
    assert torch.equal(captured, plain)
    expected = torch.stack(weights).double()[..., :160].diagonal(0, -2, -1)
    real = mask.bool()[None, :, None].expand_as(expected)
    torch.testing.assert_close(
        cap.diagonal.double()[real], expected[real], rtol=5e-3, atol=5e-3
    )  # the truth is of another kernel, in half precision
