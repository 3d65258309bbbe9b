"""
Which words hold on to themselves?
==================================

A short form of the experiment of the AttViz paper (arXiv:2005.05716): the mean diagonal of each word, pooled over texts
and heads, with its spread and its largest value. ``examples/bbc`` runs it on the BBC corpus, with a classifier,
occlusion and nulls.
"""

import matplotlib.pyplot as plt

import attviz
from attviz.analysis.models import load_model

model, tokenizer = load_model("all-MiniLM-L6-v2")
texts = [
    "The government said on Monday that it would cut taxes next year, and the opposition called the plan a bribe.",
    "The striker scored twice in the last ten minutes of the match, and the crowd sang his name until midnight.",
    "Shares in the company fell by a tenth after it warned of lower profits and closed two of its plants.",
    "The new phone has a larger screen, a faster chip and a battery that lasts for two days.",
    "The film won three awards at the festival, among them the prize for the best actress.",
    "The minister denied that the talks had failed and said that the government would try again next year.",
    "The coach praised the goalkeeper, who saved a penalty in the first minutes of the match.",
    "The company said that profits would rise again next year, and its shares recovered.",
]
analysis = attviz.analyze(model, tokenizer, texts, progress=False)

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
attviz.plots.token_bars(analysis, k=25, ax=ax)
plt.show()

# %%
# What it shows: mostly content words lead, with small means and large maxima: most heads keep little of their attention on
# the word itself, a few nearly all of it.
