"""pyftpdlib as a process, with the weaknesses that servers have: ``python tests/support/pyftpd.py '{json}'``.

It prints its port and serves until it is ended. What it is asked for: ``root``, ``user``, ``password``; and
if wanted ``port``, ``address`` (other than 127.0.0.1), ``certificate`` (PEM), ``implicit``, ``connections``
(a further one gets 421), ``idle_s``, ``mlsd`` (false: no MLSD and no MLST), ``quota_bytes`` (STOR is cut off
there with 552), ``lie`` (SIZE tells so many bytes more; of files of ``lie_from`` bytes and more), ``damage``
(stored bytes are changed), ``merges`` (a directory can be renamed onto another), ``available_bytes`` (what
AVBL answers), ``echo`` (a wrong password is repeated in the refusal).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

from pyftpdlib import handlers
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.log import config_logging, logger
from pyftpdlib.servers import FTPServer


def quota_dtp(base: type[Any], quota_bytes: int) -> type[Any]:
    class QuotaDTP(base):  # type: ignore[misc]
        """Takes no more than so many bytes in one file."""

        def handle_read(self) -> None:
            super().handle_read()
            if self.receive and self.tot_bytes_received > quota_bytes and not self._resp:
                self._resp = ("552 Quota exceeded.", logger.debug)
                self.close()

        handle_read_event = handle_read

    return QuotaDTP


class Damaged:
    """A file that changes a byte of each larger piece that it stores."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk[:-1] + b"?" if len(chunk) > 1000 else chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def filesystem(options: dict[str, Any]) -> type[AbstractedFS]:
    class FS(AbstractedFS):  # type: ignore[misc]
        def getsize(self, path: str) -> int:
            size: int = super().getsize(path)
            return size + int(options.get("lie", 0)) if size >= options.get("lie_from", 0) else size

        def open(self, filename: str, mode: str) -> Any:
            file = super().open(filename, mode)
            return Damaged(file) if options.get("damage") and "r" not in mode else file

        def rename(self, src: str, dst: str) -> None:
            if options.get("merges") and os.path.isdir(src) and os.path.isdir(dst):
                shutil.copytree(src, dst, dirs_exist_ok=True)
                shutil.rmtree(src)
            else:
                super().rename(src, dst)

    return FS


def handler(options: dict[str, Any]) -> type[Any]:
    certificate = options.get("certificate")
    base: type[Any] = handlers.TLS_FTPHandler if certificate else handlers.FTPHandler

    class Handler(base):  # type: ignore[misc]
        use_gmt_times = True
        timeout = options.get("idle_s", 300)
        abstracted_fs = filesystem(options)
        auth_failed_timeout = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if "available_bytes" in options:
                self._extra_feats = [*self._extra_feats, "AVBL"]
            if options.get("implicit"):
                self.secure_connection(self.ssl_context)

        def handle(self) -> None:
            if not options.get("implicit"):
                super().handle()

        def handle_ssl_established(self) -> None:
            if options.get("implicit"):
                super().handle()

        def ftp_PASS(self, line: str) -> None:
            if options.get("echo") and line != options["password"]:
                self.respond(f"530 'PASS {line}' is wrong.")
            else:
                super().ftp_PASS(line)

        def ftp_AVBL(self, path: str) -> None:
            self.respond(f"213 {options['available_bytes']}")

    if "available_bytes" in options:
        fact = {"perm": "l", "auth": True, "arg": None, "help": "Syntax: AVBL [<SP> path] (free space)."}
        Handler.proto_cmds = Handler.proto_cmds | {"AVBL": fact}
    Handler.authorizer = DummyAuthorizer()
    Handler.authorizer.add_user(options["user"], options["password"], options["root"], perm="elradfmwMT")
    if certificate:
        Handler.certfile = certificate
        Handler.tls_control_required = True
        Handler.tls_data_required = True
    if "quota_bytes" in options:
        Handler.dtp_handler = quota_dtp(Handler.dtp_handler, options["quota_bytes"])
    if not options.get("mlsd", True):
        Handler.proto_cmds = {
            name: facts for name, facts in Handler.proto_cmds.items() if name not in ("MLSD", "MLST")
        }
    return Handler


def main() -> None:
    options = json.loads(sys.argv[1])
    config_logging(level="ERROR")
    server = FTPServer((options.get("address", "127.0.0.1"), options.get("port", 0)), handler(options))
    if "connections" in options:
        server.max_cons = options["connections"] * 2  # each data connection counts as well
        server.max_cons_per_ip = options["connections"]
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever(handle_exit=True)


main()
