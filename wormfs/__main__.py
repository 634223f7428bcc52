"""``python -m wormfs``: the same as the ``wormfs`` command."""

from __future__ import annotations

import sys

from wormfs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
