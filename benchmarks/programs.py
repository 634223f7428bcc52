"""The C programs that do all timed work: compiled at run time, run, their one line of JSON read."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.sandbox import BenchError, tied

_SOURCES = Path(__file__).resolve().parent
_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
_PROGRAMS = ("stream", "names", "durable", "warm")


def _compile(source: Path, binary: Path, flags: Sequence[str] = ()) -> None:
    command = ["gcc", "-O2", "-Wall", "-o", str(binary), str(source), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{shlex.join(command)}: {done.stderr.strip()[-2000:]}")


def compile_all(binaries: Path) -> None:
    """Compiles this directory's programs into ``binaries``. Raises BenchError with gcc's words."""
    if shutil.which("gcc") is None:
        raise BenchError("gcc is missing: apt-get install gcc libc6-dev")
    for name in _PROGRAMS:
        _compile(_SOURCES / f"{name}.c", binaries / name)


def _example(name: str, into: Path) -> Path:
    """Copies one of libfuse's examples; Debian compresses the larger ones in some releases."""
    target = into / name
    plain, packed = _EXAMPLES / name, _EXAMPLES / f"{name}.gz"
    if plain.exists():
        target.write_bytes(plain.read_bytes())
    elif packed.exists():
        target.write_bytes(gzip.decompress(packed.read_bytes()))
    else:
        raise BenchError(f"{plain} is missing: apt-get install libfuse3-dev")
    return target


def compile_passthrough(binaries: Path) -> Path:
    """Compiles libfuse's passthrough_ll as Debian ships it. Raises BenchError if that is not possible."""
    source = _example("passthrough_ll.c", binaries)
    _example("passthrough_helpers.h", binaries)
    flags = subprocess.run(
        ["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True, check=False
    )
    if flags.returncode != 0:
        raise BenchError(f"pkg-config fuse3: {flags.stderr.strip()}")
    binary = binaries / "passthrough_ll"
    _compile(source, binary, flags.stdout.split())
    return binary


class Runner:
    """Runs one program at a time and never waits for ever on a mount that hangs."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries

    def measure(self, command: Sequence[str | Path], on_hang: Callable[[], None]) -> dict[str, float]:
        """Runs one of our programs. Returns what it measured. Raises BenchError as ``call`` does."""
        words = [str(word) for word in command]
        output = self.call([str(self._binaries / words[0]), *words[1:]], on_hang)
        parsed = json.loads(output)
        return {str(key): float(value) for key, value in parsed.items()}

    def call(
        self, command: Sequence[str | Path], on_hang: Callable[[], None], timeout_s: float = 900.0
    ) -> str:
        """Runs a command and returns its output. Raises BenchError if it fails or takes over ``timeout_s``.

        ``on_hang`` must end the daemon under the mount: a process in a FUSE request cannot be killed before.
        """
        words = [str(word) for word in command]
        with subprocess.Popen(
            tied(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                on_hang()
                raise BenchError(f"{shlex.join(words)}: no end after {timeout_s:.0f} s") from None
            except BaseException:
                on_hang()
                raise
            finally:
                process.kill()
        if process.returncode != 0:
            raise BenchError(f"{shlex.join(words)}: exit {process.returncode}: {errors.strip()[-500:]}")
        return output


class Warmth:
    """Free memory that costs no first touch, for as long as the block lasts (see warm.c)."""

    def __init__(self, binaries: Path, size_bytes: int) -> None:
        self._command = [str(binaries / "warm"), str(size_bytes)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Warmth:
        if self._command[-1] == "0":
            return self
        # Killed with its parent, too; it holds no file, so there is nothing to stop in order.
        self._process = subprocess.Popen(
            tied(self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.__exit__()
            raise BenchError("warm: ended early (out of memory?); try a smaller --warm-gib")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
