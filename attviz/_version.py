"""The version, in the one place that has it: the package, its metadata and the changelog's newest heading agree (a test holds that)."""

__version__ = "0.2.0"
