"""What the diagonal shows of the test texts, and what it does not: every claim next to its chance level."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from agreement import Agreement, auc, mean_spearman, spearman
from data import CLASSES, Split
from occlusion import occlusion

from attviz.records import Analysis, Document
from attviz.vocabulary import vocabulary

PAPER_ACCURACY = 0.96  # BERT-base, AttViz paper
LEAST = 5  # occurrences of a token that is ranked


def findings(analysis: Analysis, model: Any, tokenizer: Any, words: dict[str, list[str]], train: Split, *, occluded: int) -> dict[str, Any]:
    """Accuracy, class words among the top tokens, agreement with occlusion."""
    found: dict[str, Any] = accuracy(analysis) | class_word_findings(analysis, words)
    chosen = [analysis.documents[place] for place in np.linspace(0, len(analysis.documents) - 1, occluded).astype(int)]
    falls = occlusion(model, tokenizer, chosen)
    return found | occlusion_findings(chosen, falls, rarity(train, tokenizer)) | {"occluded": occluded}


def accuracy(analysis: Analysis) -> dict[str, Any]:
    right = Counter((d.label, d.label == d.prediction) for d in analysis.documents)
    per_class = {name: right[index, True] / max(1, right[index, True] + right[index, False]) for index, name in enumerate(CLASSES)}
    total = sum(count for (_, good), count in right.items() if good) / len(analysis.documents)
    return {"accuracy": total, "accuracy_per_class": per_class, "documents": len(analysis.documents)}


def class_word_findings(analysis: Analysis, words: dict[str, list[str]]) -> dict[str, Any]:
    """Do the words of the classes rank above the other words? By the mean of all heads, by their maximum, and by each head."""
    table = vocabulary(analysis)
    kept = np.array([n >= LEAST and token.isalpha() and len(token) > 2 for token, n in zip(table.tokens, table.count, strict=True)])
    tokens = [token for token, keep in zip(table.tokens, kept, strict=True) if keep]
    wanted = {word for several in words.values() for word in several}
    members = np.array([token in wanted for token in tokens])
    heads = table.mean[kept]
    mean = heads.mean(axis=(1, 2))
    areas = np.array([[_area(heads[:, layer, head], members) for head in range(heads.shape[2])] for layer in range(heads.shape[1])])
    best = np.unravel_index(areas.argmax(), areas.shape)
    order = np.argsort(-mean)
    return {
        "ranked_tokens": len(tokens),
        "class_words_ranked": int(members.sum()),
        "auc_mean": auc(mean, members),
        "auc_strongest_head": auc(heads.max(axis=(1, 2)), members),
        "auc_frequency": auc(-table.count[kept].astype(float), members),
        "auc_best_head": float(areas.max()),
        "best_head": f"layer {best[0]} head {best[1]}",
        "auc_median_head": float(np.median(areas)),
        "auc_by_layer": [float(value) for value in areas.mean(axis=1)],
        "top_tokens": [tokens[place] for place in order[:20]],
        "class_words_in_top_35": int(members[order[:35]].sum()),
        "class_words_in_35_by_chance": 35 * float(members.mean()),
    }


def _area(values: np.ndarray, members: np.ndarray) -> float:
    return auc(values, members, permutations=2).value


def rarity(train: Split, tokenizer: Any) -> dict[int, float]:
    """Minus the logarithm of how often each token id occurs in the training texts: what one knows without any model."""
    counts = Counter(token for text in train.texts for token in tokenizer(text, truncation=True)["input_ids"])
    total = sum(counts.values())
    return {token: -float(np.log((count + 1) / total)) for token, count in counts.items()} | {-1: float(np.log(total))}


def occlusion_findings(documents: list[Document], falls: list[np.ndarray], rare: dict[int, float]) -> dict[str, Any]:
    """Rank correlations within each document between the fall of the logit and what is read off without occluding anything."""
    kept = [~np.isnan(fall) for fall in falls]
    drop = [np.abs(fall[keep]) for fall, keep in zip(falls, kept, strict=True)]
    rows = [d.diagonal.reshape(-1, len(d.tokens)).astype(float)[:, keep] for d, keep in zip(documents, kept, strict=True)]
    unseen = rare[-1]
    scarce = [np.array([rare.get(int(i), unseen) for i in d.token_ids[keep]]) for d, keep in zip(documents, kept, strict=True)]
    half = len(documents) // 2
    per_head = np.array([[spearman(values, fall) for values in row] for row, fall in zip(rows, drop, strict=True)])
    best = int(np.nanmean(per_head[:half], axis=0).argmax())  # chosen on one half, reported on the other
    num_heads = documents[0].diagonal.shape[1]
    return {
        "occlusion_mean": mean_spearman(_pairs([row.mean(axis=0) for row in rows], drop)),
        "occlusion_max": mean_spearman(_pairs([row.max(axis=0) for row in rows], drop)),
        "occlusion_std": mean_spearman(_pairs([row.std(axis=0, ddof=1) for row in rows], drop)),
        "occlusion_rarity": mean_spearman(_pairs(scarce, drop)),
        "rarity_mean": mean_spearman(_pairs([row.mean(axis=0) for row in rows], scarce)),
        "occlusion_best_head": mean_spearman(_pairs([row[best] for row in rows[half:]], drop[half:])),
        "occlusion_head": f"layer {best // num_heads} head {best % num_heads}",
    }


def _pairs(one: list[np.ndarray], other: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(one, other, strict=True))


def write_report(found: dict[str, Any], history: dict[str, Any], folder: Path) -> Path:
    """``report.md`` to read and ``report.json`` to compute with."""
    plain = {name: vars(value) | {"z": value.z} if isinstance(value, Agreement) else value for name, value in found.items()}
    (folder / "report.json").write_text(json.dumps({"training": history, **plain}, indent=1))
    path = folder / "report.md"
    path.write_text("\n".join(_lines(found, history)) + "\n")
    return path


def _lines(found: dict[str, Any], history: dict[str, Any]) -> list[str]:
    per_class = ", ".join(f"{name} {value:.1%}" for name, value in found["accuracy_per_class"].items())
    layers = ", ".join(f"{value:.2f}" for value in found["auc_by_layer"])
    return [
        "# BBC news: what the self-attention diagonal shows",
        "",
        f"{history['model']}, fine-tuned on {history['documents']} documents, {len(history['losses'])} epochs "
        f"(mean loss {', '.join(f'{loss:.3f}' for loss in history['losses'])}).",
        "",
        f"**Accuracy on {found['documents']} test documents: {found['accuracy']:.1%}** (the paper's BERT-base: {PAPER_ACCURACY:.0%}). "
        f"{per_class}.",
        "",
        "## Does it find the words of the classes?",
        "",
        "Class words: the 40 words of each class with the largest log-odds in the training texts; no model is asked. Area under the ROC",
        f"curve over {found['ranked_tokens']} words that occur at least {LEAST} times ({found['class_words_ranked']} of them class words).",
        "",
        "| ranked by | area |",
        "|---|---|",
        f"| mean diagonal of all heads | {found['auc_mean']} |",
        f"| maximum over heads of the mean diagonal | {found['auc_strongest_head']} |",
        f"| rarity in the test texts (no model) | {found['auc_frequency']} |",
        f"| best single head ({found['best_head']}), chosen with the answer in hand | {found['auc_best_head']:.3f} |",
        f"| median head | {found['auc_median_head']:.3f} |",
        "",
        f"Mean over the heads of each layer: {layers}. Among the 35 words with the largest mean: "
        f"{found['class_words_in_top_35']} class words ({found['class_words_in_35_by_chance']:.1f} by chance). "
        f"The first 20: {', '.join(found['top_tokens'])}.",
        "",
        "## Does it agree with occlusion?",
        "",
        f"Each token of {found['occluded']} documents replaced by [MASK]: how much does the logit of the predicted class move? Mean over",
        "documents of Spearman's rank correlation within each; the null shuffles the tokens of every document.",
        "",
        "| compared with occlusion | rank correlation |",
        "|---|---|",
        f"| mean diagonal of all heads | {found['occlusion_mean']} |",
        f"| maximum over heads | {found['occlusion_max']} |",
        f"| std over heads | {found['occlusion_std']} |",
        f"| best head on one half ({found['occlusion_head']}), tested on the other | {found['occlusion_best_head']} |",
        f"| rarity in the training texts (no model) | {found['occlusion_rarity']} |",
        "",
        f"Mean diagonal against rarity: {found['rarity_mean']}.",
    ]
