"""The programs that people use, as they are: exit status, content, and what stays."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import PlaceIn
from tests.support.tools import Place, fails, run, sha256, state, unchanged, wait_committed, works

WHEN_NS = 1_234_567_890_123_456_789


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that an archive may hold."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "empty-directory").mkdir()
    (tree / "empty").touch()
    (tree / "small").write_bytes(b"small")
    (tree / "a" / "Prüfung 1 (neu).zip").write_bytes(os.urandom(300_000))
    (tree / "a" / "b" / "big").write_bytes(os.urandom(5_000_000))
    (tree / "small").chmod(0o640)
    os.setxattr(tree / "small", "user.course", b"algebra")
    for path in sorted(tree.rglob("*"), reverse=True):
        os.chown(path, 1234, 4321)
        os.utime(path, ns=(WHEN_NS, WHEN_NS))
    return tree


def same_files(one: Path, other: Path) -> None:
    """The same names with the same bytes, all of them records where they can be."""

    def content(root: Path) -> dict[str, str]:
        return {
            str(path.relative_to(root)): sha256(path) if path.is_file() else "directory"
            for path in root.rglob("*")
        }

    assert content(one) == content(other)


def same_attributes(one: Path, other: Path) -> None:
    """Owner, group, times, and mode but for the write bits of files."""
    for path in one.rglob("*"):
        was, now = path.stat(), (other / path.relative_to(one)).stat()
        lost = 0o222 if path.is_file() and path.stat().st_size else 0
        assert now.st_mode & ~0o222 == was.st_mode & ~0o222, path
        assert not now.st_mode & lost, path
        kept = (was.st_uid, was.st_gid, was.st_mtime_ns)
        assert (now.st_uid, now.st_gid, now.st_mtime_ns) == kept, path


def test_cp(place: Place, source: Path) -> None:
    works("cp", "-r", source, place / "copy")
    same_files(source, place / "copy")
    assert state(place / "copy" / "a" / "b" / "big") == "committed"


def test_cp_a(place: Place, source: Path) -> None:
    works("cp", "-a", source, place / "copy")
    same_files(source, place / "copy")
    same_attributes(source, place / "copy")
    assert os.getxattr(place / "copy" / "small", "user.course") == b"algebra"
    assert (place / "copy" / "small").stat().st_mode & 0o777 == 0o440
    works("cp", "-a", place / "copy", source.parent / "back")
    same_files(source, source.parent / "back")
    assert os.getxattr(source.parent / "back" / "small", "user.course") == b"algebra"


@pytest.mark.row("rename-existing")
@pytest.mark.row("unlink-committed")
@pytest.mark.parametrize("option", ["-f", "--remove-destination", "-n", "-u", "-b", "--no-clobber", "-a"])
def test_cp_onto_a_record(place: Place, source: Path, option: str) -> None:
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"):
        done = run("cp", option, source / "small", place / "f")
        keeps = option in ("-n", "-u", "--no-clobber")
        # -u sees an older source and leaves the target alone; -n never touches it.
        assert (done.returncode == 0) == keeps, done
        assert keeps or "not permitted" in done.stderr
    assert place.visible() == {"f"}


@pytest.mark.row("rename-committed")
def test_mv_within_a_backend(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    (place / "d").mkdir()
    with unchanged(place, place / "f"):
        fails("mv", place / "f", place / "g", saying="Operation not permitted")
        fails("mv", place / "f", place / "d", saying="Operation not permitted")
    works("mv", place / "d", place / "e")
    assert place.visible() == {"f", "e"}


@pytest.mark.row("rename-across")
def test_mv_into_the_mount_and_out_of_it(place: Place, place_in: PlaceIn, source: Path) -> None:
    works("mv", source / "a", place / "a")
    assert not (source / "a").exists()
    assert (place / "a" / "b" / "big").stat().st_size == 5_000_000
    other = place_in("other")
    fails("mv", place / "a" / "b" / "big", other / "big", saying="cannot remove")
    assert sha256(other / "big") == sha256(place / "a" / "b" / "big"), "a copy, and the record stays"
    (other / "there").write_bytes(b"record")
    with unchanged(other, other / "there"):
        fails("mv", "-f", source / "small", other / "there", saying="Operation not permitted")
        assert (source / "small").exists()


def test_tar_in_and_out(place: Place, source: Path) -> None:
    archive = place / "archive.tar.gz"
    works("tar", "--format=posix", "-czf", archive, "-C", source, ".")
    assert state(archive) == "committed"
    (place / "out").mkdir()
    works("tar", "-xzf", archive, "-C", place / "out")
    same_files(source, place / "out")
    same_attributes(source, place / "out")
    (source.parent / "out").mkdir()
    works("tar", "-xzf", archive, "-C", source.parent / "out")
    same_files(source, source.parent / "out")
    works("sh", "-c", "tar -cf - -C out . | gzip > piped.tar.gz", cwd=place.path)
    works("tar", "-tzf", place / "piped.tar.gz")


@pytest.mark.row("unlink-committed")
def test_tar_over_records(place: Place, source: Path) -> None:
    archive = source.parent / "archive.tar"
    works("tar", "-cf", archive, "-C", source, "small")
    (place / "small").write_bytes(b"record")
    for option in ("--overwrite", "--unlink-first", "--recursive-unlink"):
        with unchanged(place, place / "small"):
            fails("tar", "-xf", archive, option, "-C", place.path)
    with unchanged(place, place / "small"):
        fails("tar", "-xf", archive, "-C", place.path)
    with unchanged(place, place / "small"):
        works("tar", "-xf", archive, "--skip-old-files", "-C", place.path)


def test_rsync_inplace(place: Place, source: Path) -> None:
    """It sets the mode after close: without a settle window only one that changes nothing."""
    options = ("-rp", "--inplace", "--whole-file", "--chmod=F400")
    works("rsync", *options, f"{source}/", f"{place.path}/copy/")
    same_files(source, place / "copy")
    works("rsync", *options, "-c", f"{source}/", f"{place.path}/copy/")
    (source / "small").write_bytes(b"other")
    with unchanged(place, place / "copy" / "small"):
        fails("rsync", *options, "-c", f"{source}/", f"{place.path}/copy/")
    done = run("rsync", "-r", "--inplace", f"{source}/", f"{place.path}/other/")
    assert done.returncode == 23 and "failed to set permissions" in done.stderr
    same_files(source, place / "other")


@pytest.mark.row("settle")
def test_rsync_inplace_with_a_settle_window(place_in: PlaceIn, source: Path) -> None:
    place = place_in("settling")
    works("rsync", "-a", "--inplace", f"{source}/", f"{place.path}/copy/")
    wait_committed(place / "copy" / "small")
    same_files(source, place / "copy")


@pytest.mark.row("settle")
@pytest.mark.row("rename-settling")
def test_rsync_a_with_a_settle_window(place_in: PlaceIn, source: Path) -> None:
    place = place_in("settling")
    works("rsync", "-aX", "--filter=-x user.wormfs.*", f"{source}/", f"{place.path}/copy/")
    same_files(source, place / "copy")
    for name in ("a/b/big", "small", "empty"):
        wait_committed(place / "copy" / name)
    same_attributes(source, place / "copy")
    assert os.getxattr(place / "copy" / "small", "user.course") == b"algebra"
    same_files(source, place.stored(place / "copy"))
    again = works("rsync", "-a", "--itemize-changes", "--chmod=F-w", f"{source}/", f"{place.path}/copy/")
    # Only times of directories may differ: files appeared in them at the end of the window.
    assert all(line.startswith(".d..t") for line in again.splitlines()), again


@pytest.mark.row("rename-committed")
def test_rsync_a_without_a_window_fails_and_harms_nothing(place: Place, source: Path) -> None:
    fails("rsync", "-a", f"{source}/", f"{place.path}/copy/", saying="Operation not permitted")
    names = {path.name for path in (place / "copy").rglob("*")}
    assert "small" not in names, "the name is not there half done"


def test_dd(place: Place) -> None:
    works("dd", "if=/dev/urandom", "of=a", "bs=8k", "count=100", "status=none", cwd=place.path)
    works("dd", "if=a", "of=b", "bs=1M", "conv=fsync", "status=none", cwd=place.path)
    works("dd", "if=a", "of=c", "bs=64k", "conv=fdatasync,notrunc", "status=none", cwd=place.path)
    works("dd", "if=a", "of=d", "bs=64k", "oflag=append", "conv=notrunc", "status=none", cwd=place.path)
    works("dd", "if=a", "of=e", "bs=64k", "seek=1", "conv=notrunc,sparse", "status=none", cwd=place.path)
    works("dd", "if=a", "of=g", "bs=64k", "oflag=direct", "iflag=fullblock", "status=none", cwd=place.path)
    assert len({sha256(place / name) for name in "abcdg"}) == 1
    assert (place / "e").stat().st_size == 819_200 + 65_536
    for option in ("oflag=append", "conv=notrunc", "conv=nocreat", "conv=excl", "seek=5"):
        with unchanged(place, place / "b"):
            fails("dd", "if=a", "of=b", "bs=8k", option, "status=none", cwd=place.path)


@pytest.mark.row("settle")
def test_install(place: Place, place_in: PlaceIn, source: Path) -> None:
    """It sets mode and owner after close, from 0600: that needs the settle window."""
    works("install", "-m", "600", source / "small", place / "f")
    works("install", "-d", "-m", "2755", place / "made")
    with unchanged(place, place / "f"):
        fails("install", source / "a" / "b" / "big", place / "f", saying="Operation not permitted")
    fails("install", "-m", "640", source / "small", place / "g", saying="cannot change permissions")
    settling = place_in("settling")
    works("install", "-m", "640", "-o", "1234", "-g", "4321", source / "small", settling / "f")
    works("install", "-D", source / "small", settling / "x" / "y" / "f")
    wait_committed(settling / "f")
    found = (settling / "f").stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o440, 1234, 4321)


@pytest.mark.row("attributes-committed")
def test_shutil(place: Place, source: Path) -> None:
    shutil.copyfile(source / "small", place / "copyfile")
    shutil.copy(source / "a" / "b" / "big", place / "copy")  # asks for the mode that it has
    shutil.copytree(source / "a", place / "tree", copy_function=shutil.copyfile)
    same_files(source / "a", place / "tree")
    with unchanged(place, place / "copy"):
        with pytest.raises(PermissionError):
            shutil.copyfile(source / "small", place / "copy")
        with pytest.raises(PermissionError):
            shutil.rmtree(place / "tree")
        with pytest.raises(PermissionError):
            shutil.move(place / "copy", place / "again")
    with pytest.raises(PermissionError):
        shutil.copy2(source / "small", place / "dated")
    assert (place / "dated").read_bytes() == b"small", "the content was complete before"
    with unchanged(place, place / "copy"):
        (place / "copy").chmod(0o644)  # what its writer gave


@pytest.mark.row("settle")
def test_shutil_with_a_settle_window(place_in: PlaceIn, source: Path) -> None:
    place = place_in("settling")
    shutil.copytree(source, place / "tree")
    shutil.move(source / "a" / "b" / "big", place / "moved")
    assert not (source / "a" / "b" / "big").exists()
    wait_committed(place / "tree" / "small")
    wait_committed(place / "moved")
    assert (place / "moved").stat().st_size == 5_000_000
    assert (place / "tree" / "small").stat().st_mtime_ns == WHEN_NS


def test_cp_a_from_one_backend_to_another(place: Place, place_in: PlaceIn, source: Path) -> None:
    works("cp", "-a", source, place / "copy")
    other = place_in("other")
    works("cp", "-a", place / "copy", other / "copy")
    same_files(place / "copy", other / "copy")
    assert os.getxattr(other / "copy" / "small", "user.course") == b"algebra"
    assert os.getxattr(other / "copy" / "small", "user.wormfs.backend") == b"other"


@pytest.mark.row("attributes-writing")
def test_shutil_copy2_keeps_what_it_can(place_in: PlaceIn, source: Path) -> None:
    """It sets times and modes after close: that needs the settle window."""
    place = place_in("settling")
    shutil.copy2(source / "small", place / "f")
    assert (place / "f").stat().st_mtime_ns == WHEN_NS
    wait_committed(place / "f")
    assert (place / "f").stat().st_mtime_ns == WHEN_NS


def test_touch_tee_sum_find_du_ln(place: Place, place_in: PlaceIn) -> None:
    other = place_in("other")
    works("touch", other / "touched")
    works("sh", "-c", "echo content | tee f g > /dev/null", cwd=place.path)
    assert (place / "f").read_bytes() == (place / "g").read_bytes() == b"content\n"
    with unchanged(place, place / "f"):
        fails("touch", place / "f", saying="not permitted")
        done = run("tee", place / "f", stdin=b"x")
        assert done.returncode != 0
        done = run("tee", "-a", place / "f", stdin=b"x")
        assert done.returncode != 0
        fails("ln", place / "f", place / "hard", saying="not permitted")
        fails("ln", "-s", "f", place / "soft", saying="not permitted")
        fails("truncate", "-s", "0", place / "f", saying="not permitted")
        fails("sed", "-i", "s/c/d/", place / "f")
        fails("shred", "-n", "1", place / "f")
        fails("rm", "-rf", place / "f", saying="not permitted")
        fails("chmod", "777", place / "f", saying="not permitted")
        works("chmod", "a-w", place / "f")
    expected = hashlib.sha256(b"content\n").hexdigest()
    assert works("sha256sum", place / "f").split()[0] == expected
    works("sh", "-c", "sha256sum f g > SUMS && sha256sum -c SUMS --quiet", cwd=place.path)
    found = works("find", place.path, "-type", "f", "-newermt", "2000-01-01", "-perm", "/444").split()
    assert {Path(path).name for path in found} >= {"f", "g", "SUMS"}
    assert int(works("du", "-sb", place / "f").split()[0]) == 8
    works("du", "-a", place.path)
    works("ls", "-laRi", place.path)
    works("stat", place / "f", place.path)


def test_editors_with_a_settle_window(place_in: PlaceIn) -> None:
    """Write a new file, move the old one away, move the new one there, as many editors do."""
    place = place_in("settling")
    (place / "notes").write_bytes(b"one\n")
    line = (
        "cp notes notes~; echo two > .notes.swp; mv notes notes.old; mv .notes.swp notes; rm notes.old notes~"
    )
    works("sh", "-c", line, cwd=place.path)
    wait_committed(place / "notes")
    assert place.stored(place / "notes").read_bytes() == b"two\n"
    assert place.visible() == {"notes"}


def test_a_pipe_whose_reader_goes(place: Place) -> None:
    done = subprocess.run(
        ["bash", "-c", "set -o pipefail; yes | head -c 1000000 > f"], cwd=place.path, capture_output=True
    )
    assert done.returncode == 141
    wait_committed(place / "f")
    assert (place / "f").stat().st_size == 1_000_000
