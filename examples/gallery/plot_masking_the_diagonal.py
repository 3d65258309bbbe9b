"""
What does it cost to forbid self-attention?
===========================================

SparseBERT (Shi et al. 2021, arXiv:2102.12871) found that a model can do without the diagonal. A small test of that
claim: the same masked-token task, trained twice, once with the diagonal masked out.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import attviz

VOCABULARY, LENGTH, WIDTH = 24, 16, 48


def batch(size, generator):
    """Sequences that count up in steps of 1, 2 or 3, one token of each hidden (id 0)."""
    start = torch.randint(0, VOCABULARY - 1, (size, 1), generator=generator)
    stride = torch.randint(1, 4, (size, 1), generator=generator)
    ids = (start + stride * torch.arange(LENGTH)) % (VOCABULARY - 1) + 1
    hidden = torch.randint(0, LENGTH, (size, 1), generator=generator)
    return ids.scatter(1, hidden, 0), ids.gather(1, hidden)[:, 0], hidden[:, 0]


class Model(nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 4, 96, dropout=0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.mask = torch.eye(LENGTH, dtype=torch.bool) if masked else None

    def forward(self, ids, hidden):
        x = self.embed(ids) + self.place(torch.arange(LENGTH))
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        return self.head(x[torch.arange(len(ids)), hidden])


# %%
# Same data, same initial weights, same steps. The diagonal of the masked model is read too, to be sure that it is
# really gone.

curves, diagonals = {}, {}
for masked in (False, True):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Model(masked)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(500):
        ids, target, hidden = batch(64, generator)
        loss = nn.functional.cross_entropy(model(ids, hidden), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with attviz.capture(model) as cap:
        model(ids, hidden)
    curves[masked] = torch.tensor(losses).unfold(0, 20, 20).mean(dim=1)
    diagonals[masked] = cap.diagonal.nan_to_num().mean().item()

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for masked, color in ((False, "#0072b2"), (True, "#d55e00")):
    label = f"{'without' if masked else 'with'} the diagonal (mean self-weight {diagonals[masked]:.2f})"
    ax.plot(torch.arange(len(curves[masked])) * 20, curves[masked], color=color, label=label)
ax.set(xlabel="training step", ylabel="loss (nats)", yscale="log")
ax.legend(frameon=False)
plt.show()

# %%
# What it shows: on this task the model without self-attention learns as well as the one with it; the residual stream
# carries the token anyway.
