"""``wormfs verify``: is what the backends hold still what was committed?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.errors import InvalidArgument, SettingsError, WormfsError

if TYPE_CHECKING:
    from wormfs.cli.verifyreport import Report
    from wormfs.config import Settings
    from wormfs.verify.request import Request
    from wormfs.verify.run import Options

WELL, FOUND, COULD_NOT = 0, 1, 2
"""Exit codes."""


@click.command()
@config_option
@json_option
@click.option("--sample", metavar="SHARE", help="Read only a share of the files, chosen anew each time: 5%.")
@click.option("--older-than", metavar="TIME", help="Read only files not verified for that long: 30d.")
@click.option("--rate", metavar="SIZE/s", help="Read no faster: 50MiB/s.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Read that many files at once.")
@click.option("--restart", is_flag=True, help="Begin anew, though a run like this was interrupted.")
@click.option(
    "--accept",
    is_flag=True,
    help="Take what is missing or was replaced as it is from now on, after telling it.",
)
@click.argument("backend", required=False, metavar="[BACKEND")
@click.argument("path", required=False, metavar="[PATH]]")
def verify(
    config_path: str,
    as_json: bool,
    sample: str | None,
    older_than: str | None,
    rate: str | None,
    jobs: int | None,
    restart: bool,
    accept: bool,
    backend: str | None,
    path: str | None,
) -> int:
    """Read stored files and compare them with their records: size and SHA-256.

    Without BACKEND all backends; PATH is a directory or file in it, from the backend's directory on. A path
    that begins with / or ./ or ../ is taken as it is in the mount, and needs no BACKEND.

    Reports what is missing, altered, unrecorded (wormfs did not write it), unexpected and unreadable. From
    then on reads of a damaged file are refused, until it was restored and is found whole. Runs beside the
    daemon and without it.

    Interrupted, by Ctrl-C or otherwise, the same command goes on where it was.

    Exits 0 if all is well, 1 if something was found, 2 if a backend could not be verified.

    \b
    Example:
      wormfs verify --older-than 30d --rate 50MiB/s exams
      cd /mnt/worm/exams/2026 && wormfs verify ./algebra.pdf
    """
    from wormfs.cli.verifyreport import Report
    from wormfs.daemon import verifying
    from wormfs.model import ROOT

    settings = load_settings(config_path)
    request, options = _request(sample, older_than), _options(rate, jobs, restart=restart, accept=accept)
    if backend is None:
        places = [(name, ROOT) for name in settings.backends]
    else:
        places = [verifying.place_of(settings, backend, path or "")]
    report = Report(as_json=as_json)
    with report.shown():
        codes = [
            _verify_one(settings, name, replace(request, scope=key), options, report) for name, key in places
        ]
    return max(codes)


def _verify_one(settings: Settings, name: str, request: Request, options: Options, report: Report) -> int:
    """A backend that cannot be verified must not keep the others from it."""
    from wormfs.cli.verifyreport import verify_backend

    try:
        return FOUND if verify_backend(settings, name, request, options, report) else WELL
    except (SettingsError, InvalidArgument):
        raise
    except WormfsError as error:
        report.failed(name, str(error))
        return COULD_NOT


def _request(sample: str | None, older_than: str | None) -> Request:
    from wormfs.config.units import parse_duration, parse_percent
    from wormfs.verify.request import Request

    with _option("--sample"):
        share = 1.0 if sample is None else parse_percent(sample) / 100
        if share <= 0:
            raise ValueError("must be more than nothing")
    with _option("--older-than"):
        older_than_s = None if older_than is None else parse_duration(older_than)
    return Request(sample=share, older_than_s=older_than_s)


def _options(rate: str | None, jobs: int | None, *, restart: bool, accept: bool) -> Options:
    from wormfs.config.units import parse_size
    from wormfs.verify.run import Options

    with _option("--rate"):
        bytes_per_s = None if rate is None else parse_size(rate.removesuffix("/s"))
        if bytes_per_s == 0:
            raise ValueError("must be more than nothing")
    return Options(jobs=jobs or 0, bytes_per_s=bytes_per_s, anew=restart, accept=accept)


@contextmanager
def _option(name: str) -> Iterator[None]:
    """What is wrong with an option's value, told as click tells it."""
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name) from error
