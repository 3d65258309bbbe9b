"""LightningAttentionCallback in a real Lightning Trainer, with TensorBoard and a CSV logger."""

import csv
import signal
import warnings

import pytest
import torch

from attviz.errors import AttentionAlarmError, MissingExtraError
from attviz.metrics import AttentionHealth, HeadStatistics


@pytest.fixture
def fit(tiny_model, tiny_data, tmp_path):
    """Train four batches; warnings of Lightning about itself are none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl
        from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = tiny_model

            def training_step(self, batch, _):
                loss = self.model(**batch).loss
                if not torch.compiler.is_compiling():  # Lightning's own log() cannot be traced
                    self.log("loss", loss)
                return loss

            def validation_step(self, batch, _):
                self.model(**batch)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        def run(*callbacks, compiled=False, **options):
            trainer = pl.Trainer(
                **options,
                max_steps=4,
                accelerator="cpu",
                logger=[TensorBoardLogger(tmp_path), CSVLogger(tmp_path)],
                callbacks=list(callbacks),
                log_every_n_steps=1,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                val_check_interval=2,
            )
            loader = torch.utils.data.DataLoader(tiny_data, batch_size=2)
            module = Module()
            trainer.fit(torch.compile(module, backend="aot_eager_decomp_partition") if compiled else module, loader, loader)
            return trainer

        yield run


def test_numbers_go_to_every_logger_and_to_the_callback_metrics(fit, tmp_path, tiny_model):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from attviz.integrations import LightningAttentionCallback

    logged = []
    callback = LightningAttentionCallback(every=2, per="model", log=lambda values, step: logged.append((step, values)))
    trainer = fit(callback)
    assert len(logged) == 2
    assert float(trainer.callback_metrics["attviz/row_entropy"]) == pytest.approx(logged[-1][1]["attviz/row_entropy"])
    found = EventAccumulator(trainer.loggers[0].log_dir)
    found.Reload()
    assert [event.value for event in found.Scalars("attviz/diagonal")] == pytest.approx([v["attviz/diagonal"] for _, v in logged])
    assert "attviz_heads/row_entropy" in found.Tags()["histograms"]
    with open(f"{trainer.loggers[1].log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("attviz/diagonal")]
    assert len(rows) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())


def rows(trainer, column):
    with open(f"{trainer.loggers[1].log_dir}/metrics.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get(column)]


def test_rows_stand_at_the_steps_of_the_losses_and_hold_every_micro_batch(fit):
    from attviz.integrations import LightningAttentionCallback

    counted = HeadStatistics()
    trainer = fit(LightningAttentionCallback(every=2, per="model", metrics=counted), accumulate_grad_batches=3)
    assert rows(trainer, "attviz/diagonal") == [1, 3]
    assert set(rows(trainer, "attviz/diagonal")) <= set(rows(trainer, "loss"))
    # six batches an epoch: steps 2 and 4 are batches 4 to 6 of an epoch, and nothing of the validation in between
    assert counted.compute().count[0, 0] == 2 * (3 * 7 + 3 * 10)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module_with_dropout_is_captured(fit, tiny_model):
    from attviz.integrations import LightningAttentionCallback

    for layer in tiny_model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    trainer = fit(LightningAttentionCallback(every=2, per="model", strict=True), compiled=True)
    assert rows(trainer, "attviz/diagonal") == [1, 3]


def test_an_alarm_stops_the_run_if_so_chosen(fit, tiny_model):
    from attviz.integrations import LightningAttentionCallback

    with pytest.raises(AttentionAlarmError, match="entropy collapse"):
        fit(LightningAttentionCallback(every=1, health=AttentionHealth(min_entropy=50, on_alarm="raise")))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())


def test_without_lightning_the_message_is_the_command_that_installs_it(monkeypatch):
    import importlib
    import sys

    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "attviz.integrations.lightning_callback", raising=False)
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        importlib.import_module("attviz.integrations.lightning_callback")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_interrupted_run_leaves_nothing_on_the_model(fit, tiny_model, where, error):
    """Ctrl-C and a fault in the middle of a captured step; Lightning makes a SystemExit of the first."""
    from attviz.hooks.tap import hub
    from attviz.integrations import LightningAttentionCallback

    inner, pressed = tiny_model.model.layers[1].mlp, []

    def press(*_):
        if not pressed:
            pressed.append(where)
            raise error

    mine = inner.down_proj.register_forward_hook(press) if where == "forward" else inner.down_proj.weight.register_hook(press)
    callback = LightningAttentionCallback(every=1, per="model")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((error, SystemExit)):
        fit(callback)
    signal.signal(signal.SIGINT, handler)  # Lightning leaves its own
    mine.remove()
    assert pressed == [where]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, kind) for module in tiny_model.modules() for kind in kinds)
    assert hub.listeners == ()
    assert not callback.monitor.active
