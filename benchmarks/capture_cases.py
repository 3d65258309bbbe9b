"""What the capture benchmark runs: models, inputs, and the ways to get at the diagonal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import attviz


@dataclass(frozen=True)
class Case:
    """A model at one input size. ``dense`` cases are small enough for providers that build the attention matrix."""

    name: str
    family: str
    batch: int
    q_len: int
    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    pairs: int
    dense: bool = True

    def model(self, implementation: str) -> nn.Module:
        import transformers

        shape = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": 4 * self.hidden,
            "max_position_embeddings": max(512, self.q_len),
            "vocab_size": 1000,
            "attn_implementation": implementation,
        }
        torch.manual_seed(0)
        if self.family == "bert":
            return transformers.BertModel(transformers.BertConfig(**shape)).eval()
        return transformers.LlamaModel(transformers.LlamaConfig(num_key_value_heads=self.num_kv_heads, use_cache=False, **shape)).eval()

    def inputs(self) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return {"input_ids": torch.randint(0, 1000, (self.batch, self.q_len))}


CASES = (
    Case("minilm-8x128", "bert", 8, 128, 384, 6, 12, 12, pairs=60),
    Case("bert-base-1x512", "bert", 1, 512, 768, 12, 12, 12, pairs=30),
    Case("bert-base-1x2048", "bert", 1, 2048, 768, 12, 12, 12, pairs=8),
    Case("tiny-bert-1x8", "bert", 1, 8, 128, 4, 4, 4, pairs=2000),
    Case("tiny-llama-1x8", "llama", 1, 8, 128, 4, 4, 2, pairs=2000),
    Case("llama-like-1x32768", "llama", 1, 32768, 256, 2, 4, 2, pairs=3, dense=False),
)

Run = Callable[[], "Tensor | None"]


def plain(model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    def run() -> None:
        model(**inputs)

    return run


def captured(model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    """All of it, each time: enter, forward, read the diagonals, leave."""

    def run() -> Tensor:
        with attviz.capture(model) as cap:
            model(**inputs)
        return cap.diagonal

    return run


def eager(model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    """``output_attentions``, the way of the HF documentation."""

    def run() -> Tensor:
        attentions = model(**inputs, output_attentions=True).attentions
        return torch.stack([weights.diagonal(dim1=-2, dim2=-1) for weights in attentions])

    return run


def nnsight(model: nn.Module, inputs: dict[str, Tensor]) -> Run:
    """A trace that saves the diagonals only."""
    from nnsight import NNsight

    traced = NNsight(model)
    layers = traced.encoder.layer if hasattr(model, "encoder") else traced.layers

    def run() -> Tensor:
        with traced.trace(**inputs, output_attentions=True):
            diagonals = list().save()
            for layer in layers:
                attention = layer.attention.self if hasattr(layer, "attention") else layer.self_attn
                diagonals.append(attention.output[1].diagonal(dim1=-2, dim2=-1))
        return torch.stack(list(diagonals))

    return run


def transformer_lens(
    model: nn.Module, inputs: dict[str, Tensor], read: Callable[[Tensor], Tensor] = lambda pattern: pattern.diagonal(0, -2, -1).clone()
) -> Run:
    """A hook on each attention pattern. Its adapters know whole language models, so it also pays for a head of 1000 tokens."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge

    is_bert = model.config.model_type == "bert"
    model_class = transformers.BertForMaskedLM if is_bert else transformers.LlamaForCausalLM
    model.config.architectures = [model_class.__name__]
    headed = model_class(model.config).eval()
    headed.base_model.load_state_dict(model.state_dict(), strict=False)  # without the pooler
    tokens = Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>"))
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, name_or_path="local", add_bos_token=True, **special)
    bridge = TransformerBridge.boot_transformers("local", hf_model=headed, device="cpu", tokenizer=tokenizer)
    patterns = [name for name in bridge.hook_dict if name.endswith("attn.hook_pattern")]

    def run() -> Tensor:
        found: list[Tensor] = []
        hooks = [(name, lambda pattern, hook: found.append(read(pattern))) for name in patterns]
        bridge.run_with_hooks(inputs["input_ids"], return_type=None, fwd_hooks=hooks)
        return torch.stack(found)

    return run


PROVIDERS: dict[str, tuple[Callable[[nn.Module, dict[str, Tensor]], Run], str]] = {
    "plain": (plain, "sdpa"),
    "attviz": (captured, "sdpa"),
    "output_attentions": (eager, "eager"),
    "nnsight": (nnsight, "eager"),
    "transformer_lens": (transformer_lens, "eager"),
}


def available(provider: str) -> bool:
    """Whether the tool behind a provider is installed."""
    return provider not in ("nnsight", "transformer_lens") or importlib.util.find_spec(provider) is not None


def build(case: Case, provider: str) -> Run:
    """A callable that runs one forward of the case the provider's way."""
    make, implementation = PROVIDERS[provider]
    return make(case.model(implementation), case.inputs())


def truth(case: Case) -> Any:
    """Diagonals from the eager weights; None where they do not fit into memory."""
    return build(case, "output_attentions")() if case.dense else None
