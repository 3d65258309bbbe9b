"""Hand-made streams of records, and statistics of them in two passes of float64: what the streaming metrics are held against."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attviz.records import DiagonalRecord


def make_record(layer_index, step=0, *, batch=2, num_heads=3, q_len=5, vocab=11, padding=0, name="layer", seed=None):
    """A record of random probabilities with ``padding`` NaN tokens at the end of the last text."""
    generator = torch.Generator().manual_seed(1000 * step + layer_index if seed is None else seed)
    diagonal = torch.rand(batch, num_heads, q_len, generator=generator)
    token_ids = torch.randint(0, vocab, (batch, q_len), generator=torch.Generator().manual_seed(step))
    query_mask = torch.ones(batch, q_len, dtype=torch.bool)
    if padding:
        query_mask[-1, -padding:] = False
        diagonal[-1, :, -padding:] = torch.nan
    return DiagonalRecord(f"{name}.{layer_index}", layer_index, step, diagonal, token_ids, query_mask, "test")


def make_stream(steps=4, num_layers=2, **options):
    return [make_record(index, step, padding=step % 3, **options) for step in range(steps) for index in range(num_layers)]


def values_of(records, layer_index=None, head=None, token=None):
    """Every counted value of the stream in float64, narrowed to a layer, head or vocabulary id."""
    found = []
    for record in records:
        if layer_index not in (None, record.layer_index):
            continue
        heads = range(record.diagonal.shape[1]) if head is None else [head]
        wanted = record.query_mask if token is None else record.query_mask & (record.token_ids == token)
        found += [record.diagonal[:, h][wanted].double() for h in heads]
    return torch.cat(found).numpy() if found else np.array([])


def assert_statistics(values, count, mean, std, highest, lowest):
    """Hold streamed numbers against ``values`` in two passes: 1e-12 in the mean, 1e-9 in the std, everything else exactly."""
    assert int(count) == len(values)
    if len(values) == 0:
        assert np.isnan([float(mean), float(std), float(highest), float(lowest)]).all()
        return
    np.testing.assert_allclose(float(mean), values.mean(), rtol=1e-12)
    np.testing.assert_allclose(float(std), values.std(ddof=1) if len(values) > 1 else np.nan, rtol=1e-9, atol=1e-15)
    assert float(highest) == values.max()
    assert float(lowest) == values.min()


@pytest.fixture(scope="session")
def streams():
    """The functions above, for the tests of this folder."""
    return SimpleNamespace(
        make_record=make_record, make_stream=make_stream, values_of=values_of, assert_statistics=assert_statistics, feed=feed
    )


def feed(metric, records):
    """Feed a metric record by record and give it back."""
    for record in records:
        metric.update(record)
    return metric
