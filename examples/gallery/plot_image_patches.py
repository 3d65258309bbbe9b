"""
Image patches: which ones keep to themselves?
=============================================

The tokens of a vision transformer are patches, so a diagonal is a picture: how much attention each patch pays to its own
position. A small ViT learns handwritten digits (8 x 8 pixels, patches of 2 x 2), and ``attviz.plots.image_map`` draws
the diagonal of its last layer over the images.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import attviz

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
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
for _ in range(300):
    chosen = torch.randint(256, len(images), (64,))  # the first 256 images are held out
    loss = nn.functional.cross_entropy(model(pixel_values=images[chosen]).logits, labels[chosen])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
# The mean over heads of the last layer, averaged over the held-out images of a digit, drawn over their mean image in dark
# ink. All pictures share one scale; the uniform level is 1/17 = 0.06 (16 patches and [CLS]).

with torch.no_grad(), attviz.capture(model, layers=-1) as cap:
    model(pixel_values=images[:256])
diagonal = cap.diagonal[0].mean(dim=1)  # [images, tokens]
shown = {digit: diagonal[labels[:256] == digit].mean(dim=0).numpy() for digit in (0, 1, 3, 7)}
top = max(float(values[1:].max()) for values in shown.values())
figure, axes = plt.subplots(1, len(shown), figsize=(11, 2.7), layout="constrained")
for ax, (digit, values) in zip(axes, shown.items(), strict=True):
    picture = images[:256][labels[:256] == digit].mean(dim=(0, 1)).numpy()
    label = "attention to own position" if ax is axes[-1] else ""
    ink = 1 - picture / picture.max()
    attviz.plots.image_map(values, grid=(4, 4), image=ink, alpha=0.6, cmap="YlOrRd", label=label, vmin=0, vmax=top, ax=ax)
    ax.set(title=f"digit {digit}", xlabel="", ylabel="", xticks=[], yticks=[])
    if ax is not axes[-1]:
        figure.axes[-1].remove()  # one colour bar is enough: all pictures share its scale
plt.show()

# %%
# What it shows: in a 3, the patch in the upper notch keeps several times the attention of a uniform row, and so does the
# background patch below it: the places that tell a 3 from an 8. In the other digits no patch stands out.
