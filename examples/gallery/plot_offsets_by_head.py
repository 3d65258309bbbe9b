"""
Where does each head look?
==========================

Clark et al. (2019, arXiv:1906.04341) found heads in BERT that attend to the previous token, the next token, or the
separators. Each of these is a *reading*: one weight per query, computed from the query, one key and the log-sum-exp the
kernel returned. The matrix is never built.
"""

import matplotlib.pyplot as plt
import torch

import attviz
from attviz import readings as r
from attviz.analysis.models import load_model

model, tokenizer = load_model("all-MiniLM-L6-v2")
texts = [
    "The bank raised its rates after the meeting in Frankfurt.",
    "She sat on the bank of the river and watched the boats go by.",
    "A good model is one that fails in ways you can understand.",
]
inputs = tokenizer(texts, return_tensors="pt", padding=True)

wanted = {"previous": r.Offset(-1, name="previous"), "itself": r.Own(name="itself"), "next": r.Offset(1, name="next")}
separators = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
wanted["[CLS], [SEP]"] = r.Keys(lambda tokens: torch.isin(tokens.key_ids, separators), name="special")
with torch.no_grad(), attviz.capture(model, read=list(wanted.values())) as cap:
    model(**inputs)

# %%
# One map per question: layers down, heads across, the mean over all real tokens.

figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained", sharey=True)
for ax, (title, reading) in zip(axes, wanted.items(), strict=True):
    share = cap.reading(reading.name).nanmean(dim=(1, 3))
    image = ax.imshow(share, vmin=0, vmax=1, aspect="auto")
    ax.set(title=title, xlabel="head", xticks=range(0, 12, 2))
axes[0].set_ylabel("layer")
figure.colorbar(image, ax=axes, label="mean attention (probability)")
plt.show()

# %%
# What it shows: a handful of heads look at one neighbour almost always, and many more park their attention on [CLS] and
# [SEP].
