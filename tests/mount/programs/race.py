"""Many processes create the same new names at once, round after round. Prints one JSON line per round.

race.py PROCESSES ROUNDS FLAGS RESULTS DIRECTORY...    the processes are spread over the directories
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier

SIZE = 20_000


def content(racer: int) -> bytes:
    return f"{racer:04}".encode() * (SIZE // 4)


def attempt(path: str, racer: int, flags: int) -> str | None:
    """None for the winner, else what it was told."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    except OSError as error:
        return f"open {error.errno}"
    told = None
    try:
        data = content(racer)
        for at in range(0, SIZE, 4096):
            os.write(fd, data[at : at + 4096])
    except OSError as error:
        told = f"write {error.errno}"
    try:
        os.close(fd)
    except OSError as error:
        told = told or f"close {error.errno}"
    return told


def race(racer: int, rounds: int, flags: int, directory: str, start: Barrier, results: str) -> None:
    with open(os.path.join(results, str(racer)), "w", encoding="ascii") as file:
        for number in range(rounds):
            start.wait()
            print(attempt(f"{directory}/{number}", racer, flags), file=file)


def main() -> None:
    processes, rounds, flags = (int(word) for word in sys.argv[1:4])
    results, directories = sys.argv[4], sys.argv[5:]
    context = multiprocessing.get_context("fork")
    start = context.Barrier(processes)
    racers = [
        context.Process(
            target=race, args=(racer, rounds, flags, directories[racer % len(directories)], start, results)
        )
        for racer in range(processes)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    told = []
    for at in range(processes):
        with open(os.path.join(results, str(at)), encoding="ascii") as file:
            told.append(file.read().splitlines())
    for number in range(rounds):
        print(json.dumps([lines[number] for lines in told]))


if __name__ == "__main__":
    main()
