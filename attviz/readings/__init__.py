"""What one can ask of the attention of a layer: one small frozen object a file."""
