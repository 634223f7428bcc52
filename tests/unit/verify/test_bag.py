"""BagIt bags, made and validated by the real library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import bagit
import pytest

from tests.conformance.drivers import LocalStorage, store
from wormfs.backends.base import Backend
from wormfs.errors import AlreadyExists, DigestMismatch, InvalidName, NotFound, Unsupported
from wormfs.model import DirectoryAttributes, Key
from wormfs.verify.bag import Exporter
from wormfs.verify.reading import BLOCK_BYTES


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def backend(storage: LocalStorage) -> Iterator[Backend]:
    backend = storage.backend()
    backend.start()
    backend.make_directory(Key(b"job-1"), DirectoryAttributes())
    store(storage, backend, Key(b"job-1/exam.zip"), b"x" * (BLOCK_BYTES + 1))
    store(storage, backend, Key("job-1/Prüfung 100%.zip".encode()), b"")
    store(storage, backend, Key(b"other"), b"other")
    yield backend
    backend.close()


Export = Callable[..., tuple[Path, list[tuple[int, int]]]]


@pytest.fixture
def export(backend: Backend, tmp_path: Path) -> Export:
    def make(scope: bytes = b"", name: str = "bag") -> tuple[Path, list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        exporter = Exporter(
            backend, Key(scope), tmp_path / name, lambda files, size: told.append((files, size))
        )
        totals = exporter.totals()
        exporter.export("a test")
        assert totals == tuple(sum(column) for column in zip(*told, strict=True))
        return tmp_path / name, told

    return make


def test_a_bag_holds_the_tree_and_is_valid(export: Export) -> None:
    path, _ = export()
    bag = bagit.Bag(str(path))
    bag.validate()
    assert set(bag.payload_entries()) == {
        "data/job-1/exam.zip",
        "data/job-1/Prüfung 100%.zip",
        "data/other",
    }
    assert bag.algorithms == ["sha256"]
    assert bag.info["External-Description"] == "a test"
    assert (path / "data" / "other").read_bytes() == b"other"


@pytest.mark.parametrize(("scope", "inside"), [(b"job-1", "exam.zip"), (b"job-1/exam.zip", "exam.zip")])
def test_a_part_of_the_tree_stands_below_data_by_itself(export: Export, scope: bytes, inside: str) -> None:
    path, _ = export(scope)
    assert (path / "data" / inside).stat().st_size == BLOCK_BYTES + 1
    bagit.Bag(str(path)).validate()


def test_a_file_that_is_not_its_record_ends_the_export_and_nothing_is_left(
    storage: LocalStorage, export: Export, tmp_path: Path
) -> None:
    storage.alter(Key(b"other"), b"OTHER")
    with pytest.raises(DigestMismatch, match=r"^archive/other: it is not what its record says"):
        export()
    assert not (tmp_path / "bag").exists()


def test_a_file_without_a_record_ends_the_export(
    storage: LocalStorage, export: Export, tmp_path: Path
) -> None:
    storage.place_foreign(Key(b"foreign"), b"x")
    with pytest.raises(Unsupported, match=r"^archive/foreign: it has no record"):
        export()
    assert not (tmp_path / "bag").exists()


def test_a_copy_that_went_wrong_is_found(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bag = bagit.make_bag

    def spoiling(directory: str, *arguments: object, **more: object) -> object:
        (Path(directory) / "other").write_bytes(b"OTHER")
        return make_bag(directory, *arguments, **more)

    monkeypatch.setattr(bagit, "make_bag", spoiling)
    with pytest.raises(Exception, match="does not say what the records say of 'data/other'"):
        export()


@pytest.mark.parametrize("name", [b"new\nline", b"cr\r", b"50%0a", b"\xff", b"end "])
def test_names_that_a_bag_cannot_hold_are_refused_before_anything_is_copied(
    storage: LocalStorage, backend: Backend, export: Export, tmp_path: Path, name: bytes
) -> None:
    store(storage, backend, Key(name), b"x")
    with pytest.raises(InvalidName):
        export()
    assert not (tmp_path / "bag").exists()


def test_what_is_there_is_never_touched(export: Export, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("x")
    with pytest.raises(AlreadyExists):
        export(name="used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export(name="empty")


def test_an_empty_directory_that_was_there_stays_after_a_failure(
    storage: LocalStorage, export: Export, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    storage.alter(Key(b"other"), b"OTHER")
    with pytest.raises(DigestMismatch):
        export(name="empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_tree_that_is_not_there_is_an_error(export: Export) -> None:
    with pytest.raises(NotFound):
        export(b"typo")
