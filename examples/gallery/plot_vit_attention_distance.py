"""
Mean attention distance of a vision transformer
===============================================

Dosovitskiy et al. (2021, arXiv:2010.11929, Figure 7) measure how far each head of a ViT looks: the distance between the
query patch and the key patch, weighted by attention. ``Distance(grid=(rows, columns))`` reads it in one pass. Here a
small ViT learns to fill in hidden pixels of handwritten digits (8 x 8, one patch per pixel), a task for which neighbours
matter. With a ViT of your own, ``mean_distance`` is all you need.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import attviz
from attviz import readings as r

torch.manual_seed(0)
SIDE, WIDTH, HEADS, LAYERS = 8, 64, 4, 3
images = torch.tensor(load_digits().images, dtype=torch.float32).flatten(1) / 16  # [1797, 64]


def positions():
    """Sines and cosines of row and column, as in masked autoencoders: [64, WIDTH]."""
    places = torch.cartesian_prod(torch.arange(float(SIDE)), torch.arange(float(SIDE)))
    angles = places[:, :, None] * torch.linspace(0.2, 3, WIDTH // 4)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x):
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class FillIn(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.hidden = nn.Linear(1, WIDTH), nn.Parameter(torch.zeros(WIDTH))
        self.blocks, self.head = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.Linear(WIDTH, 1)
        self.register_buffer("positions", positions())

    def forward(self, pixels, hidden):
        tokens = torch.where(hidden[..., None], self.hidden, self.embed(pixels[..., None]))
        return self.head(self.blocks(tokens + self.positions))[..., 0]


def hide(size):
    return torch.rand(size, SIDE * SIDE) < 0.4


# %%
# One capture before training and one after.


def mean_distance():
    with torch.no_grad(), attviz.capture(model, read=[r.Distance(grid=(SIDE, SIDE))]) as cap:
        model(images[:128], hide(128))
    return cap.reading("distance").nanmean(dim=(1, 3))  # [num_layers, num_heads]


model = FillIn()
before = mean_distance()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
for step in range(1001):
    pixels, hidden = images[torch.randint(128, len(images), (32,))], hide(32)  # the first 128 images are held out
    loss = (model(pixels, hidden) - pixels)[hidden].square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 200 == 0:
        print(f"step {step}: error {loss.item():.3f}")
after = mean_distance()

# %%
# One dot per head.

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for distance, color, shift, label in ((before, "#999999", -0.06, "before training"), (after, "#0072b2", 0.06, "after training")):
    for layer, heads in enumerate(distance):
        ax.plot([layer + shift] * len(heads), heads, "o", color=color, alpha=0.8)
    ax.plot([], [], "o", color=color, label=label)
places = torch.cartesian_prod(torch.arange(float(SIDE)), torch.arange(float(SIDE)))
ax.axhline(torch.cdist(places, places).mean(), color="#888888", linestyle=":", label="uniform attention")
ax.set(xlabel="layer", ylabel="mean attention distance (patches)", xticks=range(LAYERS), ylim=(0, None))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %%
# What it shows: before training every head looks everywhere alike. Training makes some heads local, two pixels away on
# average, while others stay global: the same split as in Figure 7 of the paper.
