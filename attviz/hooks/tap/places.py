"""Which Python functions a capture of a model watches, in addition to the dispatcher's operators."""

from __future__ import annotations

from attviz.hooks.scope.model_map import Layout
from attviz.hooks.tap.compiled_flex import compiled_flex_places
from attviz.hooks.tap.flashinfer import flashinfer_places
from attviz.hooks.tap.hub import Place
from attviz.hooks.tap.packages import package_places
from attviz.hooks.tap.transformer_engine import transformer_engine_places
from attviz.hooks.tap.transformers import transformers_places


def watched_places(layout: Layout) -> tuple[Place, ...]:
    """All places; none in a model with compiled regions, where nothing could call them and compiled code would be recompiled."""
    if layout.regions:
        return ()
    of_packages = (*package_places(layout), *flashinfer_places(), *transformer_engine_places())
    return (*transformers_places(), *compiled_flex_places(layout), *of_packages)
