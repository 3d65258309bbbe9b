"""
Watching heads learn where to look
==================================

A two-layer attention-only model learns to continue sequences that repeat themselves with a period it cannot know
beforehand. Olsson et al. (2022, arXiv:2209.11895) describe what has to form: a head that looks at the previous token,
and one in the next layer that looks at what followed the last time. Three readings, taken at every 100th step, show it
happening.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import attviz
from attviz import readings as r

torch.manual_seed(0)
VOCABULARY, LENGTH, WIDTH, HEADS = 32, 32, 64, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Repeater(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids):
        places = torch.arange(input_ids.shape[1])
        return self.head(self.blocks(self.embed(input_ids) + self.place(places)))


def batch(size=64):
    pattern, period = torch.randint(1, VOCABULARY, (size, LENGTH)), torch.randint(6, 13, (size, 1))
    ids = pattern.gather(1, torch.arange(LENGTH - 1) % period)
    known = torch.arange(LENGTH - 1) >= period  # from here on the next token follows from the ones before
    return torch.cat([torch.zeros(size, 1, dtype=torch.long), ids], dim=1), known  # 0 begins every sequence


# %%
# Train, and read three numbers per head at every 100th step: weight on the first token (the sink), on the previous one,
# and on the induction target.

model = Repeater()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
asked = [r.Keys(first=1, name="first token"), r.Offset(-1, name="previous token"), r.Induction(name="induction")]
history = {reading.name: [] for reading in asked}
steps = []
for step in range(2401):
    ids, known = batch()
    if step % 100 == 0:
        with torch.no_grad(), attviz.capture(model, read=asked) as cap:
            model(ids)
        steps.append(step)
        for reading in asked:
            history[reading.name].append(cap.reading(reading.name)[..., LENGTH // 2 :].nanmean(dim=(1, 3)).flatten())
    loss = nn.functional.cross_entropy(model(ids)[:, :-1][known], ids[:, 1:][known])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
# One line per head; layer 0 in blue, layer 1 in orange.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained", sharey=True)
for ax, (name, rows) in zip(axes, history.items(), strict=True):
    for head, curve in enumerate(torch.stack(rows).T):
        ax.plot(steps, curve, color="#0072b2" if head < HEADS else "#d55e00", linewidth=1.5)
    ax.set(title=name, xlabel="training step", ylim=(0, 1))
axes[0].set_ylabel("mean attention (probability)")
axes[0].plot([], [], color="#0072b2", label="layer 0")
axes[0].plot([], [], color="#d55e00", label="layer 1")
axes[0].legend(frameon=False)
plt.show()

# %%
# What it shows: all heads start out alike. Those of layer 1 turn to what followed the last time; around step 1200 one
# head of layer 0 becomes a previous-token head, and two others drift towards the first token.
