"""One process of tests/integrations/test_parallel.py, started by torchrun: tensor parallelism and FSDP2 on two gloo ranks."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import LlamaForCausalLM

import attviz
from attviz import readings
from attviz.errors import CaptureError
from attviz.metrics import HeadStatistics
from tests.integrations.distributed_worker import IDS, make_model

warnings.filterwarnings("ignore")
READ = (readings.Offset(-1), readings.RowEntropy())


def whole():
    with attviz.capture(make_model(), read=READ) as cap, torch.no_grad():
        cap._model(input_ids=IDS)
    return cap


def by_hand(model):
    """Column-wise projections, as everybody writes them."""
    for layer in model.model.layers:
        names = {f"{name}_proj": ColwiseParallel() for name in "qkv"} | {"o_proj": RowwiseParallel()}
        parallelize_module(layer.self_attn, MESH, names)
    return model


def of_transformers(model):
    """The model's own plan."""
    model.save_pretrained(sys.argv[1])  # rank 0 writes
    dist.barrier()
    return LlamaForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", use_cache=False)


def tensor_parallel(make, expected):
    rank, model = dist.get_rank(), make(make_model())
    with attviz.capture(model, read=READ) as cap, torch.no_grad():
        model(input_ids=IDS)
    assert cap.diagonal.shape[2] == 2, cap.diagonal.shape
    for record, all_heads in zip(cap.records, expected.records, strict=True):
        assert record.heads == (2 * rank, 4), record.heads
        assert f"heads {2 * rank} to {2 * rank + 1} of 4 are here" in record.evidence
        torch.testing.assert_close(record.diagonal, all_heads.diagonal[:, 2 * rank : 2 * rank + 2])
    with attviz.capture(model, read=READ, gather=True, metrics=[heads := HeadStatistics()]) as cap, torch.no_grad():
        model(input_ids=IDS)
    torch.testing.assert_close(cap.diagonal, expected.diagonal)
    for name in ("offset(-1)", "row_entropy"):
        torch.testing.assert_close(cap.reading(name), expected.reading(name), equal_nan=True)
    assert all(record.heads is None for record in cap.records)
    table = heads.compute_local()
    assert table.mean.shape == (2, 4)
    torch.testing.assert_close(table.mean.float(), expected.diagonal.mean((1, 3)), rtol=1e-4, atol=1e-6)
    with pytest.raises(CaptureError, match="Pass gather=True"), attviz.capture(model, metrics=[HeadStatistics()]), torch.no_grad():
        model(input_ids=IDS)


def fsdp2(expected):
    """All heads are on each rank; there is nothing to join, and gather=True changes nothing."""
    model = make_model()
    for layer in model.model.layers:
        fully_shard(layer, mesh=MESH)
    fully_shard(model, mesh=MESH)
    for gather in (False, True):
        with attviz.capture(model, gather=gather) as cap, torch.no_grad():
            model(input_ids=IDS)
        assert all(record.heads is None for record in cap.records)
        torch.testing.assert_close(cap.diagonal, expected.diagonal)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    MESH = init_device_mesh("cpu", (2,))
    truth = whole()
    tensor_parallel(by_hand, truth)
    print("by hand done", flush=True)
    fsdp2(truth)
    print("fsdp2 done", flush=True)
    tensor_parallel(of_transformers, truth)
    print("transformers done", flush=True)
