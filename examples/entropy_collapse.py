"""Drive a small real training run into entropy collapse, and see the alarm come before the loss diverges.

A four-layer decoder learns to write Python, byte by byte, from the standard library of this machine. One run keeps a sound learning
rate; the other raises it a thousandfold, step by step, until the loss explodes. ``AttentionMonitor`` reads every fifth step.

    python examples/entropy_collapse.py --output entropy_collapse.png
"""

from __future__ import annotations

import argparse
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from attviz.integrations import AttentionMonitor
from attviz.metrics import AttentionHealth

LENGTH, BATCH, WIDTH, HEADS, LAYERS = 64, 8, 64, 4, 4


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), SelfAttention()
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.feed_forward(self.second(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.norm, self.head = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.bytes(input_ids) + self.places.weight)))


@dataclass
class Run:
    """What one training run showed."""

    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    entropy: list[np.ndarray] = field(default_factory=list)
    logit: list[np.ndarray] = field(default_factory=list)
    alarms: dict[str, int] = field(default_factory=dict)  # first step of each kind

    @property
    def divergence(self) -> int | None:
        """First step after which the loss stays above that of the untrained model."""
        above = np.array(self.loss) > self.loss[0]
        if not above[-1]:
            return None
        return int(len(above) - np.argmin(above[::-1])) if not above.all() else 0


def text() -> Tensor:
    """The standard library as bytes: real text that every machine has."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in sources)), dtype=torch.uint8).long()


def train(data: Tensor, steps: int, start: float, end: float) -> Run:
    """Train with a learning rate that goes from ``start`` to ``end`` in equal factors."""
    torch.manual_seed(0)
    model, run = Decoder(), Run()
    optimizer = torch.optim.Adam(model.parameters(), lr=start)
    monitor = AttentionMonitor(every=5, health=AttentionHealth(on_alarm="ignore"), strict=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = start * (end / start) ** (step / steps)
        window = torch.stack([data[at : at + LENGTH + 1] for at in torch.randint(len(data) - LENGTH - 1, (BATCH,))])
        with monitor.watch(model, step):
            loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.loss.append(loss.item())
        run.rate.append(optimizer.param_groups[0]["lr"])
        if monitor.values:
            run.steps.append(step)
            run.entropy.append(monitor.heads["row_entropy"].mean(1))
            run.logit.append(monitor.heads["max_logit"].max(1))
            for alarm in monitor.alarms:
                if alarm.kind not in run.alarms:
                    run.alarms[alarm.kind] = step
                    print(f"step {step}: {alarm}; the loss is {loss.item():.2f}")
    return run


def draw(runs: dict[str, Run]) -> Figure:
    """Loss, entropy and logits of each run below each other, with the alarm and the divergence marked."""
    figure = Figure(figsize=(9.5, 7), layout="constrained")
    axes = figure.subplots(3, len(runs), sharex=True, sharey="row", squeeze=False)
    colors = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe-Ito
    for column, (title, run) in enumerate(runs.items()):
        loss, entropy, logit = axes[:, column]
        loss.semilogy(run.loss, color="black", linewidth=1)
        for layer, color in enumerate(colors):
            entropy.plot(run.steps, [value[layer] for value in run.entropy], color=color, label=f"layer {layer}")
            logit.semilogy(run.steps, [value[layer] for value in run.logit], color=color)
        entropy.axhline(0.1, color="gray", linestyle=":", linewidth=1, label="threshold")
        logit.axhline(100, color="gray", linestyle=":", linewidth=1)
        for kind, ax, color in (("exploding logit", logit, "#D55E00"), ("entropy collapse", entropy, "#56B4E9")):
            if kind in run.alarms:
                for place in (loss, ax):
                    place.axvline(run.alarms[kind], color=color, linestyle="--", label=f"alarm: {kind}" if place is loss else None)
        if run.divergence is not None:
            for ax in (loss, entropy, logit):
                ax.axvline(run.divergence, color="black", linestyle="-.", label="loss above its start, for good" if ax is loss else None)
            loss.legend(loc="upper left", fontsize=8)
        loss.set_title(f"{title}: {run.rate[0]:g} to {run.rate[-1]:.2g}" if run.rate[0] != run.rate[-1] else f"{title}: {run.rate[0]:g}")
        logit.set_xlabel("training step")
    axes[0, 0].set_ylabel("training loss (nats)")
    axes[1, 0].set_ylabel("mean row entropy (nats)")
    axes[1, 0].legend(fontsize=8, loc="lower left")
    axes[2, 0].set_ylabel("largest attention logit")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("entropy_collapse.png"))
    options = parser.parse_args()
    data = text()
    runs = {
        "sound learning rate": train(data, options.steps, 1e-3, 1e-3),
        "rising learning rate": train(data, options.steps, 1e-3, 1.0),
    }
    for title, run in runs.items():
        alarm = ", ".join(f"{kind} from step {step}" for kind, step in run.alarms.items()) or "no alarm"
        end = "no divergence" if run.divergence is None else f"loss above its start for good from step {run.divergence}"
        print(f"{title}: {alarm}, {end}, last loss {run.loss[-1]:.2f}")
    draw(runs).savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
