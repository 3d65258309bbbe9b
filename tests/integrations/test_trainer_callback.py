"""AttentionCallback in a real transformers Trainer, with TensorBoard and W&B (offline)."""

import warnings

import pytest
import torch

from attviz.errors import ArgumentError, AttentionAlarmError
from attviz.integrations import AttentionCallback
from attviz.metrics import AttentionHealth, HeadStatistics


def fit(model, data, callback, folder, report_to, **options):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=6,
        per_device_train_batch_size=2,
        logging_steps=2,
        report_to=report_to,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[callback])
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
    assert [event.step for event in scalars] == [step for step, _ in logged] == [1, 3, 5]  # the captured ones
    assert scalars[0].value == pytest.approx(logged[0][1]["attviz/row_entropy/layer_01"])
    assert set(found.Tags()["histograms"]) == {
        f"attviz_heads/{n}" for n in ("row_entropy", "min_row_entropy", "max_logit", "first_token", "diagonal")
    }
    ours = [tag for tag in found.Tags()["scalars"] if tag.startswith("attviz/")]
    assert len(ours) == 5 * 2 + 1
    history = [entry for entry in trainer.state.log_history if "attviz/max_logit/layer_00" in entry]
    assert [entry["step"] for entry in history] == [1, 3, 5]
    seen = callback.monitor.metrics[0].compute()  # three captured steps of two texts, and nothing of the evaluation
    assert 3 * 2 * 7 <= seen.count[0, 0] <= 3 * 2 * 10


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
    with pytest.raises(ArgumentError, match="AttentionCallback: heads='table' is none of 'histogram', 'image', None"):
        AttentionCallback(heads="table")
    assert torch.is_grad_enabled()
