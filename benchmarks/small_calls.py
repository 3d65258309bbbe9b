"""Processor time of one small attention call in a capture: tiny models, where nothing hides it.

    python -m benchmarks.small_calls                 a table: microseconds an attention, milliseconds for a context
    python -m benchmarks.small_calls --case bert     one of its rows

The time is that of the thread (``time.thread_time``), so others on the machine hardly disturb it. Blocks of forwards alternate, plain
and inside an open context that has seen the model before; reported is the median of the differences, divided by the attention calls of a
forward, with its 20 % and 80 % quantiles. ``context`` is entering, one forward and leaving, less the plain forward, of a model that was
captured before. The answers are compared with the eager weights first: a fast wrong number is no result.

``attention alone`` is 12 calls and nothing in between. The others cost more for the same lines of ours: what a layer of the model does
between two calls pushes them out of the processor's caches.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attviz

LAYERS, BLOCK, PAIRS = 12, 25, 30


class Case(NamedTuple):
    """A model, what its forward is given, and the mode it runs in."""

    family: str
    masked: bool = False
    mode: Callable[[], AbstractContextManager[object]] = torch.no_grad
    past: int = 0


CASES = {
    "attention alone": Case("alone"),
    "bert": Case("bert"),
    "bert, padding mask": Case("bert", masked=True),
    "bert, inference mode": Case("bert", mode=torch.inference_mode),
    "bert, with gradients": Case("bert", mode=torch.enable_grad),
    "gpt2": Case("gpt2"),
    "llama": Case("llama"),
    "llama, decode step": Case("llama", past=16),
    "gpt2, decode step": Case("gpt2", past=16),
}


class Attention(nn.Module):
    """One call, without projections."""

    def forward(self, tokens: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class Alone(nn.Module):
    """Attention and nothing else, 12 layers x 4 heads x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(99, 32)
        self.layers = nn.ModuleList(Attention() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, output_attentions: bool = False) -> SimpleNamespace:
        tokens, weights = self.embedding(input_ids).unflatten(-1, (4, 8)).transpose(1, 2), []
        for layer in self.layers:
            if output_attentions:
                weights.append((tokens @ tokens.mT * 8**-0.5).softmax(-1))
            tokens = layer(tokens)
        return SimpleNamespace(last_hidden_state=tokens, attentions=weights)


def made(case: Case, implementation: str = "sdpa") -> nn.Module:
    """The model of a case, 12 layers x 4 heads x 8."""
    import transformers

    torch.manual_seed(0)
    if case.family == "alone":
        return Alone().eval()
    size = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "attn_implementation": implementation}
    if case.family == "bert":
        config = transformers.BertConfig(**size, intermediate_size=48, vocab_size=99)
        return transformers.BertModel(config, add_pooling_layer=False).eval()
    if case.family == "gpt2":
        return transformers.GPT2Model(
            transformers.GPT2Config(n_embd=32, n_layer=LAYERS, n_head=4, vocab_size=99, attn_implementation=implementation)
        ).eval()
    config = transformers.LlamaConfig(**size, intermediate_size=48, vocab_size=99, num_key_value_heads=2)
    return transformers.LlamaModel(config).eval()


def forward(model: nn.Module, case: Case, padded: bool = False, **options: Any) -> Callable[[], Any]:
    """One forward: 8 tokens, or one token behind a cache, which is cut off it again; ``padded``: the last one is padding."""
    torch.manual_seed(1)
    ids = torch.randint(0, 99, (1, case.past + 1 if case.past else 8)).to(next(model.parameters()).device)
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids)} if case.masked else {}
    if padded:
        given["attention_mask"][:, -1] = 0
    if not case.past:
        return lambda: model(input_ids=ids, **given, **options)
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # up to transformers 5.23
    options |= {named: cache, "use_cache": True}
    model(input_ids=ids[:, :-1], **options)

    def step() -> Any:
        output = model(input_ids=ids[:, -1:], **options)
        cache.crop(-1)
        return output

    return step


def check(model: nn.Module, case: Case) -> None:
    """The diagonals are those of the eager weights."""
    eager = made(case, "eager")
    eager.load_state_dict(model.state_dict())
    weights = forward(eager, case, output_attentions=True)().attentions
    expected = torch.stack([layer.diagonal(layer.shape[-1] - layer.shape[-2], dim1=-2, dim2=-1) for layer in weights])
    run = forward(model, case)
    with attviz.capture(model) as cap:
        run()
        run()
    torch.testing.assert_close(cap.diagonal, expected, rtol=0, atol=1e-5)


def seconds(run: Callable[[], object], times: int) -> float:
    """Of the thread, for one run."""
    begin = time.thread_time()
    for _ in range(times):
        run()
    return (time.thread_time() - begin) / times


def measure(case: Case, pairs: int) -> tuple[list[float], float, float]:
    """Microseconds an attention in each pair, milliseconds of a context, milliseconds of the plain forward."""
    model = made(case)
    with case.mode():
        check(model, case)
        run = forward(model, case)

        def inside() -> float:
            with attviz.capture(model):
                run()
                return seconds(run, BLOCK)

        def context() -> None:
            with attviz.capture(model):
                run()

        seconds(run, BLOCK)
        extra, plain, contexts = [], [], []
        for pair in range(pairs):
            without, within = (seconds(run, BLOCK), inside()) if pair % 2 else (inside(), seconds(run, BLOCK))[::-1]
            extra.append((within - without) / LAYERS * 1e6)
            plain.append(without)
            contexts.append(seconds(context, 5) - without)
    return sorted(extra), statistics.median(contexts) * 1e3, statistics.median(plain) * 1e3


def main(argv: list[str] | None = None) -> int:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{'case':24}{'us an attention':>16}{'p20':>7}{'p80':>7}{'context ms':>12}{'plain ms':>10}")
    for name, case in CASES.items():
        if args.case in (None, name):
            extra, context, plain = measure(case, args.pairs)
            low, middle, high = extra[len(extra) // 5], statistics.median(extra), extra[-1 - len(extra) // 5]
            print(f"{name:24}{middle:16.1f}{low:7.1f}{high:7.1f}{context:12.2f}{plain:10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
