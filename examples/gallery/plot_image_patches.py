"""
How far do the heads of a vision transformer look?
==================================================

A small ViT learns handwritten digits (8 x 8 pixels, patches of 2 x 2). ``Distance(grid=...)`` is the mean attention
distance of Dosovitskiy et al. (2021, arXiv:2010.11929), in patches, read before and after training.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import attviz
from attviz import readings as r

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
config = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_labels=10,
)
model = ViTForImageClassification(config)


def look():
    with torch.no_grad(), attviz.capture(model, read=[r.Distance(grid=(4, 4))]) as cap:
        model(pixel_values=images[:256])
    return cap


before = look()
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
for _ in range(300):
    chosen = torch.randint(0, len(images), (64,))
    loss = nn.functional.cross_entropy(model(pixel_values=images[chosen]).logits, labels[chosen])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
after = look()

# %%
# Left, the distance of every head. Right, how much each patch attends to itself in the last layer, over the images of
# one digit.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", width_ratios=(3, 2))
for cap, color, label in ((before, "#999999", "before training"), (after, "#0072b2", "after")):
    distance = cap.reading("distance").nanmean(dim=(1, 3))  # [num_layers, num_heads]
    left.plot(distance, "o", color=color)
    left.plot([], [], "o", color=color, label=label)
left.set(xlabel="layer", ylabel="mean distance (patches)", xticks=range(4))
left.legend(frameon=False)
threes = labels[:256] == 3
own = after.records[-1].diagonal[threes].mean(dim=(0, 1))[1:].reshape(4, 4)  # the first token is [CLS]
drawn = right.imshow(own, cmap="viridis", extent=(0, 4, 4, 0))
centres = torch.arange(8) / 2 + 0.25
right.contour(centres, centres, images[:256][threes].mean(dim=0)[0], levels=[0.45], colors="white", linewidths=2)
right.set(title="self-weight of each patch, digit 3", xticks=[], yticks=[])
figure.colorbar(drawn, ax=right, label="attention (probability)")
plt.show()

# %%
# What it shows: an untrained head looks everywhere alike (2 patches away on average); training pulls the heads apart, a
# little. In the last layer the patch in the upper notch of a 3 holds on to itself.
