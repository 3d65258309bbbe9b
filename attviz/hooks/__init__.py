"""Where attention happens (modules, scope) and what passes (tap, operators)."""
