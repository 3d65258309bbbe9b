"""AttentionCallback in a real transformers Trainer, with TensorBoard and W&B (offline)."""

import warnings

import pytest
import torch

from attviz.errors import ArgumentError, AttentionAlarmError
from attviz.integrations import AttentionCallback
from attviz.metrics import AttentionHealth, HeadStatistics


def fit(model, data, callback, folder, report_to, kind=None, **options):
    from transformers import Trainer, TrainingArguments

    usual = {"max_steps": 6, "per_device_train_batch_size": 2, "logging_steps": 2, "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(folder), report_to=report_to, use_cpu=True, **(usual | options))
    trainer = (kind or Trainer)(model=model, args=arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[callback])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        trainer.train()
    return trainer


def events(folder):
    """Tags and values of all event files below, and the folders they lie in."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    assert len(folders) == 1, folders
    found = EventAccumulator(str(folders.pop()))
    found.Reload()
    return found


def test_numbers_and_heads_lie_beside_the_trainers_own_in_tensorboard(tiny_model, tiny_data, tmp_path):
    logged = []
    callback = AttentionCallback(every=2, log=lambda values, step: logged.append((step, values)), metrics=HeadStatistics())
    trainer = fit(tiny_model, tiny_data, callback, tmp_path, "tensorboard", eval_strategy="steps", eval_steps=3)
    found = events(tmp_path)
    assert "train/loss" in found.Tags()["scalars"]
    scalars = found.Scalars("attviz/row_entropy/layer_01")
    assert [event.step for event in scalars] == [step for step, _ in logged] == [2, 4, 6]  # where the losses stand
    assert scalars[0].value == pytest.approx(logged[0][1]["attviz/row_entropy/layer_01"])
    assert set(found.Tags()["histograms"]) == {
        f"attviz_heads/{n}" for n in ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal")
    }
    ours = [tag for tag in found.Tags()["scalars"] if tag.startswith("attviz/")]
    assert len(ours) == 5 * 2 + 1
    history = [entry for entry in trainer.state.log_history if "attviz/max_logit/layer_00" in entry]
    assert [entry["step"] for entry in history] == [2, 4, 6] == [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    seen = callback.monitor.metrics[0].compute()  # three captured steps of two texts, and nothing of the evaluation
    assert 3 * 2 * 7 <= seen.count[0, 0] <= 3 * 2 * 10


def test_each_captured_step_is_a_row_however_seldom_the_trainer_logs(tiny_model, tiny_data, tmp_path):
    logged = []
    callback = AttentionCallback(every=2, per="model", log=lambda values, step: logged.append(step))
    trainer = fit(tiny_model, tiny_data, callback, tmp_path, "tensorboard", max_steps=7, logging_steps=500)
    assert [entry["step"] for entry in trainer.state.log_history if "attviz/diagonal" in entry] == logged == [2, 4, 6]
    assert [event.step for event in events(tmp_path).Scalars("attviz/diagonal")] == logged


def test_torch_compile_of_the_trainer_is_captured_with_dropout(tiny_model, tiny_data, tmp_path):
    for layer in tiny_model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    logged = []
    callback = AttentionCallback(every=2, per="model", strict=True, log=lambda values, step: logged.append((step, sorted(values)[1])))
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 4}
    trainer = fit(tiny_model, tiny_data, callback, tmp_path, "none", **options)
    assert isinstance(trainer.model_wrapped, torch._dynamo.eval_frame.OptimizedModule)
    assert logged == [(2, "attviz/diagonal"), (4, "attviz/diagonal")]
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_head_maps_are_drawn_on_request(tiny_model, tiny_data, tmp_path):
    import matplotlib.pyplot as plt

    callback = AttentionCallback(every=3, heads="image", per="model")
    fit(tiny_model, tiny_data, callback, tmp_path, "tensorboard")
    found = events(tmp_path)
    image = found.Images("attviz_heads/row_entropy")[0]
    assert (image.width, image.height) == (600, 400)
    assert found.Tags()["histograms"] == []
    assert plt.get_fignums() == []


def test_weights_and_biases_offline_takes_them(tiny_model, tiny_data, tmp_path, monkeypatch):
    import wandb

    settings = {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "PROJECT": "attviz-test", "WATCH": "false"}
    for key, value in {**settings, "DISABLE_GIT": "true", "DISABLE_CODE": "true", "X_DISABLE_META": "true"}.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    fit(tiny_model, tiny_data, AttentionCallback(every=6, per="model", heads="image"), tmp_path, "wandb")
    summary = dict(wandb.run.summary)
    wandb.finish()
    assert summary["attviz/row_entropy"] > 0
    assert summary["attviz_heads/row_entropy"]["_type"] == "image-file"
    assert summary["train/global_step"] == 6


def test_gradient_accumulation_pools_its_micro_batches(tiny_model, tiny_data, tmp_path):
    counted = HeadStatistics()
    callback = AttentionCallback(every=1, metrics=counted)
    fit(tiny_model, tiny_data * 4, callback, tmp_path, "none", gradient_accumulation_steps=3)
    assert 6 * 6 * 7 <= counted.compute().count[0, 0] <= 6 * 6 * 10


def test_an_alarm_stops_the_run_if_so_chosen(tiny_model, tiny_data, tmp_path):
    callback = AttentionCallback(every=1, health=AttentionHealth(min_entropy=50, on_alarm="raise"))
    with pytest.raises(AttentionAlarmError, match="entropy collapse"):
        fit(tiny_model, tiny_data, callback, tmp_path, "none")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())


def test_wrong_kinds_of_head_plots_are_refused():
    with pytest.raises(ArgumentError, match="AttentionCallback: heads must be one of 'histogram', 'image', None"):
        AttentionCallback(heads="table")
    assert torch.is_grad_enabled()


class Interrupting:
    """Presses Ctrl-C the first time that one of these is called: the forward, the backward pass, the optimizer, the next batch."""

    def __init__(self, model, where):
        self.model, self.where, self.pressed = model, where, False

    def press(self, *_):
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt

    def __enter__(self):
        import transformers

        self.patch = pytest.MonkeyPatch()
        inner = self.model.model.layers[1].mlp
        if self.where == "forward":
            forward = type(inner).forward
            self.patch.setattr(type(inner), "forward", lambda this, x: (self.press() if this is inner else None, forward(this, x))[1])
        elif self.where == "backward":
            parameter = inner.down_proj.weight
            self.handle = parameter.register_hook(lambda grad: self.press())
        elif self.where == "optimizer":
            step = torch.optim.AdamW.step
            self.patch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: (self.press(), step(*args, **kwargs))[1])
        else:
            batches = transformers.Trainer.get_batch_samples
            self.patch.setattr(transformers.Trainer, "get_batch_samples", lambda *a, **k: (self.press(), batches(*a, **k))[1])
        return self

    def __exit__(self, *_):
        self.patch.undo()
        if self.where == "backward":
            self.handle.remove()


def left_on(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer", "batch"])
def test_an_interrupted_run_leaves_nothing_on_the_model(tiny_model, tiny_data, tmp_path, where):
    from attviz.hooks.tap import hub

    callback = AttentionCallback(every=1, per="model")
    options = {"max_steps": 2, "gradient_accumulation_steps": 2, "optim": "adamw_torch"}
    with Interrupting(tiny_model, where) as key:
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_model, tiny_data, callback, tmp_path, "none", **options)
        assert key.pressed
        assert left_on(tiny_model) == 0
        assert not hub.listeners
    trainer = fit(tiny_model, tiny_data, callback, tmp_path, "none", **options)  # and the next run is captured
    assert left_on(tiny_model) == 0
    assert "training_step" not in vars(trainer)
    assert [entry["step"] for entry in trainer.state.log_history if "attviz/diagonal" in entry] == [1, 2]


def test_a_trainer_that_has_a_training_step_of_its_own_keeps_it(tiny_model, tiny_data, tmp_path):
    from transformers import Trainer

    called = []

    class Mine(Trainer):
        def training_step(self, *args, **kwargs):
            called.append(self.state.global_step)
            return super().training_step(*args, **kwargs)

    callback = AttentionCallback(every=2, per="model")
    trainer = fit(tiny_model, tiny_data, callback, tmp_path, "none", max_steps=4, kind=Mine)
    assert called == [0, 1, 2, 3]
    assert [entry["step"] for entry in trainer.state.log_history if "attviz/diagonal" in entry] == [2, 4]


def test_a_trainer_that_never_calls_its_training_step_is_told(tiny_model, tiny_data, tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler

    from attviz.errors import CaptureWarning

    class Loop:
        """A loop of somebody's own, with a method that it does not use."""

        def __init__(self, callback):
            self.callback_handler = CallbackHandler([callback], tiny_model, None, None, None)

        def training_step(self):
            raise AssertionError

        def run(self):
            arguments, state, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl()
            self.callback_handler.on_step_begin(arguments, state, control)
            tiny_model(**{name: value[None] for name, value in tiny_data[0].items()})
            state.global_step += 1
            self.callback_handler.on_step_end(arguments, state, control)

    with pytest.warns(CaptureWarning, match="Loop never called its own training_step in this step, so nothing was captured"):
        Loop(AttentionCallback(every=1)).run()
