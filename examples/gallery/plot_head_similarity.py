"""
Which heads agree, and is that more than chance?
================================================

FUJI (Petković et al., arXiv:2008.02216) compares how two heads rank the vocabulary by self-attention. Its level under
chance is not 0, so the figure shows the null next to the values.
"""

import matplotlib.pyplot as plt

import attviz
from attviz.analysis.models import load_model

model, tokenizer = load_model("all-MiniLM-L6-v2")
sentences = [
    "The government said on Monday that it would cut taxes next year.",
    "The striker scored twice in the last ten minutes of the match.",
    "Shares in the company fell after it warned of lower profits.",
    "The new phone has a larger screen and a faster chip.",
    "The film won three awards at the festival in Cannes.",
    "Researchers found a way to store energy in salt.",
    "The band will tour Europe and Japan in the spring.",
    "The minister denied that the talks had failed.",
]
analysis = attviz.analyze(model, tokenizer, sentences, progress=False)

# %%
# The mean self-attention of each head per vocabulary token is what the heads are compared on.

figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
attviz.plots.head_similarity(analysis, ax=ax)
plt.show()

# %%
# What it shows: most pairs of heads rank words more alike than two random rankings do (the mark on the bar); a few
# heads less.
