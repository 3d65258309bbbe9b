"""Tables of layers that come together: a name that one side knows is kept."""

from __future__ import annotations

import pytest

from attviz.errors import MetricError
from attviz.metrics._streaming.states import LayerInfo, merge_layers


@pytest.mark.parametrize(("mine", "theirs"), [("a", None), (None, "a"), ("a", "a")])
def test_a_name_that_one_side_knows_is_kept(mine, theirs):
    assert merge_layers({0: LayerInfo(4, mine)}, {0: LayerInfo(4, theirs)}) == {0: LayerInfo(4, "a")}


def test_layers_that_one_side_alone_has_are_added():
    assert merge_layers({0: LayerInfo(4, None)}, {1: LayerInfo(2, "b")}) == {0: LayerInfo(4, None), 1: LayerInfo(2, "b")}


@pytest.mark.parametrize("other", [LayerInfo(5, "a"), LayerInfo(4, "b")])
def test_layers_of_two_models_are_refused(other):
    with pytest.raises(MetricError, match="these come from two models"):
        merge_layers({0: LayerInfo(4, "a")}, {0: other})
