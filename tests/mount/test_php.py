"""PHP as www-data, the daemon as root: what Moodle does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tools import Place, as_www_data, sha256, state, works

MIB = 1 << 20
SIZES = {"100-bytes": 100, "4-MiB": 4 * MIB, "8-MiB": 8 * MIB, "1-GiB": 1024 * MIB}


@pytest.fixture
def sources() -> Iterator[Path]:
    """A directory that www-data may read, with a copy of the script."""
    directory = Path(tempfile.mkdtemp(prefix="wormfs-php-"))
    directory.chmod(0o755)
    shutil.copy(Path(__file__).parent / "php" / "moodle.php", directory)
    yield directory
    shutil.rmtree(directory)


def moodle(place: Place, sources: Path, source: Path) -> dict[str, dict[str, Any]]:
    done = as_www_data("php", sources / "moodle.php", place.path, source, "7", timeout_s=240)
    assert (done.returncode, done.stderr) == (0, ""), done
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    return {step["step"]: step for step in steps}


@pytest.mark.row("open-write-committed")
@pytest.mark.row("unlink-committed")
@pytest.mark.row("mkdir")
@pytest.mark.row("statfs")
@pytest.mark.parametrize("size", SIZES)
def test_store_retrieve_delete(place: Place, sources: Path, size: str) -> None:
    source = sources / "archive.zip"
    with source.open("wb") as file:
        head = os.urandom(min(SIZES[size], MIB))
        for _ in range(SIZES[size] // len(head)):
            file.write(head)
    expected = sha256(source)
    steps = moodle(place, sources, source)
    assert steps["space"]["free"] > 1 << 30
    assert steps["store"] | {"error": None} == {"step": "store", "error": None, "ok": True, "mode": 0o444}
    for refused in ("store-again", "put-contents", "put-contents-locked", "append", "rename-onto"):
        assert steps[refused]["ok"] is False, refused
    found = steps["retrieve"]
    assert found["readable"] is True
    assert found["size"] == SIZES[size]
    assert found["head"] == found["tail"] == min(SIZES[size], MIB)
    assert found["sha256"] == [expected, expected]
    assert steps["delete"]["ok"] is False and "not permitted" in steps["delete"]["error"]
    assert steps["rmdir-used"]["ok"] is False
    assert steps["mkdir"] == {"step": "mkdir", "error": None, "ok": True, "mode": 0o777}
    assert steps["rmdir"] == {"step": "rmdir", "error": None, "removed": 3}
    stored = place.data / "job-7" / "archive.zip"
    assert (sha256(stored), stored.stat().st_uid) == (expected, 33)
    assert state(place / "job-7" / "archive.zip") == "committed"
    assert os.listdir(place / "job-7") == ["archive.zip"]


@pytest.mark.row("close-not-last")
def test_a_file_that_is_open_while_php_runs_children(place: Place) -> None:
    script = """
        $file = fopen('f', 'w');
        fwrite($file, "one\\n");
        exec('true');
        fwrite($file, "two\\n");
        system('sleep 0.05');
        fwrite($file, "three\\n");
        var_dump(fclose($file));
    """
    assert works("php", "-r", script, cwd=place.path) == "bool(true)\n"
    assert (place / "f").read_text() == "one\ntwo\nthree\n"
    assert state(place / "f") == "committed"


@pytest.mark.row("close-not-last")
def test_a_background_child_of_php_keeps_it_open(place: Place) -> None:
    """fopen() does not close on exec, so the child has the file, whether it knows or not."""
    script = """
        $file = fopen('f', 'w');
        fwrite($file, "content");
        exec('sleep 1 > /dev/null 2>&1 &');
        fclose($file);
        echo 'done';
    """
    assert works("php", "-r", script, cwd=place.path) == "done"
    assert state(place / "f") == "writing"
    assert place.stored(place / "f").exists() is False
    subprocess.run(["sleep", "1"], check=True)
    for _ in range(200):
        if state(place / "f") == "committed":
            break
        works("sleep", "0.02")
    assert place.stored(place / "f").read_bytes() == b"content"


@pytest.mark.row("empty-file")
def test_tempnam_and_then_content(place: Place) -> None:
    script = "$f = tempnam('.', 'x'); file_put_contents($f, 'content'); echo $f;"
    name = works("php", "-r", script, cwd=place.root.parent / "other")
    path = Path(name)
    assert path.read_bytes() == b"content"
    assert state(path) == "committed"
