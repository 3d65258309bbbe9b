"""
A generation, step by step
==========================

In a decode step the query is one token, so its row *is* the attention of the step. ``Rows(-1)`` keeps that row in every
step, with whatever cache the model uses. The model is a tiny random Llama: replace it with yours.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attviz
from attviz import readings as r

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    pad_token_id=0, bos_token_id=1, eos_token_id=None, initializer_range=0.4,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
prompt = torch.randint(2, 64, (1, 5))

with torch.no_grad(), attviz.capture(model, keep="all", read=[r.Rows(-1)]) as cap:
    model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False)

# %%
# The rows grow by one key per step. Stacked, they are the part of the matrix that generation used, for one layer and
# head.

layer, head = 1, 2
rows = [step[layer].readings["rows(-1)"][0, head, 0] for step in cap.steps]
picture = np.full((len(rows), len(rows[-1])), np.nan)
for step, row in enumerate(rows):
    picture[step, : len(row)] = row

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
image = ax.imshow(picture, vmin=0, aspect="auto")
ax.xaxis.get_major_locator().set_params(integer=True)
ax.set(xlabel="key (token of the sequence)", ylabel="decode step", title=f"layer {layer}, head {head}")
figure.colorbar(image, ax=ax, label="attention (probability)")
plt.show()

# %%
# What it shows: each step of this random model puts most of its weight on one or two earlier tokens, and which ones
# changes from step to step.
