"""What travels through the house: frozen records without behaviour.

``nn.Module -> AttentionCall -> DiagonalRecord -> metric state -> NumPy -> Axes / page / file``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class AttentionCall(NamedTuple):  # a tuple: it is built on the hot path, where a frozen dataclass costs 1 us more
    """One attention as its operator saw it: either query, key and log-sum-exp, or the weights the model made itself.

    A call lives only while its operator runs: whoever is handed one reads it at once and keeps no tensor of it.

    Attributes:
        operator: Dispatcher name, such as ``"aten::_scaled_dot_product_flash_attention_for_cpu"``.
        query: After positional encoding, in the compute dtype of the kernel; None where only weights exist.
        key: Before ``repeat_kv`` where the model groups its heads; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: Natural logarithm, per query row.
        weights: Softmax output, before dropout.
        scale: Factor on ``query @ key.mT``.
        bias: Additive mask or bias as the operator received it, broadcastable to ``[batch, num_heads, q_len, kv_len]``.
        is_causal: The operator masked key ``j > i`` itself (top-left alignment, as torch SDPA does).
        kv_offset: Key slot of query 0; query ``i`` stands at key ``i + kv_offset``.
        diagonal: Set where the reader forms it itself: banded and blocked attention, packed texts, windows, softcaps.
        cu_seqlens: Where several texts are packed into one row: the start of each, and the total.
        weights_at: Set where only functions tell the scores (flex_attention): weight of every query ``i`` on key ``i + offset``.
        apart: True where query ``i + 1`` does not see key ``i``; set where neither weights nor bias can say so.
    """

    operator: str
    query: Float[Tensor, "batch num_heads q_len head_dim"] | None = None
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"] | None = None
    logsumexp: Float[Tensor, "batch num_heads q_len"] | None = None
    weights: Float[Tensor, "batch num_heads q_len kv_len"] | None = None
    scale: float = 1.0
    bias: Tensor | None = None
    is_causal: bool = False
    kv_offset: int = 0
    diagonal: Float[Tensor, "batch num_heads q_len"] | None = None
    cu_seqlens: Int[Tensor, " texts+1"] | None = None
    weights_at: Callable[[int | Tensor], Tensor] | None = None
    apart: Bool[Tensor, "batch q_len-1"] | None = None


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
        source: Operator that served the attention.
        document_ids: Where texts are packed into one row, the number of each query's text within its row, from 0; -1 behind the last.
    """

    layer: str | None
    layer_index: int
    step: int
    diagonal: Float[Tensor, "batch num_heads q_len"]
    token_ids: Int[Tensor, "batch q_len"] | None = None
    query_mask: Bool[Tensor, "batch q_len"] | None = None
    source: str = ""
    document_ids: Int[Tensor, "batch q_len"] | None = None


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
