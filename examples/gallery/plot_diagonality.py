"""
Diagonality over depth
======================

Zhang et al. (2021, arXiv:2011.04906) call attention *diagonal* when it stays close to the token. Their measure needs
the matrix; the mean distance of a row is the same idea as a reading, in one pass: 1 minus the distance divided by what
uniform attention would have.
"""

import matplotlib.pyplot as plt
import torch

import attviz
from attviz import readings as r
from attviz.analysis.models import load_model

model, tokenizer = load_model("all-MiniLM-L6-v2")
text = (
    "The committee will publish its report in the spring. It examines how small towns can keep their libraries open, and what it costs. "
    "Many of the people who answered said that they read more than they did ten years ago."
)
inputs = tokenizer(text, return_tensors="pt")

with torch.no_grad(), attviz.capture(model, read=[r.Distance()]) as cap:
    model(**inputs)

# %%
# Uniform attention has its own mean distance at each position, so the measure is relative to that.

tokens = torch.arange(inputs["input_ids"].shape[1], dtype=torch.float32)
uniform = (tokens[:, None] - tokens).abs().mean(dim=1)
diagonality = (1 - cap.reading("distance") / uniform).mean(dim=(1, 3))  # [num_layers, num_heads]

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.axhline(0, color="#888", linewidth=0.8)
ax.plot(diagonality, "o", color="#0072b2", alpha=0.45, markersize=5)
ax.plot(diagonality.mean(dim=1), "-", color="black", label="mean of the layer")
ax.set(xlabel="layer", ylabel="diagonality (0: uniform, 1: itself)", xticks=range(len(cap.layers)))
ax.legend(frameon=False)
plt.show()

# %%
# What it shows: the local heads sit in the first layers; by the last layer attention is no closer to the token than
# uniform attention would be.
