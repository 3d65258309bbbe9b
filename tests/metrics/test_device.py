"""On a real device: nothing waits for it, and the numbers are those of the CPU. Run with ``pytest -m gpu``."""

from dataclasses import replace

import pytest
import torch

from attviz.calls import FusedCall
from attviz.metrics import AttentionHealth, HeadStatistics, TokenStatistics, VocabularyStatistics
from attviz.readings import Tokens
from attviz.records import DiagonalRecord

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]

MAKERS = {
    "tokens": TokenStatistics,
    "heads": lambda: HeadStatistics(exclude_ids=[1]),
    "words": lambda: VocabularyStatistics(11, by="head"),
    "health": AttentionHealth,
}


def on_device(record):
    return DiagonalRecord(
        record.layer, record.layer_index, record.step, *(t.cuda() for t in (record.diagonal, record.token_ids, record.query_mask))
    )


def feed(metric, record):
    if not isinstance(metric, AttentionHealth):
        metric.update(record)
        return
    batch, heads, length = record.diagonal.shape
    query = torch.randn(batch, heads, length, 16, generator=torch.Generator().manual_seed(0)).to(record.diagonal.device)
    call = FusedCall("op", query, query, scale=0.25)
    tokens = Tokens(real=record.query_mask, real_keys=record.query_mask)
    metric.update(replace(record, readings={reading.name: reading.read(call, tokens) for reading in metric.readings}))


@pytest.mark.parametrize("maker", MAKERS)
def test_update_never_waits_and_agrees_with_the_cpu(streams, maker):
    here, there = MAKERS[maker](), MAKERS[maker]()
    records = streams.make_stream(steps=3)
    moved = [on_device(record) for record in records]
    feed(there, moved[0])  # what is copied to the device once is copied now
    there.reset()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for record in moved:
            feed(there, record)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for record in records:
        feed(here, record)
    for left, right in zip(here.compute(), there.compute(), strict=True):
        if isinstance(left, torch.Tensor):
            torch.testing.assert_close(right.cpu(), left, rtol=1e-5, atol=1e-6, equal_nan=True)
