"""One process of tests/integrations/test_distributed.py, started by torchrun: every scenario asserts on both ranks."""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from attviz.integrations import AttentionCallback, AttentionMonitor, LightningAttentionCallback
from attviz.metrics import HeadStatistics

warnings.filterwarnings("ignore")
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 32,
}
IDS = torch.randint(1, 32, (8, 10), generator=torch.Generator().manual_seed(0))


def make_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, use_cache=False))


def batch(rows):
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows}


def expected():
    """What one process reads that sees the texts of both."""
    monitor = AttentionMonitor(every=1, per="model")
    model = make_model()
    with monitor.watch(model, 0):
        model(**batch(IDS[:4]))
    return monitor.values


def agrees(values, wanted, what):
    assert set(values) == set(wanted), (what, values)
    for name, value in wanted.items():
        assert abs(values[name] - value) < 1e-5, (what, name, values[name], value)


def watched(model, wanted, what):
    """One step in a plain loop: each rank has half of the texts, and reads the statistics of all."""
    monitor, rank = AttentionMonitor(every=2, per="model", metrics=[counted := HeadStatistics()]), dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        with monitor.watch(model, step):
            model(**batch(IDS[2 * rank : 2 * rank + 2])).loss.backward()
        if step == 0:
            agrees(monitor.values, wanted, what)
        optimizer.step()
        optimizer.zero_grad()
    assert monitor.values == {}
    assert int(counted.compute().count[0, 0]) == 4 * 10, what
    assert not any(module._forward_hooks for module in make_model().modules())


def ddp(wanted, folder):
    watched(nn.parallel.DistributedDataParallel(make_model()), wanted, "DDP")


def fsdp2(wanted, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = make_model(), init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    watched(model, wanted, "FSDP2")


def an_empty_rank(wanted, folder):
    """Only rank 0 has a batch in this step: both read what it saw."""
    monitor, model = AttentionMonitor(every=1, per="model"), make_model()
    monitor.begin(model, 0)
    if dist.get_rank() == 0:
        model(**batch(IDS[:4]))
    monitor.end()
    agrees(monitor.values, wanted, "a rank without a batch")


def trainer(wanted, folder):
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    callback = AttentionCallback(every=1, per="model", metrics=(counted := HeadStatistics()))
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), use_cpu=True, ddp_backend="gloo", learning_rate=0.0, **options)
    data = [{name: value[0] for name, value in batch(row[None]).items()} for row in IDS]
    run = InOrder(model=make_model(), args=arguments, train_dataset=data, callbacks=[callback])
    run.train()
    assert isinstance(run.model_wrapped, nn.parallel.DistributedDataParallel)
    rows = [entry for entry in run.state.log_history if "attviz/row_entropy" in entry]
    assert [entry["step"] for entry in rows] == ([1, 2] if dist.get_rank() == 0 else [])  # the first process logs for all
    if rows:
        agrees({name: value for name, value in rows[0].items() if name != "step"}, wanted, "Trainer")
    assert int(counted.compute().count[0, 0]) == 8 * 10


def lightning(wanted, folder):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def training_step(self, inputs, _):
            return self.model(**inputs).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    seen = []
    callback = LightningAttentionCallback(every=1, per="model", log=lambda values, step: seen.append((step, values)))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    run = pl.Trainer(
        max_steps=2, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], use_distributed_sampler=False, **quiet
    )
    rank = dist.get_rank()
    loader = torch.utils.data.DataLoader([batch(IDS[2 * rank : 2 * rank + 2]), batch(IDS[4 + 2 * rank : 6 + 2 * rank])], batch_size=None)
    run.fit(Module(), loader)
    assert [step for step, _ in seen] == ([0, 1] if rank == 0 else [])
    both = [None, None]
    dist.all_gather_object(both, callback.monitor.values)
    assert both[0] == both[1]
    if seen:
        agrees(seen[0][1], wanted, "Lightning")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    truth = expected()
    for scenario in (ddp, fsdp2, an_empty_rank, trainer, lightning):
        scenario(truth, Path(sys.argv[1]))
        sys.stdout.write(f"{scenario.__name__} done\n")
        sys.stdout.flush()
    if dist.is_initialized():
        dist.destroy_process_group()
    # A thread of gloo lets go of the last gathered tensor when it likes: with torch 2.15, an interpreter that is unloading by then aborts.
    os._exit(0)
