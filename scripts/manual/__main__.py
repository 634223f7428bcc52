"""Write the manual pages: ``python -m scripts.manual DIRECTORY``, at the top of the source tree.

They are made of what the program itself says (click's help, the models of the settings) and of
config.example.yaml, so that they cannot say anything else. What no help says stands in ``texts``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from scripts.manual import commands, roff, settings
from wormfs import __version__
from wormfs.cli.main import COMMANDS
from wormfs.cli.mounthelper import helper


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    example = Path("config.example.yaml").read_text(encoding="utf-8")
    pages = {("wormfs", 1): commands.overview(), ("wormfs.yaml", 5): settings.body(example)}
    pages |= {(f"wormfs-{name}", 1): commands.command_page(name) for name in COMMANDS}
    pages[("mount.fuse.wormfs", 8)] = commands.helper_page(helper)
    for (title, number), body in pages.items():
        text = roff.page(title, number, date, __version__, body)
        (directory / f"{title}.{number}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
