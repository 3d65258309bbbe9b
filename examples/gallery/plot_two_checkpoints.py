"""
What did training change?
=========================

``attviz.compare`` runs the same texts through two checkpoints and ranks the heads by how much their self-attention
changed, with bootstrap intervals over the texts. Here all-MiniLM-L6-v2 is fine-tuned for a minute to tell questions
from statements.
"""

import copy

import matplotlib.pyplot as plt
import torch

import attviz
from attviz.analysis.models import load_model

torch.manual_seed(0)
base, tokenizer = load_model("all-MiniLM-L6-v2")
subjects = [
    "the train",
    "the new film",
    "our neighbour",
    "the price of bread",
    "the old bridge",
    "the committee",
    "this recipe",
    "her answer",
]
statements = [f"{subject} is late again" for subject in subjects] + [f"{subject} was a surprise" for subject in subjects]
questions = [f"is {subject} late again" for subject in subjects] + [f"was {subject} a surprise" for subject in subjects]
texts = statements + questions
labels = torch.tensor([0.0] * len(statements) + [1.0] * len(questions))

tuned, head = copy.deepcopy(base).train(), torch.nn.Linear(base.config.hidden_size, 1)
optimizer = torch.optim.AdamW([*tuned.parameters(), *head.parameters()], 1e-4)
inputs = tokenizer(texts, return_tensors="pt", padding=True)
for _ in range(25):
    logits = head(tuned(**inputs).last_hidden_state[:, 0])[:, 0]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
# The table says how certain each change is; the figure shows all heads at once.

comparison = attviz.compare(base, tuned.eval(), texts, tokenizer, names=["base", "tuned"], progress=False)
print(comparison)
_ = comparison.figure
plt.show()

# %%
# What it shows: 25 steps of fine-tuning make most heads hold on to their own token more, above all in the middle layers.
