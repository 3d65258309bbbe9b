"""The table of attention operators: one entry per operator, one file per family.

An entry has the dispatcher's name and turns arguments and results into an :class:`AttentionCall`. To add a
backend, write the reader, append the :class:`Operator` to the family's ``OPERATORS``, and add a row to the tests.
"""

from attviz.hooks.tap.operators.registry import Operator, register_operator, registered

__all__ = ["Operator", "register_operator", "registered"]
