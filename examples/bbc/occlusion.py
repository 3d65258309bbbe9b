"""Occlusion: mask one token at a time and see how much the logit of the predicted class falls. It knows nothing of attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from attviz.records import Document


@torch.no_grad()
def occlusion(model: Any, tokenizer: Any, documents: Sequence[Document], *, batch_size: int = 64) -> list[np.ndarray]:
    """For each document the fall of the predicted class's logit when each token is replaced by [MASK]; NaN at special tokens."""
    falls = []
    for document in tqdm(documents, desc="occlusion", file=sys.stderr):
        ids = torch.as_tensor(document.token_ids)[None]
        places = np.flatnonzero(~document.special)
        whole = model(input_ids=ids).logits[0]
        chosen = int(whole.argmax())
        masked = ids.repeat(len(places), 1)
        masked[torch.arange(len(places)), torch.as_tensor(places)] = tokenizer.mask_token_id
        logits = torch.cat([model(input_ids=part).logits[:, chosen] for part in masked.split(batch_size)])
        fall = np.full(len(document.tokens), np.nan)
        fall[places] = (whole[chosen] - logits).numpy()
        falls.append(fall)
    return falls
