"""Fine-tune a pretrained encoder on the four classes: AdamW, three epochs, minutes on two cores."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from data import CLASSES, Split
from tqdm import tqdm

from attviz.analysis.models import load_model


def finetune(name: str, split: Split, folder: Path, *, epochs: int, max_length: int, batch_size: int = 16, seed: int = 0) -> list[float]:
    """Train, keep the model in ``folder``, and return the mean loss of each epoch."""
    torch.manual_seed(seed)
    encoder, tokenizer = load_model(name, classify=False)
    model = _with_head(encoder)
    model.train()
    encoded = tokenizer(split.texts, truncation=True, max_length=max_length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
    losses = []
    for epoch in range(epochs):
        order = torch.randperm(len(split.texts)).split(batch_size)
        started, total = time.monotonic(), 0.0
        for rows in tqdm(order, desc=f"epoch {epoch + 1} of {epochs}", file=sys.stderr):
            batch = tokenizer.pad([{key: encoded[key][row] for key in encoded} for row in rows.tolist()], return_tensors="pt")
            loss = model(**batch, labels=torch.tensor([split.labels[row] for row in rows.tolist()])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(order))
        print(f"epoch {epoch + 1}: mean loss {losses[-1]:.4f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return losses


def _with_head(encoder: Any) -> Any:
    """The encoder's weights below a new classification head."""
    from transformers import AutoModelForSequenceClassification

    config = encoder.config
    config.num_labels = len(CLASSES)
    config.id2label, config.label2id = dict(enumerate(CLASSES)), {name: index for index, name in enumerate(CLASSES)}
    model = AutoModelForSequenceClassification.from_config(config)
    getattr(model, model.base_model_prefix).load_state_dict(encoder.state_dict(), strict=False)  # a pooler may have no weights
    return model
