"""What each reading costs beside the plain forward, in alternating pairs, after its answer was compared with eager weights.

``python -m benchmarks.readings [--length 512] [--pairs 5] [--layers 4]``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import attviz
from attviz import readings as r

READINGS: dict[str, tuple[r.Reading, Callable[[Tensor], Tensor]]] = {
    "own": (r.Own(), lambda a: a.diagonal(0, -2, -1)),
    "offset(-1)": (r.Offset(-1), lambda a: nn.functional.pad(a.diagonal(-1, -2, -1), (1, 0), value=torch.nan)),
    "rows(-1)": (r.Rows(-1), lambda a: a[..., -1:, :]),
    "keys(first=1)": (r.Keys(first=1), lambda a: a[..., 0]),
    "row_entropy": (r.RowEntropy(), lambda a: torch.special.entr(a).sum(-1)),
    "received": (r.Received(), lambda a: a.sum(-2)),
    "segments": (r.Segments(lambda tokens: tokens.key_ids % 2, 2, name="segments"), lambda a: a[..., :0].sum(-1)),
}


def seconds(model: nn.Module, ids: Tensor, read: list[r.Reading] | None) -> float:
    began = time.perf_counter()
    if read is None:
        model(ids)
    else:
        with attviz.capture(model, read=read):
            model(ids)
    return time.perf_counter() - began


def checked(name: str, model: nn.Module, ids: Tensor) -> None:
    """Raise unless the reading is that of the eager weights."""
    reading, truth = READINGS[name]
    with attviz.capture(model, read=reading) as cap:
        model(ids)
    model.set_attn_implementation("eager")
    weights = torch.stack(model(ids, output_attentions=True).attentions)
    model.set_attn_implementation("sdpa")
    if name == "segments":
        odd = (ids % 2 == 1)[None, :, None, None]
        torch.testing.assert_close(cap.reading(name)[..., 1], (weights * odd).sum(-1), rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(cap.reading(name), truth(weights), rtol=0, atol=1e-4, equal_nan=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    config = BertConfig(vocab_size=1000, num_hidden_layers=options.layers, max_position_embeddings=options.length)
    model, ids = BertModel(config, add_pooling_layer=False).eval(), torch.randint(0, 1000, (1, options.length))
    with torch.no_grad():
        for name in READINGS:
            checked(name, model, ids)
        print("capture / plain forward, medians of alternating pairs; the diagonal alone is the first row")
        for name, read in {"diagonal": [], **{name: [reading] for name, (reading, _) in READINGS.items()}}.items():
            pairs = [(seconds(model, ids, None), seconds(model, ids, read)) for _ in range(options.pairs)]
            print(f"{name:16} {statistics.median(with_it / plain for plain, with_it in pairs):.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
