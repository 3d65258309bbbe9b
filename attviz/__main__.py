"""``python -m attviz``: the same as the ``attviz`` command."""

import sys

from attviz.cli import main

if __name__ == "__main__":
    sys.exit(main())
