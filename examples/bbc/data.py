"""The BBC news as the AttViz paper split them: two columns, ``label`` and ``text_a``; parts of a document divided by ``|||``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from attviz.analysis.reading import read_texts

CLASSES = ("business", "entertainment", "politics", "sport")


@dataclass(frozen=True)
class Split:
    texts: list[str]
    labels: list[int]


def read_split(path: Path) -> Split:
    """Texts with their parts joined and their doubled spaces undone."""
    table = read_texts(path, text_column="text_a", label_column="label")
    texts = [" ".join(text.replace("|||", " ").split()) for text in table.texts]
    return Split(texts, [int(label) for label in table.labels or []])


def class_words(split: Split, *, per_class: int = 40, least: int = 15) -> dict[str, list[str]]:
    """The words that tell each class from the others in the training texts, by smoothed log-odds: no model is asked."""
    counts = [Counter() for _ in CLASSES]
    for text, label in zip(split.texts, split.labels, strict=True):
        counts[label].update(set(re.findall(r"[a-z]{3,}", text.lower())))  # in how many documents
    documents = Counter(split.labels)
    words: dict[str, list[str]] = {}
    for label, name in enumerate(CLASSES):
        others = sum(documents.values()) - documents[label]
        odds = {
            word: ((inside + 1) / (documents[label] + 2)) / ((sum(c[word] for c in counts) - inside + 1) / (others + 2))
            for word, inside in counts[label].items()
            if inside >= least
        }
        words[name] = sorted(odds, key=lambda word: (-odds[word], word))[:per_class]
    return words
