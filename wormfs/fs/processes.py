"""Which thread belongs to which process, and what that is called (proc(5))."""

from __future__ import annotations

from wormfs.errors import show


def process_of(thread: int) -> int | None:
    """The process of a thread, None when it is gone. Reads one small file of /proc."""
    try:
        with open(f"/proc/{thread}/status", "rb", buffering=0) as file:
            for line in file.read(1024).splitlines():
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None


def program_of(process: int) -> str | None:
    """The name of a process's program as it would print, None when it is gone.

    From /proc/PID/comm, up to 15 bytes that the process may choose itself. The kernel keeps them in
    memory of its own: to read them waits for nothing, whatever the process does (unlike its command line,
    which lies in its own memory).
    """
    try:
        with open(f"/proc/{process}/comm", "rb", buffering=0) as file:
            return show(file.read(64).removesuffix(b"\n"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def same_process(one: int, other: int) -> bool:
    """Whether two threads belong to one process."""
    if one <= 0 or other <= 0:
        return False
    if one == other:
        return True
    process = process_of(one)
    return process is not None and process == process_of(other)
