"""
Entropy collapse and its cures
==============================

A high learning rate drives attention logits up and row entropy down; in the end each row sees a single key, and the run
diverges (Zhai et al. 2023, arXiv:2303.06296). ``AttentionHealth`` reads both while the model trains and raises an alarm
at the thresholds you choose. Two cures: normalise queries and keys (Henry et al. 2020, arXiv:2010.04245), or bound the
spectral norm of their projection by a learned factor (the sigma reparametrisation of Zhai et al.).
``examples/entropy_collapse.py`` drives a run all the way into divergence.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from attviz.integrations import AttentionMonitor
from attviz.metrics import AttentionHealth

VOCABULARY, LENGTH, WIDTH, HEADS = 24, 24, 64, 4


class Block(nn.Module):
    def __init__(self, cure):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.cure = cure
        if cure == "sigma reparametrisation":
            self.qkv = nn.utils.parametrizations.spectral_norm(self.qkv)
            self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, x):
        projected = self.qkv(self.norm(x))
        if self.cure == "sigma reparametrisation":
            projected = self.gamma * projected
        query, key, value = projected.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.cure == "normalised queries and keys":
            query, key = (nn.functional.normalize(part, dim=-1) * (WIDTH // HEADS) ** 0.5 for part in (query, key))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, cure):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.head = nn.Sequential(*(Block(cure) for _ in range(3))), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids):
        return self.head(self.blocks(self.embed(input_ids) + self.place(torch.arange(LENGTH))))


# %%
# The same data and steps three times.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
cures = {"plain": "#d55e00", "normalised queries and keys": "#0072b2", "sigma reparametrisation": "#009e73"}
for cure, color in cures.items():
    torch.manual_seed(0)
    model = Model(cure)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-2)
    monitor = AttentionMonitor(every=10, per="model", health=AttentionHealth(on_alarm="ignore"))
    rows, losses = [], []
    for step in range(301):
        start, stride = torch.randint(0, VOCABULARY, (64, 1)), torch.randint(1, 4, (64, 1))
        ids = (start + stride * torch.arange(LENGTH)) % VOCABULARY
        with monitor.watch(model, step):
            loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor.values:
            rows.append((step, monitor.values["attviz/row_entropy"], monitor.values["attviz/max_logit"]))
            losses.append(loss.item())
    steps, entropies, logits = zip(*rows, strict=True)
    for ax, values in zip(axes, (entropies, logits, losses), strict=True):
        ax.plot(steps, values, color=color, label=cure)
for ax, title in zip(axes, ("mean row entropy (nats)", "largest logit", "loss (nats)"), strict=True):
    ax.set(title=title, xlabel="training step")
axes[1].axhline(100, color="#888888", linestyle=":")
axes[1].text(300, 90, "alarm", ha="right", va="top", color="#666666")
axes[1].set_yscale("log")
axes[2].legend(frameon=False)
plt.show()

# %%
# What it shows: without a cure, row entropy falls by more than half within 50 steps while the largest logit grows more
# than tenfold; with either cure both stay within bounds, at the same loss.
