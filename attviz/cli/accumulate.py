"""``attviz analyze --statistics``: metrics over a corpus that is read as a stream; no archive, and neither memory nor disk grow."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from attviz.cli.ranks import is_first, under_torchrun, wait_for_all

DEFAULT = "heads,vocabulary"


def run_statistics(
    args: argparse.Namespace, model: Any, tokenizer: Any, share: tuple[int, int] | str | None, options: dict[str, Any]
) -> dict[str, object] | None:
    """Run, and join the results of all processes if this one reports for them.

    Returns:
        What to report; None if another process reports.

    Raises:
        ArgumentError: If there is no such metric, or an option needs an archive.
    """
    from attviz.analysis.statistics import accumulate, join_statistics
    from attviz.analysis.streaming import stream_texts

    metrics = _metrics(args.statistics)
    oddities: Counter[str] = Counter()
    texts = stream_texts(args.data, oddities, text_column=args.text_column, encoding=args.encoding, format=args.format)
    found = accumulate(model, tokenizer, islice(texts, args.limit), metrics, args.output, overwrite=args.overwrite, shard=share, **options)
    if share is not None and under_torchrun():
        wait_for_all()
        if not is_first():
            return None
        found = join_statistics(args.output, overwrite=args.overwrite, remove=True)
    if found is None:
        return {"output": str(args.output), "shard": share if isinstance(share, str) else "{}/{}".format(*(share or ()))}
    counts = json.loads(found.settings["data"])
    return {"output": str(args.output), "bytes": _bytes(args.output), "model": found.model_name, **counts, "odd_rows": dict(oddities)}


def _bytes(output: Path) -> int:
    files = [output, *output.parent.glob(f"{output.name}.*.safetensors")]
    return sum(file.stat().st_size for file in files)


def _metrics(names: str) -> list[Any]:
    from attviz import metrics
    from attviz.errors import ArgumentError

    known = {
        "heads": metrics.HeadStatistics,
        "vocabulary": metrics.VocabularyStatistics,
        "health": lambda: metrics.AttentionHealth(on_alarm="ignore"),
    }
    strangers = [name for name in names.split(",") if name not in known]
    if strangers:
        raise ArgumentError(f"--statistics takes {', '.join(known)}, separated by commas; got {', '.join(map(repr, strangers))}.")
    return [known[name]() for name in names.split(",")]
