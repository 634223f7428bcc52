"""Which thread belongs to which process (proc(5))."""

from __future__ import annotations


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


def same_process(one: int, other: int) -> bool:
    """Whether two threads belong to one process."""
    if one <= 0 or other <= 0:
        return False
    if one == other:
        return True
    process = process_of(one)
    return process is not None and process == process_of(other)
