"""Where attention happens: the map of a model, its hooks, its tokens, and the evidence."""
