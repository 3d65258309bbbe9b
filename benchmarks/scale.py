"""How an archive behaves at the size of a corpus: opening it, reading one document, merging its shards; time and memory.

    python -m benchmarks.scale [--documents 10000000] [--shards 8]

The archives are synthetic: documents of four tokens, two layers of two heads, written column by column. Opening and reading must not
grow with the number of documents; merging takes three numbers a document.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from attviz import io
from attviz.files import replacing
from attviz.io.shard_names import PIECES
from attviz.io.stream import StreamedTensor, write_safetensors

TOKENS, LAYERS, HEADS = 4, 2, 2
WINDOW_TEXTS = 1024
_CHUNK = 1 << 16  # documents that are made at a time


def write_shard(path: Path, numbers: np.ndarray, windows: Sequence[int], documents: int) -> None:
    """A shard of documents with these numbers; details are of one length, so that columns can be made at once."""
    count, tokens = len(numbers), len(numbers) * TOKENS
    details = [_details(int(number)) for number in numbers[:1]]
    length = len(details[0])

    def chunks(make: object) -> Iterator[bytes]:
        for start in range(0, count, _CHUNK):
            yield make(numbers[start : start + _CHUNK])  # type: ignore[operator]

    def values(part: np.ndarray) -> bytes:
        return np.repeat((part % 1000 / 1000).astype("<f2"), TOKENS * LAYERS * HEADS).tobytes()

    starts = np.array(windows, "<i8") * WINDOW_TEXTS
    share, data = {"window_texts": WINDOW_TEXTS}, {"texts": documents}
    settings = {"precision": "float16", "shard": "0", "share": json.dumps(share), "data": json.dumps(data)}
    tensors = [
        StreamedTensor("window_start", "I64", (len(windows),), iter([np.searchsorted(numbers, starts).astype("<i8").tobytes()])),
        StreamedTensor("windows", "I64", (len(windows),), iter([np.array(windows, "<i8").tobytes()])),
        StreamedTensor("numbers", "I64", (count,), iter([(numbers * PIECES).astype("<i8").tobytes()])),
        StreamedTensor("token_start", "I64", (count + 1,), iter([(np.arange(count + 1, dtype="<i8") * TOKENS).tobytes()])),
        StreamedTensor("detail_start", "I64", (count + 1,), iter([(np.arange(count + 1, dtype="<i8") * length).tobytes()])),
        StreamedTensor("token_ids", "I64", (tokens,), chunks(lambda part: np.repeat(part, TOKENS).astype("<i8").tobytes())),
        StreamedTensor("offsets", "I64", (tokens, 2), chunks(lambda part: np.full(2 * TOKENS * len(part), -1, "<i8").tobytes())),
        StreamedTensor("diagonal", "F16", (tokens, LAYERS, HEADS), chunks(values)),
        StreamedTensor("special", "U8", (tokens,), chunks(lambda part: bytes(TOKENS * len(part)))),
        StreamedTensor("details", "U8", (count * length,), chunks(lambda part: b"".join(_details(int(number)) for number in part))),
    ]
    metadata = {"format": "attviz", "version": "2", "layers": '["a", "b"]', "label_names": "null", "model_name": '"synthetic"'}
    with replacing(path) as file:
        write_safetensors(file, tensors, metadata | {"settings": json.dumps(settings)})


def _details(number: int) -> bytes:
    return b'{"text": "%012d", "tokens": ["a", "b", "c", "d"], "name": ""}' % number


def _median(work: object, times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()  # type: ignore[operator]
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: Path, documents: int, shards: int, *, merge: bool = True) -> dict[str, float]:
    """Write the shards; open, read, merge."""
    path = folder / "run.attviz"
    for index in range(shards):
        windows = np.arange(index, -(-documents // WINDOW_TEXTS), shards, dtype=np.int64)
        numbers = (windows[:, None] * WINDOW_TEXTS + np.arange(WINDOW_TEXTS)).ravel()
        write_shard(io.shard_path(path, f"{index:05d}"), numbers[numbers < documents], windows.tolist(), documents)
    one = io.shard_path(path, "00000")
    result: dict[str, float] = {"documents": documents, "shards": shards, "bytes": sum(entry.stat().st_size for entry in folder.iterdir())}
    result["bytes_a_token"] = result["bytes"] / documents / TOKENS
    before = _peak()
    result["open_one_shard_s"] = _median(lambda: io.load(one))
    result["open_all_shards_s"] = _median(lambda: io.load(path), times=1)
    result["open_extra_bytes"] = _peak() - before
    opened, started = io.load(path), time.perf_counter()
    assert opened.documents[0].text == f"{0:012d}"
    result["first_at_random_s"] = time.perf_counter() - started
    places = np.random.default_rng(0).integers(0, documents, 200).tolist()
    result["read_one_document_s"] = _median(lambda: [opened.documents[place] for place in places], times=3) / len(places)
    assert [opened.documents[place].text for place in places[:20]] == [f"{place:012d}" for place in places[:20]]
    if merge:
        before, started = _peak(), time.perf_counter()
        io.merge(path)
        result |= {"merge_s": time.perf_counter() - started, "merge_extra_bytes": _peak() - before}
        merged = io.load(path)
        assert len(merged.documents) == documents
        assert merged.documents[documents - 1].text == f"{documents - 1:012d}"
        result["open_merged_s"] = _median(lambda: io.load(path))
    return result


def main() -> int:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--no-merge", action="store_true", help="only open and read")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), args.documents, args.shards, merge=not args.no_merge), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
