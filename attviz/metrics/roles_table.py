"""The result of HeadRoles, and the rule by which a head gets its label."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attviz.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd

NONE, UNCERTAIN = "none", "uncertain"


class Rule(NamedTuple):
    """When a role stands out.

    Attributes:
        least: Share of a row's attention that it must have.
        lift: Multiple of chance that it must reach.
        risk: Probability that any head is labelled by accident, over all heads and roles (Bonferroni).
        texts: Fewest texts from which an error can be estimated.
        apart: Standard errors of their difference that must separate the strongest role from the second.
    """

    least: float = 0.25
    lift: float = 2.0
    risk: float = 0.05
    texts: int = 5
    apart: float = 2.0


class FoundHead(NamedTuple):
    """A head and how much it attends to the keys of its role."""

    layer: int
    head: int
    mass: float
    lift: float


class RolesTable(NamedTuple):
    """Attention of each head to the keys of each role, float64; NaN where nothing was seen.

    Attributes:
        layers: Name of each layer; None if no name can be trusted.
        roles: Names of the first axis of ``mass``, ``chance``, ``error`` and ``texts``.
        mass: Mean over texts of the mean attention.
        chance: What uniform attention over the visible keys would be in the same rows.
        error: Standard error of ``mass - chance``, between texts.
        null: Mean attention to a key picked blindly.
        texts: Number of texts that counted.
        rule: When a role stands out.
    """

    layers: tuple[str | None, ...]
    roles: tuple[str, ...]
    mass: Float[Tensor, "num_roles num_layers num_heads"]
    chance: Float[Tensor, "num_roles num_layers num_heads"]
    error: Float[Tensor, "num_roles num_layers num_heads"]
    null: Float[Tensor, "num_layers num_heads"]
    texts: Int[Tensor, "num_roles num_layers num_heads"]
    rule: Rule = Rule()

    def __repr__(self) -> str:
        found = [f"{len(self.find(role))} {role}" for role in self.roles if self.find(role)]
        unsure = sum(label == UNCERTAIN for row in self.labels for label in row)
        heads = self.null.numel()
        return f"<RolesTable {len(self.layers)} layers, {heads} heads: {', '.join(found) or 'no role stands out'}; {unsure} uncertain>"

    @property
    def lift(self) -> Float[Tensor, "num_roles num_layers num_heads"]:
        """``mass / chance``: 1 is uniform attention."""
        return self.mass / self.chance

    @property
    def score(self) -> Float[Tensor, "num_roles num_layers num_heads"]:
        """Standard errors above chance."""
        return (self.mass - self.chance) / self.error.clamp_min(1e-12)

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """Role of each layer and head, ``"uncertain"``, or ``"none"`` if no role stands out."""
        layers, heads = self.null.shape
        return tuple(tuple(self._label(layer, head)[0] for head in range(heads)) for layer in range(layers))

    def candidate(self, layer: int, head: int) -> str:
        """The role that a head has, or may have if it is uncertain; ``""`` if none stands out."""
        return self._label(layer, head)[1]

    def find(self, role: str) -> list[FoundHead]:
        """Heads that certainly have this role, strongest first.

        Raises:
            ArgumentError: If the role is not one of :attr:`roles`.
        """
        if role not in self.roles:
            raise ArgumentError(f"RolesTable.find: role must be one of {', '.join(map(repr, self.roles))}, got {role!r}.")
        place, lift = self.roles.index(role), self.lift
        found = [
            FoundHead(layer, head, float(self.mass[place, layer, head]), float(lift[place, layer, head]))
            for layer, row in enumerate(self.labels)
            for head, label in enumerate(row)
            if label == role
        ]
        return sorted(found, key=lambda one: -one.mass)

    def to_pandas(self) -> pd.DataFrame:
        """One row per head: ``layer, layer_index, head, label, candidate, null``, and the mass, chance and error of each role."""
        import pandas as pd

        rows = []
        for layer, name in enumerate(self.layers):
            for head in range(self.null.shape[1]):
                label, candidate = self._label(layer, head)
                row: dict[str, object] = {"layer": name, "layer_index": layer, "head": head, "label": label, "candidate": candidate}
                row["null"] = float(self.null[layer, head])
                for place, role in enumerate(self.roles):
                    for column, values in ((role, self.mass), (f"{role}_chance", self.chance), (f"{role}_error", self.error)):
                        row[column] = float(values[place, layer, head])
                rows.append(row)
        return pd.DataFrame(rows)

    def _label(self, layer: int, head: int) -> tuple[str, str]:
        """The label, and the role that the head has or might have."""
        rule = self.rule
        mass, chance, error = (values[:, layer, head] for values in (self.mass, self.chance, self.error))
        strong = (mass >= rule.least) & (mass >= rule.lift * chance)  # NaN is not
        if not bool(strong.any()):
            return NONE, ""
        order = torch.where(strong, mass, -1).argsort(descending=True, stable=True).tolist()
        best = order[0]
        needed = NormalDist().inv_cdf(1 - rule.risk / max(1, self.mass.numel()))
        sure = int(self.texts[best, layer, head]) >= rule.texts and float((mass - chance)[best]) >= needed * float(error[best])
        if sure and len(order) > 1 and bool(strong[order[1]]):
            gap, spread = mass[best] - mass[order[1]], (error[best].square() + error[order[1]].square()).sqrt()
            sure = bool(gap >= rule.apart * spread) and bool(gap > 0)
        return (self.roles[best] if sure else UNCERTAIN), self.roles[best]
