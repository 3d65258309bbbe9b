"""A local Ray of two workers, started by tests/integrations/test_ray.py in a process of its own.

python -m tests.integrations.ray_worker MODEL --statistics      StatisticsStage as well
"""

import sys
import warnings

import numpy as np
import ray
import torch

from attviz import metrics
from attviz.analysis import analyze
from attviz.analysis.models import load_model
from attviz.integrations.ray import DiagonalStage, StatisticsStage, pool_states

warnings.filterwarnings("ignore")


def heads():
    return [metrics.HeadStatistics(), metrics.VocabularyStatistics(by="model")]


def main(folder):
    texts = [" ".join(["the", "old", "bridge"][: n % 4] + ["river"] * (n % 3)) or "storms" for n in range(24)]
    model, tokenizer = load_model(folder)
    seen = heads()
    expected = analyze(model, tokenizer, texts, metrics=seen, progress=False).documents
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items([{"text": text, "n": n} for n, text in enumerate(texts)]).repartition(6)
    pool = {"batch_size": 4, "compute": ray.data.ActorPoolStrategy(size=2), "fn_constructor_args": (folder,)}
    stage = {"fn_constructor_kwargs": {"columns": ("tokens", "diagonal", "mean", "head_mean")}}
    rows = sorted(data.map_batches(DiagonalStage, **pool, **stage).take_all(), key=lambda row: row["n"])
    assert [row["text"] for row in rows] == texts
    for row, document in zip(rows, expected, strict=True):
        assert tuple(row["attviz_tokens"]) == document.tokens
        shown = np.asarray(row["attviz_diagonal"])
        assert shown.shape == document.diagonal.shape
        np.testing.assert_allclose(shown, document.diagonal, atol=1e-3)  # batches of other lengths
        np.testing.assert_allclose(np.asarray(row["attviz_mean"]), document.diagonal.astype(np.float32).mean((0, 1)), atol=1e-3)
    if "--statistics" not in sys.argv:  # another two workers import everything again
        return
    states = data.map_batches(StatisticsStage, **pool, fn_constructor_kwargs={"metrics": heads})
    pooled = pool_states(states.iter_rows(), heads())
    for one, other in zip(pooled, seen, strict=True):
        assert torch.equal(one.compute().count, other.compute().count)
        torch.testing.assert_close(one.compute().mean, other.compute().mean, rtol=1e-5, atol=1e-7, equal_nan=True)


if __name__ == "__main__":
    main(sys.argv[1])
    ray.shutdown()
    print("ray done")
