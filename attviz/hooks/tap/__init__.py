"""What runs: the attention operators and functions that a capture sees."""
