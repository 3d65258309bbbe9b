"""What travels through the house: frozen records without behaviour.

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
        layer: Qualified module name; None where a whole-model compile left no name that can be trusted.
        layer_index: 0-based place in the order of execution.
        step: 0-based number of the forward since the capture began.
        diagonal: Probabilities in [0, 1], float32, detached; NaN where the query is padding.
        token_ids: Vocabulary ids of the queries, where the model has them.
        query_mask: True where the query is a real token; None where the model was given no mask.
        operator: Operator that served the attention.
        document_ids: Where texts are packed into one row, the number of each query's text within its row, from 0; -1 behind the last.
        readings: What else was read, by the name of the reading (:mod:`attviz.readings`).
        reasons: Why a reading could not be had, by its name.
        evidence: What showed that query and key ``i`` are token ``i``.
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


@dataclass(frozen=True, slots=True, eq=False)
class CrossRecord:
    """Attention of one layer to another sequence in one forward, as far as readings were asked of it.

    Attributes:
        layer: Qualified module name.
        layer_index: 0-based place in the order of execution, among the layers of cross-attention.
        step: 0-based number of the forward since the capture began.
        readings: What was read, by the name of the reading.
        reasons: Why a reading could not be had, by its name.
        token_ids: Vocabulary ids of the queries, where the model has them.
        query_mask: True where the query is a real token; None where the model was given no mask.
        operator: Operator that served the attention.
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
        diagonal: Of every layer and head, probabilities in [0, 1].
        token_ids: Its vocabulary ids, where the model has them.
        row: Its row in the batch.
        places: Where in that row its tokens stand.
    """

    diagonal: Float[Tensor, "num_layers num_heads tokens"]
    token_ids: Int[Tensor, " tokens"] | None
    row: int
    places: Int[Tensor, " tokens"]


class Captured(ABC):
    """What a Capture shows to the rooms below it: files, figures and the page take any of its kind."""

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Attention modules in order of execution."""

    @property
    @abstractmethod
    def documents(self) -> tuple[CapturedDocument, ...]:
        """The texts of the last forward one by one, without padding."""

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
        special: True for [CLS], [SEP], padding and their like.
        name: Shown in lists; a file name or a row number.
        label: Index of the true class, where known.
        prediction: Index of the class the model chose, where it classifies.
        probabilities: One per class, where the model classifies.
        grid: (rows, columns) where tokens are the patches of an image.
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
    """A data set seen through one model: what ``attviz.analyze`` returns, ``attviz.io.save`` keeps and ``attviz.view`` shows.

    Attributes:
        layers: Attention modules in order of execution; the first axis of every document's diagonal.
        documents: One per text (or per piece of a long text), in the order given; may be read from disk as it is asked for.
        label_names: One per class, where there are classes.
        model_name: Hub id or folder of the model.
        settings: What the run was asked for (maximum length, precision, ...), as text.
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
