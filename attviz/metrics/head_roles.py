"""What each head looks at (itself, its neighbours, the first token, earlier occurrences), and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attviz.errors import ArgumentError, MetricError, ReadingError
from attviz.metrics._streaming.feeds import LayerValues, per_token, read_layers
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, State
from attviz.metrics._streaming.streaming import StreamingMetric
from attviz.metrics.roles_table import RolesTable, Rule
from attviz.readings import Duplicate, Induction, Keys, Offset, Own, Reading, Tokens, Visible
from attviz.readings.protocol import NO_KEY_IDS
from attviz.records import DiagonalRecord

ROLES = ("own", "previous", "next", "first", "special", "duplicate", "induction")
USUAL = tuple(role for role in ROLES if role != "special")
_CONTROL = "control"


@dataclass(frozen=True, kw_only=True, eq=False)
class Blind(Reading):
    """Weight on an earlier key (or the own one) that was picked at random: what any key gets, the null of every role."""

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        batch, num_heads, q_len, kv_len = call.shape
        own = call.own_keys().expand(batch, 1, q_len)
        start = torch.zeros_like(own)
        if tokens.real_keys is not None and tokens.real_keys.shape == (batch, kv_len):
            start = tokens.real_keys.to(call.device).int().argmax(1)[:, None, None].expand_as(own)
        scattered = own * 48271 % 65521  # the same in every run, text and head
        found: Tensor = call.at(torch.where(own >= start, start + scattered % (own - start + 1).clamp_min(1), -1).expand(-1, num_heads, -1))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class SpecialChance(Reading):
    """Share of special tokens among the keys that a query can see (an upper bound under a sliding window)."""

    def read(self, call: Any, tokens: Tokens) -> Tensor:
        """``[batch, num_heads, q_len]``."""
        if tokens.key_ids is None or tokens.key_ids.shape[1] != call.shape[3]:
            raise ReadingError(NO_KEY_IDS)
        special = torch.isin(tokens.key_ids, torch.tensor(tokens.special_ids, device=tokens.key_ids.device)).to(call.device)
        if tokens.real_keys is not None:
            special = special & tokens.real_keys.to(call.device)
        own = call.own_keys().expand(call.shape[0], 1, call.shape[2])
        before = special.cumsum(1)[:, None].gather(2, own.clamp(0, call.shape[3] - 1))
        visible = call.visible().expand(call.shape[:3])
        count = torch.where(visible <= own + 1, before, special.sum(1)[:, None, None])  # a causal row sees those up to its own key
        share: Tensor = (count / visible.clamp_min(1)).clamp(max=1.0).float()
        return share


class HeadRoles(StreamingMetric):
    """What each head looks at: its mean attention to certain keys, compared with chance, and a label.

    ``own`` token, ``previous``, ``next`` and ``first`` one, ``special`` tokens, the last earlier occurrence of the same token
    (``duplicate``), and the token after that (``induction``).

    Chance is ``1 / visible keys`` of the same rows (for special tokens, their share among the visible keys). A text counts once: the
    error of a mean is taken between texts. A role stands out if its attention is at least ``least`` and twice chance, and further
    above chance than the error explains, at 5 % for all heads and roles together. If that cannot be decided yet, or two roles cannot be
    separated, the head is labelled uncertain. ``null`` is the attention to a key picked blindly: it should be near chance.

    On ordinary text, ``duplicate`` and ``induction`` need tokens that recur; :func:`attviz.head_roles` runs repeated random tokens.

    Args:
        roles: Which of ``ROLES``; by default all but ``"special"``, which needs a model whose configuration names its special tokens.
        least: Smallest share of a row's attention with which a role can stand out.
        every_forwards: Read every N-th forward of the capture; counting visible keys takes a pass over all pairs on some kernels.
        exclude_ids: Vocabulary ids whose rows to leave out.
        **kwargs: Of ``torchmetrics.Metric``.

    Raises:
        ArgumentError: If a role is unknown, or ``least`` is outside (0, 1).
    """

    def __init__(
        self,
        roles: Sequence[str] = USUAL,
        *,
        least: float = 0.25,
        every_forwards: int = 1,
        **kwargs: Any,
    ) -> None:
        if "reading" in kwargs:
            raise ArgumentError("HeadRoles: chooses its own readings. reading= is an option of HeadStatistics and similar metrics.")
        super().__init__(**kwargs)
        unknown = [role for role in roles if role not in ROLES]
        if unknown or not roles or isinstance(roles, str) or len(set(roles)) < len(roles):
            raise ArgumentError(f"HeadRoles: roles must be chosen from {', '.join(map(repr, ROLES))}, each at most once; got {roles!r}.")
        if not 0 < least < 1:
            raise ArgumentError(f"HeadRoles: least must be between 0 and 1, got {least!r}.")
        self.roles, self.least, self.every_forwards = tuple(roles), float(least), every_forwards
        every = every_forwards
        known: dict[str, Reading] = {
            "own": Own(every=every),
            "previous": Offset(-1, name="previous", every=every),
            "next": Offset(1, name="next", every=every),
            "first": Keys(first=1, every=every),
            "duplicate": Duplicate(every=every),
            "induction": Induction(every=every),
            _CONTROL: Blind(every=every),
        }
        if "special" in roles:
            known["special"] = Keys(special=True, every=every)
        self._masses = {role: known[role] for role in (*self.roles, _CONTROL)}
        self._visible, self._special = Visible(every=every), SpecialChance(every=every)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings it requests from the capture."""
        special = (self._special,) if "special" in self.roles else ()
        return (*self._masses.values(), self._visible, *special)

    def update(self, source: DiagonalRecord) -> None:  # type: ignore[override]
        """Add one layer whose record has the readings; a forward in which they were not due is ignored.

        Raises:
            MetricError: If no capture computed the readings, or the layer belongs to another model; the state is unchanged.
        """
        self._update_count -= 1  # of torchmetrics, which counts before it knows
        layers = read_layers(source, self._name)
        if not isinstance(source, DiagonalRecord):
            raise MetricError("HeadRoles: needs one DiagonalRecord at a time. Pass it to attviz.capture(model, metrics=[roles]).")
        for reading in self.readings:
            self._note(source, reading.name)
        if self._visible.name not in source.readings:
            if self._visible.name in source.reasons or self.every_forwards > 1:
                return
            raise MetricError(
                "HeadRoles: needs more than the diagonal. Pass it to attviz.capture(model, metrics=[roles]), or request its readings: "
                "attviz.capture(model, read=roles.readings)."
            )
        self._check(layers)
        self._state = self._state + self._sample_record(layers[0], source)
        self._update_count += 1

    def compute(self) -> RolesTable:
        """Compute the roles so far, over all processes.

        Raises:
            EmptyMetricError: If nothing was seen yet.
        """
        self._require_data()
        layers = sorted(self._state.layers)
        width = max(info.num_heads for info in self._state.layers.values())

        def table(name: str, role: str, read: Callable[[Moments], Tensor], fill: float = torch.nan) -> Tensor:
            rows = [read(self._state.moments[f"{name}/{role}/{index}"]).cpu() for index in layers]
            return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=fill) for row in rows])

        def stacked(name: str, read: Callable[[Moments], Tensor], fill: float = torch.nan) -> Tensor:
            return torch.stack([table(name, role, read, fill) for role in self.roles])

        return RolesTable(
            tuple(self._state.layers[index].name for index in layers),
            self.roles,
            stacked("mass", _mean),
            stacked("chance", _mean),
            stacked("excess", lambda sample: sample.std() / sample.count.sqrt()),
            table("mass", _CONTROL, _mean),
            stacked("mass", lambda sample: sample.count, 0).long(),
            Rule(self.least),
        )

    def _sample_record(self, layer: LayerValues, record: DiagonalRecord) -> State:
        where = layer.values.device
        visible = per_token(record, self._visible.name, self._name).to(where)
        counted = layer.valid(self._excluded_on(where)) & (visible > 1)  # a row without a choice says nothing
        samples: dict[str, Moments] = {}
        for role, reading in self._masses.items():
            if reading.name in record.readings:
                mass = per_token(record, reading.name, self._name).to(where)
                chance = 1 / visible
                if role == "special":
                    chance = per_token(record, self._special.name, self._name).to(where)
                valid = counted & (mass.abs() < torch.inf)
            else:
                mass = chance = torch.zeros_like(layer.values)
                valid = torch.zeros_like(counted)
            samples |= self._of_texts(role, layer.index, mass, chance, valid)
        return State({layer.index: LayerInfo(layer.num_heads, layer.name)}, samples, {})

    @staticmethod
    def _of_texts(role: str, index: int, mass: Tensor, chance: Tensor, valid: Tensor) -> dict[str, Moments]:
        """One number per text and head, so that long texts weigh no more and their tokens are not taken for independent."""
        count = valid.sum(2)
        seen = count > 0
        mean_mass, mean_chance = (torch.where(valid, value, 0).double().sum(2) / count.clamp_min(1) for value in (mass, chance))
        columns = {"mass": mean_mass, "chance": mean_chance, "excess": mean_mass - mean_chance}
        return {f"{name}/{role}/{index}": Moments.of(value, seen, (0,)) for name, value in columns.items()}

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        names = [f"{name}/{role}" for role in self._masses for name in ("mass", "chance", "excess")]
        return Layout({f"{name}/{index}": Cells((info.num_heads,)) for index, info in layers.items() for name in names}, {})

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "roles": list(self.roles)}


def _mean(sample: Moments) -> Tensor:
    return sample.seen(sample.mean)
