"""Train the small model and show what its heads have become: ``python -m examples.induction.run [heads.png]``."""

import sys

import attviz
from examples.induction.train import train

model, losses = train()
table = attviz.head_roles(model, vocab_size=64)
attviz.plots.head_roles(table).figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "heads.png", dpi=160)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {table}")
print("previous token:", *table.find("previous"), "induction:", *table.find("induction"), sep="\n  ")
