"""Files in and out: the attviz archive and the AttViz JSON."""

from attviz.io.archive import ArchiveDocuments, load, save

__all__ = ["ArchiveDocuments", "load", "save"]
