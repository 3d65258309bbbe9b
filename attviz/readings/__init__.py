"""What can be read from a layer's attention without its matrix: one small frozen object each.

Pass them to ``attviz.capture(model, read=[...])`` and read ``cap.reading(name)``::

    from attviz import readings as r

    with attviz.capture(model, read=[r.Offset(-1, name="previous"), r.Rows(-1), r.RowEntropy(every=50)]) as cap:
        model(**batch)
    cap.reading("previous")               # [num_layers, batch, num_heads, q_len]
"""

from attviz.readings.at import At, Duplicate, Induction
from attviz.readings.keys import Keys, Segments, Window
from attviz.readings.offset import Offset, Own
from attviz.readings.protocol import Reading, Tokens
from attviz.readings.query_key import QueryKey
from attviz.readings.received import Received
from attviz.readings.rows import Rows, TopKeys
from attviz.readings.summary import Distance, MaxLogit, RowEntropy, Visible

__all__ = [
    "At",
    "Distance",
    "Duplicate",
    "Induction",
    "Keys",
    "MaxLogit",
    "Offset",
    "Own",
    "QueryKey",
    "Reading",
    "Received",
    "RowEntropy",
    "Rows",
    "Segments",
    "Tokens",
    "TopKeys",
    "Visible",
    "Window",
]
