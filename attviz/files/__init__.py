"""Every file that attviz writes goes through here, with these guarantees.

* **Killed at any instruction.** Under the name of an output stands the old file or the new one, whole; never a part of one. What the
  dead process left next to it carries our mark (``.NAME.attviz-<16 hex digits>.tmp``) and is removed by the next run that writes NAME.
* **A full disk.** The write raises ``OSError``, the old file stays, nothing else is left. `analyze` keeps what was done.
* **A power cut.** The file is synced before it is renamed and its folder afterwards: what was reported as written is on the disk.
* **Two writers.** Of two archives under one name the second is refused, with the process id of the first; a lock goes with its process.
  Pages, tables and figures take no lock: the last one stands, whole.
* **A fork.** A child never holds its parent's lock and cannot write into its parent's archive.
* **A read during a write.** A reader sees the old file to its end, or the new one. A file cut short under a reader is an error, no crash.

What we do not own is never changed: no symbolic link is followed when writing, only regular files are replaced, their mode stays, and
only names that carry our mark are removed. ``docs/files.md`` says the same for users.
"""

from attviz.files.atomic import replacing, replacing_text, sync_folder
from attviz.files.kinds import check_input, check_output, kind_of, open_regular
from attviz.files.lock import Lock
from attviz.files.temporary import discard_folder, new_folder, sweep

__all__ = [
    "Lock",
    "check_input",
    "check_output",
    "discard_folder",
    "kind_of",
    "new_folder",
    "open_regular",
    "replacing",
    "replacing_text",
    "sweep",
    "sync_folder",
]
