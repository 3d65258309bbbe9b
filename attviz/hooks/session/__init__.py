"""Whose call it is: from operator calls to the records of a forward."""
