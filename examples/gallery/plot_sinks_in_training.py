"""
An attention sink appears
=========================

Softmax weights sum to one, so a head that has nothing to do must look somewhere. Large language models learn to look at
the first token (Xiao et al. 2023, arXiv:2309.17453). The smallest task on which this happens is *bigram-backcopy* (Guo et
al. 2024, arXiv:2410.13835): the next token follows from the current one alone, except after a few trigger tokens, where it
repeats the token before the trigger. A head is needed there and nowhere else.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import attviz
from attviz import readings as r
from attviz.metrics.scores import sink_rate

torch.manual_seed(0)
VOCABULARY, LENGTH, WIDTH, TRIGGERS = 32, 48, 64, 3  # token 0 begins every text; tokens 1 to 3 are the triggers


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], is_causal=True)
        x = x + self.out(mixed[:, 0])
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.block, self.head = Block(), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids):
        return self.head(self.block(self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1]))))


transitions = torch.randn(VOCABULARY, VOCABULARY).mul(2)
transitions[:, 0] = -torch.inf  # nothing leads back to the first token
transitions = transitions.softmax(dim=-1)


def batch(size=64):
    ids = torch.zeros(size, LENGTH, dtype=torch.long)
    for place in range(1, LENGTH):
        before = ids[:, place - 1]
        copied = (before >= 1) & (before <= TRIGGERS) & (place > 2)
        ids[:, place] = torch.where(copied, ids[:, place - 2], transitions[before].multinomial(1)[:, 0])
    return ids


# %%
# Train, and read the weight on the first token and on the previous token every 20 steps: at trigger tokens and at all
# others.

model = Model()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
asked = [r.Keys(first=1, name="first token"), r.Offset(-1, name="previous token")]
curves = {(name, at): [] for name in ("first token", "previous token") for at in ("trigger", "other")}
steps, rates = [], []
for step in range(801):
    ids = batch()
    if step % 20 == 0:
        with torch.no_grad(), attviz.capture(model, read=asked) as cap:
            model(ids)
        later = torch.arange(LENGTH) >= 8  # far enough from the beginning for the first token to be a choice
        trigger = (ids >= 1) & (ids <= TRIGGERS) & later
        other = (ids > TRIGGERS) & later
        for name in ("first token", "previous token"):
            weight = cap.reading(name)[0, :, 0]  # [batch, q_len]: one layer, one head
            curves[name, "trigger"].append(weight[trigger].mean())
            curves[name, "other"].append(weight[other].mean())
        steps.append(step)
        rates.append(sink_rate(cap.reading("first token")[..., 8:]))
    loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
# Blue: where the head has work to do. Orange: where it has none. The dotted line is the level from which ``sink_rate``
# counts a head as a sink (Gu et al. 2024, arXiv:2410.10781).

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for ax, name in zip(axes, ("first token", "previous token"), strict=True):
    ax.plot(steps, curves[name, "trigger"], color="#0072b2", label="at trigger tokens")
    ax.plot(steps, curves[name, "other"], color="#d55e00", label="at all other tokens")
    ax.set(title=f"attention to the {name}", xlabel="training step", ylim=(0, 1))
axes[0].axhline(0.3, color="#888888", linestyle=":", label="sink (0.3)")
axes[0].set_ylabel("mean attention (probability)")
axes[0].legend(frameon=False, loc="center right")
plt.show()
print(f"sink rate: {rates[0]:.0f} at step 0, {rates[-1]:.0f} at step {steps[-1]}")

# %%
# What it shows: the head learns to look one token back at triggers, and at the first token everywhere else. The sink is
# where attention goes when there is nothing to attend to; it grew from 0.05 to almost 1 in 300 steps.
