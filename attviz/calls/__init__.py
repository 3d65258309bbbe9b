"""How much: the one room where attention numbers are made."""
