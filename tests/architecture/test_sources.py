"""Rules of the sources that no linter knows. Each rule is also tried on code that breaks it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MAX_FUNCTION_LINES = 70
_CALLS_OF_DURABILITY = {
    *(
        f"os.{name}"
        for name in ("fsync", "fdatasync", "sync", "syncfs", "link", "rename", "renames", "replace")
    ),
    "pathlib.Path.rename",
    "shutil.move",
}
_CALLS_OF_CLOCK = {
    *(f"time.{name}" for name in ("time", "time_ns", "sleep", "monotonic", "monotonic_ns", "clock_gettime")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}
_CALLS_OF_THREADS = {
    "threading.Thread",
    "threading.Timer",
    "_thread.start_new_thread",
    "concurrent.futures.ThreadPoolExecutor",
    "multiprocessing.pool.ThreadPool",
}
Rule = Callable[[ast.Module], Iterator[ast.AST]]


@dataclasses.dataclass(frozen=True)
class Source:
    """One parsed module of wormfs."""

    name: str
    tree: ast.Module


@pytest.fixture(scope="module")
def sources(repository: Path) -> list[Source]:
    paths = sorted((repository / "wormfs").rglob("*.py"))
    assert len(paths) > 20
    return [Source(str(path.relative_to(repository)), ast.parse(path.read_text())) for path in paths]


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name → what it stands for, through ``import a.b as c`` and ``from a import b as c``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def references(tree: ast.Module, wanted: Callable[[str], bool]) -> Iterator[ast.AST]:
    """Names and attributes whose full dotted name is ``wanted``, and imports of such."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            dotted = dotted_name(node)
            first, dot, rest = dotted.partition(".")
            if first in names and wanted(names[first] + dot + rest):
                yield node
        elif isinstance(node, ast.ImportFrom) and any(
            wanted(f"{node.module}.{alias.name}") for alias in node.names
        ):
            yield node


def dotted_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}"
    return "?"


def fuse_errors(tree: ast.Module) -> Iterator[ast.AST]:
    yield from references(tree, lambda name: name.split(".")[0] == "pyfuse3" or name.endswith(".FUSEError"))


def durable_changes(tree: ast.Module) -> Iterator[ast.AST]:
    yield from references(tree, _CALLS_OF_DURABILITY.__contains__)


def clock_reads(tree: ast.Module) -> Iterator[ast.AST]:
    yield from references(tree, _CALLS_OF_CLOCK.__contains__)


def thread_hops(tree: ast.Module) -> Iterator[ast.AST]:
    yield from references(tree, lambda name: name == "trio.to_thread" or name.startswith("trio.to_thread."))


def thread_starts(tree: ast.Module) -> Iterator[ast.AST]:
    yield from references(tree, _CALLS_OF_THREADS.__contains__)


def os_calls(tree: ast.Module) -> Iterator[ast.AST]:
    """What of ``os`` is not a constant such as ``os.O_RDWR``."""
    yield from references(tree, lambda name: name.startswith("os.") and not is_constant(name))


def is_constant(name: str) -> bool:
    return name.rpartition(".")[2].isupper()


def yaml_uses(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        if any(module.split(".")[0] == "yaml" for module in modules):
            yield node


def swallowed_exceptions(tree: ast.Module) -> Iterator[ast.AST]:
    """``except Exception`` (or wider) whose body does nothing, and ``suppress(Exception)``."""
    wide = {"Exception", "BaseException"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {dotted_name(item) for item in caught if item is not None}
            if (node.type is None or names & wide) and all(does_nothing(item) for item in node.body):
                yield node
        elif (
            isinstance(node, ast.Call)
            and dotted_name(node.func).endswith("suppress")
            and {dotted_name(argument) for argument in node.args} & wide
        ):
            yield node


def does_nothing(node: ast.stmt) -> bool:
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass | ast.Continue)


def errors_told_by_text(tree: ast.Module) -> Iterator[ast.AST]:
    """``"text" in str(error)`` for a caught error."""
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
        for node in ast.walk(handler):
            if isinstance(node, ast.Compare) and any(
                isinstance(part, ast.Call)
                and dotted_name(part.func) in ("str", "repr")
                and part.args
                and dotted_name(part.args[0]) == handler.name
                for part in (node.left, *node.comparators)
            ):
                yield node


def long_functions(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                yield node


def module_state(tree: ast.Module) -> Iterator[ast.AST]:
    """``global``, and containers at module level that are filled in later rather than written out."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Global))
    for statement in tree.body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        empty_literal = isinstance(value, ast.Dict | ast.List | ast.Set) and not (
            value.keys if isinstance(value, ast.Dict) else value.elts
        )
        empty_call = isinstance(value, ast.Call) and not value.args and not value.keywords
        names = ("dict", "list", "set", "defaultdict", "deque")
        if empty_literal or (empty_call and isinstance(value, ast.Call) and dotted_name(value.func) in names):
            yield statement


def prints(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted_name(node.func) in ("print", "input", "breakpoint"):
            yield node


def everywhere_but(layer: str) -> tuple[str, ...]:
    """The exemption of a rule that holds in one layer only."""
    package = Path(__file__).resolve().parents[2] / "wormfs"
    return tuple(f"wormfs/{path.name}" for path in package.iterdir() if path.name != layer)


RULES: list[tuple[Rule, tuple[str, ...], str]] = [
    # the rule, where it does not hold, code that breaks it
    (fuse_errors, ("wormfs/fuse/",), "from pyfuse3 import FUSEError\nraise FUSEError(5)"),
    (fuse_errors, ("wormfs/fuse/",), "import pyfuse3 as p\nraise p.FUSEError(5)"),
    (durable_changes, ("wormfs/durability.py",), "import os\nos.fsync(3)"),
    (durable_changes, ("wormfs/durability.py",), "from os import replace as swap\nswap('a', 'b')"),
    (clock_reads, ("wormfs/clock.py",), "import time\ntime.sleep(1)"),
    (clock_reads, ("wormfs/clock.py",), "from datetime import datetime\ndatetime.now()"),
    (clock_reads, ("wormfs/clock.py",), "import datetime as d\nd.datetime.now(d.UTC)"),
    (thread_hops, ("wormfs/threads.py",), "import trio\nawait trio.to_thread.run_sync(f)"),
    (thread_hops, ("wormfs/threads.py",), "from trio import to_thread\nto_thread.run_sync(f)"),
    (thread_hops, ("wormfs/threads.py",), "from trio.to_thread import run_sync"),
    (thread_starts, ("wormfs/threads.py",), "import threading\nthreading.Thread(target=f).start()"),
    (thread_starts, ("wormfs/threads.py",), "import concurrent.futures as c\nc.ThreadPoolExecutor(3)"),
    (os_calls, everywhere_but("worm"), "import os\nos.stat('a')"),
    (os_calls, everywhere_but("worm"), "from os import remove"),
    (yaml_uses, ("wormfs/config/",), "def f():\n    import yaml"),
    (swallowed_exceptions, (), "try:\n    f()\nexcept Exception:\n    pass"),
    (swallowed_exceptions, (), "try:\n    f()\nexcept (OSError, BaseException):\n    ..."),
    (swallowed_exceptions, (), "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
    (errors_told_by_text, (), "try:\n    f()\nexcept OSError as e:\n    g('full' in str(e))"),
    (long_functions, (), "def f():\n" + "    f()\n" * MAX_FUNCTION_LINES),
    (module_state, (), "def f():\n    global x\n    x = 1"),
    (module_state, (), "CACHE: dict[str, int] = {}"),
    (prints, (), "print(1)"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_sources_keep_the_rule(rule: Rule, sources: list[Source]) -> None:
    exempt = next(exempt for candidate, exempt, _ in RULES if candidate is rule)
    broken = [
        f"{source.name}:{getattr(node, 'lineno', 0)}"
        for source in sources
        if not source.name.startswith(exempt or ("-",))
        for node in rule(source.tree)
    ]
    assert broken == []


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, _, code in RULES])
def test_the_rule_finds_what_breaks_it(rule: Rule, code: str) -> None:
    assert list(rule(ast.parse(code)))
