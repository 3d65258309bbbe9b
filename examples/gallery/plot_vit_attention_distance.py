"""
Mean attention distance of a vision transformer
===============================================

Dosovitskiy et al. (2021, arXiv:2010.11929, Figure 7) measure how far each head of a ViT looks: the distance between the
query patch and the key patch, weighted by attention. ``Distance(grid=(rows, columns))`` reads it in one pass. Here a
small ViT learns to fill in the hidden pixels of handwritten digits (8 x 8, one patch per pixel), for which neighbours
matter. With a ViT of your own, ``mean_distance`` is all you need.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForMaskedImageModeling

import attviz
from attviz import readings as r

torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
config = ViTConfig(
    image_size=8,
    patch_size=1,
    encoder_stride=1,
    num_channels=1,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    initializer_range=0.1,
)
model = ViTForMaskedImageModeling(config)

# %%
# One capture before training and one after. ``[CLS]`` has no place on the grid: its distance is NaN and is left out.


def hidden(size):
    return torch.rand(size, 64) < 0.5


def mean_distance():
    with torch.no_grad(), attviz.capture(model, read=[r.Distance(grid=(8, 8))]) as cap:
        model(pixel_values=images[:128], bool_masked_pos=hidden(128))
    return cap.reading("distance").nanmean(dim=(1, 3))  # [num_layers, num_heads]


before = mean_distance()
optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
for step in range(401):
    chosen = torch.randint(128, len(images), (64,))  # the first 128 images are held out
    loss = model(pixel_values=images[chosen], bool_masked_pos=hidden(64)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 100 == 0:
        print(step, loss.item())
after = mean_distance()

# %%
# One dot per head.

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for distance, color, shift, label in ((before, "#999999", -0.06, "before training"), (after, "#0072b2", 0.06, "after training")):
    for layer, heads in enumerate(distance):
        ax.plot([layer + shift] * len(heads), heads, "o", color=color, alpha=0.8)
    ax.plot([], [], "o", color=color, label=label)
places = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
ax.axhline(torch.cdist(places, places).mean(), color="#888888", linestyle=":", label="uniform attention")
ax.set(xlabel="layer", ylabel="mean attention distance (patches)", xticks=range(4), ylim=(0, None))
ax.legend(frameon=False, loc="lower right")
plt.show()
