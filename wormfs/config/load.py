"""From a settings file to Settings, or to everything that is wrong with it."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wormfs.config.base import BackendSettings, Model
from wormfs.config.document import Document, read_document, write_document
from wormfs.config.fields import nearest, parse_path, to_yaml
from wormfs.config.places import Directory, Role, find_conflicts
from wormfs.config.problems import InvalidSettings, Place, Problem
from wormfs.config.registry import MODELS
from wormfs.config.retention import to_yaml as nested_to_yaml
from wormfs.config.secret import Secret, SecretSource, read_private
from wormfs.config.settings import DEFAULT_STATE_DIRECTORY, Settings
from wormfs.config.units import quote
from wormfs.errors import SettingsError

DEFAULT_PATH = Path("/etc/wormfs/config.yaml")
_BACKEND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

M = TypeVar("M", bound=Model)


def load_mountpoint(path: str | Path) -> Path:
    """Only the mountpoint of a settings file, for who may not read the secrets. Blocks.

    Raises InvalidSettings when the file cannot be read, is no YAML, or has no right mountpoint.
    """
    document = read_document(_read_text(str(path)), str(path))
    value = document.value.get("mountpoint") if isinstance(document.value, dict) else None
    try:
        if value is not None:
            return parse_path(value)
        document.add(("mountpoint",), "is missing; add 'mountpoint: /mnt/worm'", line=1)
    except ValueError as error:
        document.add(("mountpoint",), str(error))
    raise InvalidSettings(document.problems)


def load(path: str | Path) -> Settings:
    """The settings in a file. Blocks.

    Raises InvalidSettings with all problems: also when the file or a secret file is missing or
    others can read it. Looks at no backend, and at no secret from environment or systemd: those
    exist only where the daemon runs.
    """
    file = str(path)
    return parse(_read_text(file), file)


def _read_text(file: str) -> str:
    try:
        content = read_private(file)
    except SettingsError as error:
        raise InvalidSettings([Problem(file, None, "", str(error))]) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidSettings([Problem(file, line, "", "not UTF-8 text")]) from None


def parse(text: str, file: str = "settings") -> Settings:
    """The settings in a text; ``file`` is its name in messages. Raises InvalidSettings with all problems."""
    document = read_document(text, file)
    if document.value is None:
        if not document.problems:
            document.add((), "is empty; see config.example.yaml", line=1)
        raise InvalidSettings(document.problems)
    if not isinstance(document.value, dict):
        document.add((), "must be a mapping such as 'mountpoint: /mnt/worm'", line=1)
        raise InvalidSettings(document.problems)
    backends = _read_backends(document, document.value)
    settings = _validate(document, (), Settings, document.value, {"backends": backends})
    _check_places(document, document.value)
    if settings is None or document.problems:
        raise InvalidSettings(document.problems)
    return settings


def dump(settings: Settings, mask: bool = True) -> str:
    """The settings as YAML, defaults written out. ``mask`` hides inline secrets; without it,
    ``parse`` reads the text back to equal settings."""
    top = _plain(settings, mask)
    top["backends"] = {name: _plain(backend, mask) for name, backend in settings.backends.items()}
    return write_document(top)


def _plain(model: Model, mask: bool) -> dict[str, object]:
    keys = {key: field for key, field in model.yaml_keys().items() if key != "backends"}
    # What a backend is comes first, then what can be tuned.
    first = ("type", "path", "description")
    order = sorted(keys, key=lambda key: first.index(key) if key in first else len(first))
    return {key: _value(keys[key], getattr(model, keys[key]), mask) for key in order}


def _value(field: str, value: object, mask: bool) -> object:
    return nested_to_yaml(value) if isinstance(value, Model) else to_yaml(field, value, mask=mask)


def _read_backends(document: Document, top: Mapping[str, object]) -> dict[str, BackendSettings]:
    """The backends that are right; what is wrong with the others is noted."""
    if "backends" not in top:
        document.add(("backends",), "is missing; add at least one backend", line=document.lines.get((), 1))
        return {}
    backends = top["backends"]
    if not isinstance(backends, dict) or not backends:
        example = "{exams: {type: local, path: /srv/worm/exams}}"
        document.add(("backends",), f"must be a mapping of at least one backend, such as {example}")
        return {}
    found = {name: _read_backend(document, name, values) for name, values in backends.items()}
    return {name: backend for name, backend in found.items() if backend is not None}


def _read_backend(document: Document, name: str, values: object) -> BackendSettings | None:
    place: Place = ("backends", name)
    if not _BACKEND_NAME.fullmatch(name):
        document.add(
            place,
            "a backend's name has 1 to 64 letters, digits, '.', '_' or '-' and begins with a letter or digit",
        )
    if not isinstance(values, dict):
        document.add(
            place, f"must be a mapping such as {{type: local, path: /srv/worm}}, not {quote(values)}"
        )
        return None
    if "type" not in values:
        document.add((*place, "type"), f"is missing; add one of: {', '.join(MODELS)}")
        return None
    kind = values["type"]
    model = MODELS.get(kind) if isinstance(kind, str) else None
    if model is None:
        hint = nearest(kind, list(MODELS)) if isinstance(kind, str) else ""
        document.add((*place, "type"), f"must be one of {', '.join(MODELS)}, not {quote(kind)}{hint}")
        return None
    backend = _validate(document, place, model, values, {"name": name})
    if backend is not None:
        _check_secret_files(document, place, backend)
    return backend


def _validate(
    document: Document,
    place: Place,
    model: type[M],
    written: Mapping[str, object],
    given: Mapping[str, object],
) -> M | None:
    """The model of what is ``written`` in the file and ``given`` by us, or ``None``, problems noted."""
    keys = model.yaml_keys()
    for key in written:
        if key not in keys:
            document.add((*place, key), f"is not a setting{nearest(key, list(keys))}")
    known = {key: value for key, value in written.items() if key in keys}
    try:
        return model.model_validate({**known, **given}, by_alias=True, by_name=False)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            # What we gave ourselves was judged before.
            if not details["loc"] or details["loc"][0] not in given:
                document.add((*place, *details["loc"]), _explain(model, details))
        return None


def _explain(model: type[Model], details: ErrorDetails) -> str:
    key = str(details["loc"][-1]) if details["loc"] else ""
    if details["type"] in ("missing", "extra_forbidden"):
        model = _part_of(model, details["loc"][:-1])
    if details["type"] == "extra_forbidden":
        return f"is not a setting{nearest(key, list(model.yaml_keys()))}"
    if details["type"] == "missing":
        examples = model.model_fields[model.yaml_keys()[key]].examples
        return f"is missing; add '{key}: {examples[0]}'" if examples else "is missing"
    cause = details.get("ctx", {}).get("error")
    return str(cause) if cause is not None else details["msg"]


def _part_of(model: type[Model], way: Sequence[str | int]) -> type[Model]:
    """The model of a part of the settings: that of ``retention``, or of one of its rules."""
    for key in way:
        if isinstance(key, str):
            hint = model.model_fields[model.yaml_keys()[key]].annotation
            inner = [hint, *typing.get_args(hint)]
            inner += [part for one in inner for part in typing.get_args(one)]
            model = next(part for part in inner if isinstance(part, type) and issubclass(part, Model))
    return model


def _check_secret_files(document: Document, place: Place, backend: BackendSettings) -> None:
    for key, field in backend.yaml_keys().items():
        secret = getattr(backend, field)
        if isinstance(secret, Secret) and secret.source is SecretSource.FILE:
            try:
                secret.reveal()
            except SettingsError as error:
                document.add((*place, key), str(error))


def _check_places(document: Document, top: Mapping[str, object]) -> None:
    """Also with other problems in the file: it works on whatever paths can be read."""
    for conflict in find_conflicts(list(_directories(top))):
        document.add(conflict.place, conflict.message)


def _directories(top: Mapping[str, object]) -> Iterator[Directory]:
    state = top.get("state_directory", str(DEFAULT_STATE_DIRECTORY))
    for place, role, value in (
        (("mountpoint",), Role.MOUNTPOINT, top.get("mountpoint")),
        (("state_directory",), Role.STATE, state),
    ):
        if (path := _try_path(value)) is not None:
            yield Directory(place, role, path)
    backends = top.get("backends")
    for name, values in (backends if isinstance(backends, dict) else {}).items():
        kind = values.get("type") if isinstance(values, dict) else None
        model = MODELS.get(kind) if isinstance(kind, str) else None
        if model is None:
            continue
        for key in (*model.data_keys, "spool"):
            role = Role.SPOOL if key == "spool" else Role.DATA
            if (path := _try_path(values.get(key))) is not None:
                yield Directory(("backends", name, key), role, path, name)


def _try_path(value: object) -> Path | None:
    try:
        return parse_path(value)
    except ValueError:
        return None
