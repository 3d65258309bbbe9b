"""Every file that attviz writes goes through here, with these guarantees.

* **Killed at any instruction.** The name of an output refers to the complete old file or the complete new one, never to a part. Files
  that a dead process left next to it carry our mark (``.NAME.attviz-<16 hex digits>.tmp``); the next run that writes NAME removes them.
* **A full disk.** The write raises ``OSError``, the old file stays, nothing else is left. `analyze` keeps the work done so far.
* **A power cut.** The file is synced before it is renamed and its folder afterwards: what was reported as written is on disk.
* **Two writers.** A second writer of the same archive is refused, with the process id of the first; a lock ends with its process.
  Pages, tables and figures take no lock: the last one wins, complete.
* **A fork.** A child never holds its parent's lock and cannot write into its parent's archive.
* **A read during a write.** A reader sees all of the old file, or the new one. A file truncated while it is read is an error, not a crash.

Nothing that is not ours is changed: no symbolic link is followed when writing, only regular files are replaced, they keep their mode, and
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
