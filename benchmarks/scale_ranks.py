"""Texts a second on one process and on many, and where the time goes: reading, tokens, model, capture, writing, claims.

    python -m benchmarks.scale_ranks [--texts 2048] [--simulated 64 1024] [--model FOLDER]

One and two ranks are real processes over one data set. Of 64 and of 1024 ranks one is run, with a data set of as many windows: it reads
all texts, as every rank does, and takes one window, so its time is what the slowest of equal ranks would need. Without ``--model`` it is a
small BERT of four layers: a large model makes every other share smaller.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.environment import environment

BATCH = 2  # texts that run together: a window is 64 of these
WORDS = "the old bridge over river bank was closed open late so in town by storm".split()


def corpus(folder: Path, count: int) -> Path:
    """JSON lines of texts of 8 to 60 words."""
    dice, path = random.Random(0), folder / f"{count}.jsonl"
    with path.open("w") as file:
        for _ in range(count):
            file.write(json.dumps({"text": " ".join(dice.choices(WORDS, k=dice.randint(8, 60)))}) + "\n")
    return path


def small_model() -> tuple[Any, Any]:
    """A BERT of four layers of eight heads, and a tokenizer of these words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    torch.set_num_threads(1)
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1024}
    return BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).eval(), tokenizer


@contextmanager
def timed(seconds: Counter[str]) -> Iterator[None]:
    """Where the time goes inside: seconds by kind of work."""
    from attviz.analysis import encoding
    from attviz.io.claims import Claims
    from attviz.io.partial import PartialArchive

    places = [(encoding, "_tokenized", "tokens"), (PartialArchive, "append", "writing"), (PartialArchive, "note", "writing")]
    places += [
        (PartialArchive, "finish", "writing"),
        (Claims, "take", "claims"),
        (Claims, "done", "claims"),
        (Claims, "__init__", "claims"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, kind in places:
        setattr(owner, name, _counted(getattr(owner, name), seconds, kind))
    try:
        yield
    finally:
        for owner, name, real in before:
            setattr(owner, name, real)


def _counted(work: Callable[..., Any], seconds: Counter[str], kind: str) -> Callable[..., Any]:
    @wraps(work)
    def counted(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            seconds[kind] += time.perf_counter() - started  # type: ignore[assignment]

    return counted


def read(path: Path, seconds: Counter[str]) -> Iterator[str]:
    """The texts as a stream; the time that reading takes is counted."""
    from attviz.analysis.streaming import stream_texts

    texts = stream_texts(path, Counter())
    while True:
        started = time.perf_counter()
        text = next(texts, None)
        seconds["reading"] += time.perf_counter() - started  # type: ignore[assignment]
        if text is None:
            return
        yield text


def one_rank(data: Path, output: Path, share: Any, model: Any, tokenizer: Any) -> dict[str, float]:
    """Run one process over its share; seconds by kind of work, ``rest`` being what no kind accounts for."""
    import attviz

    seconds: Counter[str] = Counter()
    handles = _hooks(model, seconds)
    started = time.perf_counter()
    with timed(seconds):
        attviz.analyze(model, tokenizer, read(data, seconds), archive=output, shard=share, batch_size=BATCH, progress=False)
    total = time.perf_counter() - started
    for handle in handles:
        handle.remove()
    return {"seconds": total, **seconds, "rest": total - sum(seconds.values())}


def _hooks(model: Any, seconds: Counter[str]) -> list[Any]:
    """The forward, with what a capture adds to it."""
    begun: list[float] = []

    def end(*_: Any) -> None:
        seconds["model and capture"] += time.perf_counter() - begun.pop()  # type: ignore[assignment]

    return [model.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())), model.register_forward_hook(end)]


def plain_seconds(data: Path, model: Any, tokenizer: Any) -> float:
    """The same batches without a capture."""
    import torch

    from attviz.analysis.encoding import WINDOW, Cutting, batches, encoded_windows, padded
    from attviz.analysis.sources import sources_of

    sources = sources_of(read(data, Counter()), None, None, None)
    windows = encoded_windows(sources, tokenizer, Cutting(64), size=BATCH * WINDOW)
    spent = 0.0
    with torch.no_grad():
        for batch in batches(windows, BATCH, pad=True):
            inputs = padded(batch, tokenizer, torch.device("cpu"))
            started = time.perf_counter()
            model(**inputs)
            spent += time.perf_counter() - started
    return spent


def _child(data: Path, output: Path, results: Any) -> None:
    results.put(one_rank(data, output, "any", *small_model()))


def two_ranks(data: Path, output: Path) -> float:
    """Wall seconds of two processes, from when both have loaded the model: the longer of the two."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    team = [context.Process(target=_child, args=(data, output, results)) for _ in range(2)]
    for process in team:
        process.start()
    found = [results.get() for _ in team]
    for process in team:
        process.join()
    return max(result["seconds"] for result in found)


def measure(folder: Path, texts: int, simulated: list[int], loaded: tuple[Any, Any] | None = None) -> list[dict[str, Any]]:
    """A row for each number of ranks."""
    from attviz import io
    from attviz.analysis.encoding import WINDOW

    model, tokenizer = loaded or small_model()
    data = corpus(folder, texts)
    one_rank(corpus(folder, 2 * BATCH), folder / "warm", "any", model, tokenizer)
    found = one_rank(data, folder / "one", "any", model, tokenizer)
    plain = plain_seconds(data, model, tokenizer)
    found["model"], found["capture"] = plain, found.pop("model and capture") - plain
    size = io.merge(folder / "one").stat().st_size
    tokens = io.load(folder / "one").documents.file.tensors["diagonal"].shape[0]  # type: ignore[attr-defined]
    rows = [{"ranks": 1, "texts": texts, "texts_a_second": texts / found["seconds"], "bytes_a_token": size / tokens, **_shares(found)}]
    if loaded is None:
        rows.append({"ranks": 2, "texts": texts, "texts_a_second": texts / two_ranks(data, folder / "two")})
    for ranks in simulated:
        count = ranks * BATCH * WINDOW
        found = one_rank(corpus(folder, count), folder / f"of-{ranks}", (0, ranks), model, tokenizer)
        rows.append({"ranks": ranks, "simulated": True, "texts": count, "texts_a_second": count / found["seconds"], **_shares(found)})
    return [row | environment() for row in rows]


def _shares(found: dict[str, float]) -> dict[str, float]:
    return {f"share_{name.replace(' ', '_')}": value / found["seconds"] for name, value in found.items() if name != "seconds"}


def main() -> int:
    """Measure and print as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--simulated", type=int, nargs="*", default=[64, 1024])
    parser.add_argument("--model", help="a hub id or a folder, in place of the small one")
    args = parser.parse_args()
    loaded = None
    if args.model:
        from attviz.analysis.models import load_model

        loaded = load_model(args.model)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), args.texts, args.simulated, loaded):
            print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
