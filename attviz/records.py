"""The data that moves between the parts of attviz: frozen records without behaviour.

``nn.Module -> AttentionCall -> DiagonalRecord (readings) -> metric state -> NumPy -> Axes / page / file``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class DiagonalRecord:
    """The self-attention diagonal of one layer in one forward.

    Attributes:
        layer: Qualified module name; None if the whole model was compiled and no name can be trusted.
        layer_index: 0-based position in the order of execution.
        step: 0-based number of the forward since the capture began.
        diagonal: Probabilities in [0, 1], float32, detached; NaN where the query is padding.
        token_ids: Vocabulary ids of the queries, if the model has them.
        query_mask: True where the query is a real token; None if the model was given no mask.
        operator: The operator that computed the attention.
        document_ids: If texts are packed into one row, the number of each query's text within its row, from 0; -1 after the last.
        readings: What else was read, by name of the reading (:mod:`attviz.readings`).
        reasons: Why a reading is missing, by its name.
        evidence: How attviz knows that query ``i`` and key ``i`` are token ``i``.
        heads: (first, total) if tensor parallelism leaves only some heads to this process: the first of them, and the number of heads
            on all ranks; None if this process has them all.
    """

    layer: str | None
    layer_index: int
    step: int
    diagonal: Float[Tensor, "batch num_heads q_len"]
    token_ids: Int[Tensor, "batch q_len"] | None = None
    query_mask: Bool[Tensor, "batch q_len"] | None = None
    operator: str = ""
    document_ids: Int[Tensor, "batch q_len"] | None = None
    readings: Mapping[str, Tensor] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    evidence: str = ""
    heads: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CrossRecord:
    """Attention of one layer to another sequence in one forward: the readings that were requested.

    Attributes:
        layer: Qualified module name.
        layer_index: 0-based position in the order of execution, among the cross-attention layers.
        step: 0-based number of the forward since the capture began.
        readings: What was read, by name of the reading.
        reasons: Why a reading is missing, by its name.
        token_ids: Vocabulary ids of the queries, if the model has them.
        query_mask: True where the query is a real token; None if the model was given no mask.
        operator: The operator that computed the attention.
    """

    layer: str | None
    layer_index: int
    step: int
    readings: Mapping[str, Tensor]
    reasons: Mapping[str, str] = field(default_factory=dict)
    token_ids: Int[Tensor, "batch q_len"] | None = None
    query_mask: Bool[Tensor, "batch q_len"] | None = None
    operator: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class CapturedDocument:
    """One text of a forward: a row of the batch without its padding, or one of several texts packed into a row.

    Attributes:
        diagonal: Probabilities in [0, 1] of every layer and head.
        token_ids: Its token ids, if the model has them.
        row: Its row in the batch.
        places: Positions of its tokens in that row.
    """

    diagonal: Float[Tensor, "num_layers num_heads tokens"]
    token_ids: Int[Tensor, " tokens"] | None
    row: int
    places: Int[Tensor, " tokens"]


class Captured(ABC):
    """What files, figures and the page need from a Capture; they accept anything that provides it."""

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Attention modules in order of execution."""

    @property
    def model_name(self) -> str:
        """Hub id or folder of the model, else the name of its class; empty where it is not known."""
        return ""

    @property
    @abstractmethod
    def documents(self) -> tuple[CapturedDocument, ...]:
        """The texts of the last forward, one by one and without padding."""

    @property
    @abstractmethod
    def records(self) -> tuple[DiagonalRecord, ...]:
        """Records of the last forward, in order of execution."""

    @property
    @abstractmethod
    def cross_records(self) -> tuple[CrossRecord, ...]:
        """Records of cross-attention in the last forward, in order of execution."""


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One analysed text (or image, or sound) with the diagonals of every layer and head, on the CPU.

    Attributes:
        text: The text as the user gave it.
        tokens: One string per token, as the tokenizer spells it (``"##ing"``, ``"Ġthe"``), special tokens included.
        diagonal: Probabilities in [0, 1], float16 or float32.
        token_ids: Vocabulary ids; None for patches and frames.
        offsets: Start and end of each token in ``text`` (characters); (0, 0) for tokens that are not in it.
        special: True for [CLS], [SEP], padding and the like.
        name: Shown in lists; a file name or a row number.
        label: Index of the true class, if known.
        prediction: Index of the class the model predicted, if it classifies.
        probabilities: One per class, if the model classifies.
        grid: (rows, columns) if the tokens are patches of an image.
    """

    text: str
    tokens: tuple[str, ...]
    diagonal: Float[np.ndarray, "num_layers num_heads num_tokens"]
    token_ids: Int[np.ndarray, " num_tokens"] | None = None
    offsets: Int[np.ndarray, "num_tokens 2"] | None = None
    special: Bool[np.ndarray, " num_tokens"] | None = None
    name: str = ""
    label: int | None = None
    prediction: int | None = None
    probabilities: Float[np.ndarray, " num_classes"] | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A data set seen through one model: what ``attviz.analyze`` returns, ``attviz.io.save`` stores and ``attviz.view`` shows.

    Attributes:
        layers: Attention modules in order of execution; the first axis of every document's diagonal.
        documents: One per text (or per piece of a long text), in the order given; may be read from disk on demand.
        label_names: One per class, if there are classes.
        model_name: Hub id or folder of the model.
        settings: Settings of the run (maximum length, precision, ...), as text.
    """

    layers: tuple[str, ...]
    documents: Sequence[Document]
    label_names: tuple[str, ...] | None = None
    model_name: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        name = f"{self.model_name}: " if self.model_name else ""
        return f"<Analysis {name}{len(self.documents)} documents, {len(self.layers)} layers>"


@dataclass(frozen=True, slots=True)
class AttvizVector:
    """One named row of an AttViz JSON token set: a value in [0, 1] per token, with its colour and visibility."""

    values: tuple[float, ...]
    name: str | int | None = None
    color: str | None = None
    visible: bool = True


@dataclass(frozen=True, slots=True)
class AttvizSet:
    """One tokenisation of a document in the AttViz JSON, with its vectors (each as long as ``tokens``)."""

    tokens: tuple[str, ...]
    vectors: tuple[AttvizVector, ...]
    name: str | None = None
    visible: bool = True


@dataclass(frozen=True, slots=True)
class AttvizDocument:
    """One document of the AttViz JSON (definitions in ``attviz.io``).

    ``activations`` are (name, value) pairs, the class scores of the original; ``highlight`` is (block, vector) of ``hilight``.
    """

    text: str
    sets: tuple[AttvizSet, ...] = ()
    name: str | None = None
    activations: tuple[tuple[str | None, str | float], ...] = ()
    highlight: tuple[int, int] | None = None
    extra: dict[str, object] = field(default_factory=dict)
