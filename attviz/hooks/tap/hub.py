"""One switch for both ways of seeing attention: the dispatcher tap, and the watched Python functions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from attviz.hooks.scope.model_map import Layout
from attviz.hooks.tap import dispatcher, functions
from attviz.hooks.tap.compiled_flex import compiled_flex_places
from attviz.hooks.tap.packages import package_places
from attviz.hooks.tap.transformers import transformers_places


def listen(listener: dispatcher.Listener, layout: Layout) -> Callable[[], None]:
    """Show the attention of this process to a listener; what this returns stops it and is idempotent.

    With compiled regions in the model no function is replaced: nobody could call it there, and compiled code would compile again.
    """
    dispatcher.add_listener(listener)
    try:
        places = () if layout.regions else chain(transformers_places(), compiled_flex_places(layout), package_places(layout))
        unwatch = functions.add_listener(listener, places)
    except BaseException:
        dispatcher.remove_listener(listener)
        raise

    def stop() -> None:
        unwatch()
        dispatcher.remove_listener(listener)

    return stop
