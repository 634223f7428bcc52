"""YAML text to plain values that remember their lines. The only module that knows yaml.

Stricter than YAML where YAML surprises: keys are text as written (``no:`` is the key "no"), a key
may stand once, there are no dates, no octal or base-60 numbers, no tags and no second document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from wormfs.config.problems import Place, Problem, show_place

MAX_VALUES = 10_000
"""Aliases can make a short text hold billions of values; nobody writes so many."""
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Unreadable(Exception):
    """The text cannot be understood any further. Internal to this module."""

    def __init__(self, line: int | None, place: Place, message: str):
        super().__init__(message)
        self.line, self.place, self.message = line, place, message


@dataclass(slots=True)
class Document:
    """A settings file that was read: its values, their lines, and what was wrong on the way."""

    file: str
    value: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, message: str, *, line: int | None = None) -> None:
        """Note a problem at ``place``, or at what holds it where it does not exist itself."""
        if line is None:
            nearest = place
            while nearest and nearest not in self.lines:
                nearest = nearest[:-1]
            line = self.lines.get(nearest)
        self.problems.append(Problem(self.file, line, show_place(place), message))


def read_document(text: str, file: str) -> Document:
    """Read YAML. What is wrong ends up in ``problems``; nothing is raised."""
    document = Document(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.value = _Builder(document).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        document.add((), f"not valid YAML: {reason}", line=mark.line + 1 if mark else None)
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        document.add((), "a character that YAML does not allow", line=text.count("\n", 0, position) + 1)
    except RecursionError:
        document.add((), "nested too deeply")
    except Unreadable as error:
        document.add(error.place, error.message, line=error.line)
    return document


def write_document(value: object) -> str:
    """Plain values as YAML text that ``read_document`` reads back to the same values."""
    return yaml.dump(value, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=100)


class _Builder:
    """Walks the nodes of one text."""

    def __init__(self, document: Document):
        self._document = document
        self._values = 0

    def build(self, node: yaml.Node, place: Place) -> object:
        line = node.start_mark.line + 1
        self._document.lines.setdefault(place, line)
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unreadable(line, (), f"more than {MAX_VALUES} values")
        if len(place) > MAX_DEPTH:
            # An alias inside its own anchor ends here, too.
            raise Unreadable(line, (), "nested too deeply")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        self._document.add(place, f"tags such as {node.tag} are not understood", line=line)
        return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        result: dict[str, object] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in self._own_pairs(node, place):
            key, line = key_node.value, key_node.start_mark.line + 1
            inner = (*place, key)
            if key in first_lines:
                self._document.add(
                    inner, f"stands twice, first in line {first_lines[key]}; keep one", line=line
                )
                continue
            first_lines[key] = line
            self._document.lines[inner] = line
            result[key] = self.build(value_node, inner)
        for value_node in self._merged(node, place):
            for key, value in self._merge_source(value_node, place).items():
                result.setdefault(key, value)
        return result

    def _own_pairs(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            if isinstance(key_node, yaml.ScalarNode):
                yield key_node, value_node
            else:
                self._document.add(place, "a key must be text", line=key_node.start_mark.line + 1)

    def _merged(self, node: yaml.MappingNode, place: Place) -> Iterator[yaml.Node]:
        """What ``<<:`` brings in: one mapping, or several in a list."""
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                many = isinstance(value_node, yaml.SequenceNode)
                yield from value_node.value if many else [value_node]

    def _merge_source(self, node: yaml.Node, place: Place) -> dict[str, object]:
        value = self.build(node, (*place, "<<"))
        if isinstance(value, dict):
            return value
        self._document.add(place, "'<<' must name a mapping", line=node.start_mark.line + 1)
        return {}

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> object:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if kind in ("int", "float"):
            return _number(text)
        if kind in ("str", "timestamp", "value", "merge"):
            return text
        self._document.add(
            place, f"tags such as {node.tag} are not understood", line=node.start_mark.line + 1
        )
        return None


def _number(text: str) -> object:
    """A plain decimal number; what YAML would read in another base stays text, to be judged as such."""
    digits = text.lstrip("+-")
    if digits.isdecimal() and (digits == "0" or not digits.startswith("0")) and len(digits) <= MAX_DEPTH:
        return int(text)
    if digits.count(".") == 1 and digits.replace(".", "").isdecimal():
        return float(text)
    return text
