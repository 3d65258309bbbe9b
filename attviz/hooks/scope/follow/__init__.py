"""Follows the axes of a model's inputs through its first forward: from which axis of which input does each axis of an attention come?"""
