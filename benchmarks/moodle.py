"""Measures the Moodle backend on a real mount and a real database: ``benchmarks/moodle.py postgresql``.

Large: ``cp`` of one file onto the mount (close returns when content is synced and the row committed),
beside ``cp`` of it into the pool, ``sha1sum`` and ``sync`` of the copy. Small: files of 4 KiB by several
writers, beside a plain script that does the same to pool and database (content synced and linked, one
transaction with the row), with neither spool nor FUSE. Rounds are interleaved; medians are told. It leaves
no mount, no process and no file behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # called as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.daemon import Daemon
from tests.support.databases import KINDS, make_server
from tests.support.moodle import Moodle, make_moodle, secret

MIB = 1 << 20
SMALL_BYTES = 4096

MOUNT_WRITER = r"""
import os, sys
directory, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
for number in range(count):
    fd = os.open(f"{directory}/{name}-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, os.urandom(4096))
    os.close(fd)
"""


def plain_writer(moodle: Moodle, name: str, count: int) -> None:
    """What a script does that stores in Moodle as safely, without wormfs. Same statements, same syncs."""
    connection = moodle.server.connect()
    connection.autocommit = False
    with contextlib.suppress(TypeError):
        connection.autocommit(False)  # PyMySQL's is a method
    sys.stdin.readline()
    for number in range(count):
        content = os.urandom(SMALL_BYTES)
        contenthash = hashlib.sha1(content).hexdigest()
        path = moodle.pool_path(contenthash)
        temporary = moodle.filedir / f"{name}.tmp"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for folder in (path.parent.parent, path.parent):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            sync_folder(folder.parent)
        os.link(temporary, path)
        temporary.unlink()
        sync_folder(path.parent)
        plain_rows(moodle, connection, f"{name}-{number}", contenthash)
    connection.close()


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def plain_rows(moodle: Moodle, connection: object, name: str, contenthash: str) -> None:
    """Lock the directory's row, look, insert the row and a second one, commit."""
    files = f"{moodle.prefix}files"
    hashes = [hashlib.sha1(f"{name}/{part}".encode()).hexdigest() for part in range(3)]
    lock = "FOR SHARE" if moodle.kind == "postgresql" else "LOCK IN SHARE MODE"
    with connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(f"SELECT id FROM {files} WHERE pathnamehash = %s {lock}", (hashes[2],))
        cursor.execute(f"SELECT id FROM {files} WHERE pathnamehash IN (%s, %s, %s)", hashes)
        row = "(%s, %s, 1007, 'plain', 'plain', 0, '/', %s, 4096, 1, 1, %s)"
        cursor.execute(
            f"INSERT INTO {files} (contenthash, pathnamehash, contextid, component, filearea, itemid, "
            f"filepath, filename, filesize, timecreated, timemodified, source) VALUES {row}, {row}",
            (contenthash, hashes[0], name, None, contenthash, hashes[1], name + ".json", "x" * 500),
        )
    connection.commit()  # type: ignore[attr-defined]


@contextlib.contextmanager
def spool_mounted_apart(base: Path) -> Iterator[Path]:
    """A directory of the same disk from which nothing can be linked into the pool."""
    inside, apart = base / "spool-inside", base / "spool"
    for folder in (inside, apart):
        folder.mkdir()
    subprocess.run(["mount", "--bind", inside, apart], check=True)
    try:
        yield apart
    finally:
        subprocess.run(["umount", "-l", apart], check=True)


@contextlib.contextmanager
def mounted(moodle: Moodle, base: Path, **settings: object) -> Iterator[Path]:
    options = moodle.options(course=7, database_password=secret(), spool_reserve="0", **settings)
    daemon = Daemon(base, {"law": {"type": "moodle", **options}})
    try:
        daemon.start()
        yield daemon.mountpoint / "law"
        daemon.stop()
    finally:
        daemon.clean_up()


def seconds(function: object, *arguments: object) -> float:
    begun = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - begun


def copy_to_mount(source: Path, law: Path, number: int) -> None:
    subprocess.run(["cp", source, law / f"large-{number}"], check=True)


def copy_plainly(source: Path, moodle: Moodle) -> None:
    target = moodle.filedir / "copy"
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sha1sum", target], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", target, moodle.filedir], check=True)


def at_once(commands: list[list[str]]) -> float:
    """Start all, let them begin together, wait for the last."""
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for command in commands]
    time.sleep(2)  # until all have imported what they need
    begun = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    for process in running:
        assert process.wait(300) == 0
    return time.perf_counter() - begun


def large(moodle: Moodle, law: Path, base: Path, size_mib: int, rounds: int) -> None:
    source = base / "source"
    found: dict[str, list[float]] = {"plain": [], "mount": []}
    for number in range(rounds):
        with source.open("wb") as file:
            # Other bytes each time: equal content would be there already.
            for _ in range(size_mib):
                file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
        found["plain"].append(seconds(copy_plainly, source, moodle))
        (moodle.filedir / "copy").unlink()
        found["mount"].append(seconds(copy_to_mount, source, law, number))
    rates = {name: size_mib / statistics.median(times) for name, times in found.items()}
    told = ", ".join(f"{name} {rate:,.0f} MiB/s" for name, rate in rates.items())
    print(f"{size_mib} MiB: {told}; mount / plain = {rates['mount'] / rates['plain']:.2f}", flush=True)


def small(moodle: Moodle, law: Path, base: Path, count: int, writers: int, rounds: int) -> None:
    each = count // writers
    found: dict[str, list[float]] = {"plain": [], "mount": []}
    for number in range(rounds):
        itself = [sys.executable, __file__, moodle.kind, "--plain-writer", str(moodle.server.base)]
        found["plain"].append(
            at_once(
                [
                    [*itself, str(base), moodle.prefix, f"plain-{number}-{w}", str(each)]
                    for w in range(writers)
                ]
            )
        )
        program = [sys.executable, "-c", MOUNT_WRITER, str(law)]
        found["mount"].append(at_once([[*program, f"{number}-{w}", str(each)] for w in range(writers)]))
    rates = {name: count / statistics.median(times) for name, times in found.items()}
    told = ", ".join(f"{name} {rate:,.0f} files/s" for name, rate in rates.items())
    print(
        f"{count} files, {writers} writers: {told}; mount / plain = {rates['mount'] / rates['plain']:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["large", "small"])
    parser.add_argument("--copied", action="store_true", help="a spool that cannot be linked from")
    parser.add_argument("--plain-writer", nargs=5, metavar=("SERVER", "BASE", "PREFIX", "NAME", "COUNT"))
    arguments = parser.parse_args()
    if arguments.plain_writer:
        server_base, base, prefix, name, count = arguments.plain_writer
        server = KINDS[arguments.kind].__new__(KINDS[arguments.kind])
        server.base, server.process = Path(server_base), None
        plain_writer(Moodle(arguments.kind, server, Path(base), prefix), name, int(count))
        return
    base = Path(tempfile.mkdtemp(prefix="wormfs-bench-moodle-"))
    server = make_server(arguments.kind, durable=True)
    try:
        moodle = make_moodle(arguments.kind, base, server)
        with contextlib.ExitStack() as opened:
            settings: dict[str, object] = {}
            if arguments.copied:
                settings["spool"] = str(opened.enter_context(spool_mounted_apart(base)))
            law = opened.enter_context(mounted(moodle, base, **settings))
            # The first file finds out whether the spool can be linked from.
            subprocess.run(["cp", "/etc/hostname", law / "first"], check=True)
            if arguments.only != "small":
                large(moodle, law, base, arguments.size_mib, arguments.rounds)
            if arguments.only != "large":
                small(moodle, law, base, arguments.files, arguments.writers, arguments.rounds)
    finally:
        server.stop()
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
