"""
Self-weight by layer, and what it carries
=========================================

How much does each layer keep of the token itself? The weight alone says little: a token's own value may point where the
output points anyway. So next to the diagonal we draw the cosine between a token's value and the head's output, as Zhai
(2026, arXiv:2603.09078) does.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import attviz
from attviz.analysis.models import load_model

model, tokenizer = load_model("all-MiniLM-L6-v2")
texts = [
    "The government said on Monday that it would cut taxes next year.",
    "The striker scored twice in the last ten minutes of the match.",
    "Researchers found a way to store energy in salt.",
]
inputs = tokenizer(texts, return_tensors="pt", padding=True)

# %%
# The outputs of the heads and their values come from ordinary forward hooks; attviz reads the weights.

values, outputs = {}, {}
for index, layer in enumerate(model.encoder.layer):
    attention = layer.attention.self
    attention.value.register_forward_hook(lambda module, args, out, index=index: values.update({index: out}))
    attention.register_forward_hook(lambda module, args, out, index=index: outputs.update({index: out[0]}))

with torch.no_grad(), attviz.capture(model) as cap:
    model(**inputs)

real = inputs["attention_mask"].bool()
num_heads = cap.diagonal.shape[2]
weight = cap.diagonal.nanmean(dim=(1, 2, 3))
cosine = [
    F.cosine_similarity(values[index].unflatten(-1, (num_heads, -1)), outputs[index].unflatten(-1, (num_heads, -1)), dim=-1)[real].mean()
    for index in range(len(cap.layers))
]

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(weight, "o-", color="#0072b2", label="weight on itself (probability)")
ax.plot(cosine, "s--", color="#d55e00", label="cosine of own value and output")
ax.set(xlabel="layer", xticks=range(len(cap.layers)), ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %%
# What it shows: about a tenth of a token's attention stays on itself in every layer, yet the output of a head points far
# more towards the token's own value than that.
