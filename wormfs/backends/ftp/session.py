"""One logged-in connection to the server.

ftputil makes the session (login, PROT P, OPTS UTF8); everything after that goes through commands and
replies of our own, because ftputil's file objects hide errors of uploads: closing one swallows 426, 450 and
451, and a reply that takes longer than 5 s. Names travel as latin-1, which is bytes one to one.

Every socket has the configured time limit. A session that failed in the middle of anything is ``broken`` and
never used again: what the next reply would belong to cannot be known.
"""

from __future__ import annotations

import contextlib
import ftplib
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ftputil.session

from wormfs import clock
from wormfs.backends.ftp.options import FtpOptions, Tls
from wormfs.backends.ftp.replies import Reply, failure, parse
from wormfs.errors import AccessDenied, BackendFault, SettingsError, Unavailable

WIRE = "latin-1"
_SEND_BYTES = 1 << 20
_TLS_SEND_BYTES = 256 << 10
_REPLY_BYTES = 8192
_LONGEST_REPLY_BYTES = 1 << 20
_REPLY_FACTOR = 10.0
"""So many time limits a reply may take that comes bit by bit."""
_ORDER_S = 2.0
_GOODBYE_S = 0.2
_RESET_AT_CLOSE = struct.pack("@ii", 1, 0)
_END_AT_CLOSE = struct.pack("@ii", 0, 0)
EARLY_BYTES = 64 << 10
"""As many fit into a connection that the other side has not taken up yet, and into our own buffer."""
_EARLY_BUFFER_BYTES = 3 * EARLY_BYTES


class LoginRefused(AccessDenied):
    """The server does not let this user in: a wrong password, or (530 at some) too many connections."""


class TooManyConnections(Unavailable):
    """The server takes no further connection now (421)."""


def connector(backend: str, options: FtpOptions) -> Callable[[], Session]:
    """A function that makes sessions. Reads the password and the CA's file now: raises SettingsError."""
    password = options.password.reveal()
    if any(character in password for character in "\r\n\0"):
        raise SettingsError("the password holds a line break or NUL, which FTP cannot carry", backend=backend)
    factory = ftputil.session.session_factory(
        base_class=_base_class(options, _context(backend, options)),
        port=options.server_port,
        use_passive_mode=options.passive,
        encrypt_data_channel=options.tls is not Tls.NONE,
        encoding=WIRE,
    )

    def connect() -> Session:
        user = options.user.encode().decode(WIRE)
        with _connecting(backend, options, password):
            ftp = factory(options.host, user, password.encode().decode(WIRE))
        try:
            return Session(ftp, backend, options)
        except BaseException:
            ftp.close()
            raise

    return connect


@contextlib.contextmanager
def _connecting(backend: str, options: FtpOptions, password: str) -> Iterator[None]:
    where = f"{options.host}:{options.server_port}"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(
            f"the certificate of {where} is not trusted ({error.verify_message}): set ca_file to the CA's "
            "certificate, and host to the name in the certificate",
            backend=backend,
        ) from error
    except ftplib.error_perm as error:
        reply = _discreet(error, password)
        if reply.code == 530:
            message = f"{where} refuses the login of {options.user}: {reply.shown}"
            raise LoginRefused(message, backend=backend) from None
        raise failure(reply, backend, None, f"log in at {where}") from None
    except ftplib.error_temp as error:
        reply = _discreet(error, password)
        if reply.code == 421:
            message = f"{where} takes no further connection: {reply.shown}"
            raise TooManyConnections(message, backend=backend) from None
        raise failure(reply, backend, None, f"log in at {where}") from None
    except (OSError, EOFError, ftplib.Error, ValueError) as error:
        # Never the exception's own text alone: some hold the command that failed.
        raise Unavailable(f"{where} cannot be reached ({_reason(error)})", backend=backend) from None


def _discreet(error: ftplib.Error, password: str) -> Reply:
    """The reply to a login. Some servers repeat the command that they do not like."""
    try:
        reply = parse(error.args[0])
    except ValueError:
        return Reply(500, "500 (the answer is no reply of FTP)")
    text = reply.text.replace(password.encode().decode(WIRE), "[the password]") if password else reply.text
    return Reply(reply.code, text)


def _limit(sock: socket.socket, timeout_s: float) -> None:
    """How long one operation may take, kept by the kernel: Python's own limit costs a poll(2) and a turn at
    the interpreter's lock before each call, and makes the socket one that never waits for a whole block."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(timeout_s)
        return
    sock.settimeout(None)
    seconds, rest = divmod(timeout_s, 1)
    limit = struct.pack("@ll", int(seconds), int(rest * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError | BlockingIOError):
        return "no answer in time"
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _context(backend: str, options: FtpOptions) -> ssl.SSLContext | None:
    if options.tls is Tls.NONE:
        return None
    try:
        return ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise SettingsError(f"ca_file {options.ca_file} cannot be used: {error}", backend=backend) from error


class _Tidy(ftplib.FTP):
    """A client that closes its socket when the constructor of ftputil's session fails half-way."""

    received = b""
    """What has come and is in no line yet."""
    _reply_left_bytes = 0
    _reply_until = 0.0
    """How much of a reply may still come, and until when."""

    def getline(self) -> str:
        """A line of a reply. One without an end was cut off: "213 12" is not the size of 1,234 bytes."""
        while b"\n" not in self.received:
            if len(self.received) > self.maxline:
                raise ValueError("a line of a reply is too long")
            if clock.monotonic() > self._reply_until:
                raise TimeoutError
            assert self.sock is not None
            chunk = self.sock.recv(_REPLY_BYTES)
            if not chunk:
                raise EOFError
            self.received += chunk
        line, _, self.received = self.received.partition(b"\n")
        if len(line) > self.maxline:
            raise ValueError("a line of a reply is too long")
        self._reply_left_bytes -= len(line) + 1
        if self._reply_left_bytes < 0:
            raise ValueError("a reply is too long")
        return line.rstrip(b"\r").decode(WIRE)

    def getmultiline(self) -> str:
        """A whole reply. A server that always has one more line, or byte, does not hold us for ever."""
        assert self.timeout is not None, "_base_class sets it"
        self._reply_left_bytes = _LONGEST_REPLY_BYTES
        self._reply_until = clock.monotonic() + _REPLY_FACTOR * self.timeout
        return super().getmultiline()

    def getresp(self) -> str:
        try:
            return super().getresp()
        except (ftplib.error_temp, ftplib.error_perm):
            if not self._settled:
                self.close()
            raise
        except BaseException:
            self.close()
            raise

    resets = False
    """Data connections end with a reset unless that is taken back; set before the server is asked."""
    early: bytes | None = None
    """All that the next data connection brings: it is sent, with its end, before the server is asked."""

    @property
    def sends_early(self) -> bool:
        """Whether there can be such bytes: TLS begins only after the server's reply."""
        return bool(self.passiveserver) and not isinstance(self, ftplib.FTP_TLS)

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """As ftplib's, without TLS."""
        if not self.passiveserver:
            return ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321 (the settings say whether by TLS)
        connection = socket.create_connection(self.makepasv(), self.timeout)
        try:
            if self.resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            if self.early is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _EARLY_BUFFER_BYTES)
                connection.sendall(self.early)
                connection.shutdown(socket.SHUT_WR)
            if rest is not None:
                self.sendcmd(f"REST {rest}")
            reply = self.sendcmd(cmd)
            if reply[0] == "2":
                reply = self.getresp()  # some say 200 first
            if reply[0] != "1":
                raise ftplib.error_reply(reply)  # noqa: S321 (an exception)
        except BaseException:
            connection.close()
            raise
        return connection, None

    _passive: tuple[str, int] | None = None

    def entered_passive(self, reply: str) -> None:
        """The next data connection goes where this reply to PASV or EPSV says, which is asked no more."""
        self._passive = self._where(reply)

    def makepasv(self) -> tuple[str, int]:
        there, self._passive = self._passive, None
        return there or super().makepasv()

    def _where(self, reply: str) -> tuple[str, int]:
        assert self.sock is not None
        host, port = self.sock.getpeername()[:2]
        if reply.startswith("227"):
            # The server's own idea of its address is not asked: it may be wrong behind a NAT, or a trap.
            return host, ftplib.parse227(reply)[1]  # noqa: S321 (no connection is made here)
        return ftplib.parse229(reply, (host, port))  # noqa: S321

    _settled = False

    def settled(self) -> None:
        """From here on, whoever has it closes it."""
        self._settled = True


def _base_class(options: FtpOptions, context: ssl.SSLContext | None) -> type[_Tidy]:
    """What ftputil's factory builds on: ftplib with time limits, our TLS context and session reuse."""
    if context is None:

        class Plain(_Tidy, ftplib.FTP):
            def __init__(self, encoding: str = WIRE) -> None:
                super().__init__(timeout=options.timeout_s, encoding=encoding)

        return Plain

    secure = context

    class Explicit(_Tidy, ftplib.FTP_TLS):
        def __init__(self, encoding: str = WIRE) -> None:
            super().__init__(timeout=options.timeout_s, context=secure, encoding=encoding)

        def auth(self) -> str:
            reply: str = super().auth()
            # Whatever came in clear text behind the reply is nobody's word.
            self.received = b""
            return reply

        def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
            # vsftpd and proftpd want the control connection's TLS session again, by default.
            plain, size = _Tidy.ntransfercmd(self, cmd, rest)
            try:
                control: Any = self.sock
                # Without: each transfer waits 45 ms for a delayed acknowledgement.
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return secure.wrap_socket(plain, server_hostname=self.host, session=control.session), size
            except BaseException:
                plain.close()
                raise

    if options.tls is Tls.EXPLICIT:
        return Explicit

    class Implicit(Explicit):
        def connect(self, host: str = "", port: int = 0, *_: object, **__: object) -> str:
            self.host, self.port = host, port
            plain = socket.create_connection((host, port), options.timeout_s)
            self.af = plain.family
            try:
                self.sock = secure.wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
            self.file = self.sock.makefile("r", encoding=self.encoding)
            self.welcome = self.getresp()
            return self.welcome

    return Implicit


class Session:
    """One connection, for one thread at a time."""

    def __init__(self, ftp: _Tidy, backend: str, options: FtpOptions) -> None:
        """Asks the server for its features and for binary transfers."""
        ftp.settled()
        self._ftp = ftp
        self._backend = backend
        self._timeout_s = options.timeout_s
        self.broken = False
        self.stream: DataStream | None = None
        """The transfer under way. Until its end no command gets an answer."""
        self.pipelining = False
        """Several commands may be sent at once: the pool sets it when that was proved."""
        self.idle_since = clock.monotonic()
        assert ftp.sock is not None
        ftp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ftp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _limit(ftp.sock, options.timeout_s)
        self.features = self._features()
        if options.encoding == "utf-8" and "UTF8" in self.features:
            # Some say no though they have it on; names are tried out at the start of the backend.
            self.command(b"OPTS UTF8 ON")
        reply = self.command(b"TYPE I")
        if not reply.good:
            raise failure(reply, backend, None, "switch to binary transfers")

    def _features(self) -> frozenset[str]:
        """First words of the lines of FEAT (RFC 2389), in capitals."""
        lines = self.command(b"FEAT").text.splitlines()[1:-1]
        return frozenset(line.split()[0].upper() for line in lines if line.split())

    # Commands

    def command(self, line: bytes) -> Reply:
        """Send one line, return the reply whatever it says. Raises Unavailable, BackendFault."""
        assert b"\r" not in line and b"\n" not in line and b"\0" not in line, "never sent; validated above"
        assert self.stream is None, "a transfer is under way"
        with self._guarded():
            self._ftp.putcmd(line.decode(WIRE))
            return self._reply()

    def commands(self, *lines: bytes) -> list[Reply]:
        """Send several lines at once, where the server was seen to keep their order, and return all replies.

        Only lines that may all be sent whatever the earlier ones bring. Raises as ``command`` does.
        """
        if not self.pipelining:
            return [self.command(line) for line in lines]
        for line in lines:
            assert b"\r" not in line and b"\n" not in line and b"\0" not in line, (
                "never sent; validated above"
            )
        assert self.stream is None, "a transfer is under way"
        with self._guarded():
            sock = self._ftp.sock
            assert sock is not None
            sock.sendall(b"".join(line + b"\r\n" for line in lines))
            return [self._reply() for _ in lines]

    def keeps_order(self) -> bool:
        """Whether three commands sent at once get three replies in their order.

        A server that loses some breaks this session, after at most two seconds.
        """
        sock = self._ftp.sock
        assert sock is not None
        self.pipelining = True
        _limit(sock, min(_ORDER_S, self._timeout_s))
        try:
            codes = [reply.code for reply in self.commands(b"NOOP", b"PWD", b"NOOP")]
        except Unavailable:
            codes = []
        finally:
            _limit(sock, self._timeout_s)
        self.pipelining = codes == [200, 257, 200]
        return self.pipelining

    def _reply(self) -> Reply:
        reply = parse(self._ftp.getmultiline())
        if reply.code == 421:
            # "Service not available, closing control connection."
            self.broken = True
            raise Unavailable(f"the server ends the connection: {reply.shown}", backend=self._backend)
        return reply

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever breaks inside breaks the session."""
        if self.broken:
            raise Unavailable("the connection was broken before", backend=self._backend)
        try:
            yield
        except (OSError, EOFError) as error:
            self.broken = True
            raise Unavailable(f"the connection broke: {_reason(error)}", backend=self._backend) from error
        except (ftplib.Error, ValueError) as error:
            self.broken = True
            message = f"the server's answer is no reply of FTP, or was cut off ({type(error).__name__})"
            raise Unavailable(message, backend=self._backend) from error
        except BaseException:
            self.broken = True
            raise

    def quiet(self) -> bool:
        """Whether nothing has come from the server unasked: a goodbye (421) or the end of the connection."""
        sock = self._ftp.sock
        if sock is None or self.broken or self._ftp.received:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    def alive(self) -> bool:
        """Whether the server still answers; a session that waited long may have been closed."""
        with contextlib.suppress(Unavailable, BackendFault):
            return self.command(b"NOOP").good
        return False

    def settle(self) -> None:
        """Whoever had the session failed in the middle of a transfer: end that before others use it."""
        if self.stream is not None:
            self.stream.cut()

    def close(self) -> None:
        """Say goodbye if that does not block, and close."""
        self.settle()
        sock = self._ftp.sock
        with contextlib.suppress(OSError, EOFError, ftplib.Error):
            if not self.broken and sock is not None:
                _limit(sock, _GOODBYE_S)
                self._ftp.putcmd("QUIT")
        self.broken = True
        with contextlib.suppress(OSError):
            self._ftp.close()

    # Data

    def transfer(self, line: bytes, offset: int = 0) -> DataStream | Reply:
        """Open a data connection for RETR, STOR, MLSD and the like; a Reply when the server refuses.

        ``offset``: sent as REST first, when it is not 0.
        """
        return self.transfer_after((), line, offset)[1]

    def transfer_whole(self, line: bytes) -> DataStream | Reply:
        """``transfer`` of what may never be taken for complete before it is: should this process die before
        ``finish``, or whoever has the stream leave it, the server sees a broken connection, not an end."""
        self._ftp.resets = True
        try:
            stream = self.transfer(line)
        finally:
            self._ftp.resets = False
        if not isinstance(stream, Reply):
            stream.reset_unless_finished()
        return stream

    def store_few(self, line: bytes, content: bytes) -> Reply:
        """Store at most ``EARLY_BYTES`` that may never be there in part, whenever this process dies.

        They are on their way with their end before the server is asked (STOR opens what has waited in its
        listen queue), so that the kernel delivers them. Where that cannot be, with TLS and in active mode,
        a process that dies between the question and the first reply (vsftpd then ends before it removes
        what it has opened) leaves an empty file. Raises Unavailable, BackendFault.
        """
        assert len(content) <= EARLY_BYTES
        if not self._ftp.sends_early:
            stream = self.transfer_whole(line)
            return stream if isinstance(stream, Reply) else stream.send_bytes(content) or stream.finish()
        self._ftp.early = content
        try:
            stream = self.transfer(line)
        finally:
            self._ftp.early = None
        return stream if isinstance(stream, Reply) else stream.finish()

    def transfer_after(
        self, before: Sequence[bytes], line: bytes, offset: int = 0
    ) -> tuple[list[Reply], DataStream | Reply]:
        """``commands`` and then ``transfer``, with an exchange less where the server takes several at once.

        The transfer is asked for whatever the replies to ``before`` say.
        """
        if not (before and self.pipelining and self._ftp.passiveserver):
            replies = self.commands(*before) if before else []
            return replies, self._opened(lambda: self._ftp.ntransfercmd(line.decode(WIRE), offset or None)[0])
        *replies, where = self.commands(*before, b"PASV" if self._ftp.af == socket.AF_INET else b"EPSV")
        if not where.good:
            return replies, where

        def connect() -> socket.socket:
            self._ftp.entered_passive(where.text)
            return self._ftp.ntransfercmd(line.decode(WIRE), offset or None)[0]

        return replies, self._opened(connect)

    def _opened(self, connect: Callable[[], socket.socket]) -> DataStream | Reply:
        with self._guarded():
            try:
                sock = connect()
            except (ftplib.error_perm, ftplib.error_temp, ftplib.error_reply) as error:
                reply = parse(error.args[0])
                if reply.code == 421:
                    raise Unavailable(
                        f"the server ends the connection: {reply.shown}", backend=self._backend
                    ) from None
                return reply
        self.stream = DataStream(self, sock, self._timeout_s)
        return self.stream


class DataStream:
    """One transfer under way. Ends with ``finish``, which tells the server's verdict, or ``cut``."""

    def __init__(self, session: Session, sock: socket.socket, timeout_s: float) -> None:
        self._session = session
        self._sock = sock
        self._timeout_s = timeout_s
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self._resets = False
        _limit(sock, timeout_s)

    def send(self, fd: int, offset: int, size: int) -> Reply | None:
        """Send bytes of an open file. ``None`` when all went; the server's reply when it ended the transfer.

        Raises Unavailable when it ended without a word, OSError never.
        """
        return self._sending(lambda: (self._sendfile if self._plain else self._send_copied)(fd, offset, size))

    def send_bytes(self, content: bytes) -> Reply | None:
        """The same for a few bytes in memory."""
        return self._sending(lambda: self._sock.sendall(content))

    def reset_unless_finished(self) -> None:
        """See ``Session.transfer_whole``."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._resets = True

    def _sending(self, action: Callable[[], None]) -> Reply | None:
        try:
            action()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            # The control connection has the reason: disk full, quota, time-out.
            return self.finish()
        except OSError as error:
            raise self._broke("sending", error) from error
        return None

    def _broke(self, doing: str, error: OSError) -> Unavailable:
        self._abandon()
        message = f"{doing} broke off: {_reason(error)}"
        return Unavailable(message, backend=self._session._backend)  # noqa: SLF001 (same module)

    def _sendfile(self, fd: int, offset: int, size: int) -> None:
        end = offset + size
        while offset < end:
            sent = os.sendfile(self._sock.fileno(), fd, offset, min(_SEND_BYTES, end - offset))
            if not sent:
                raise OSError("the spool file is shorter than it was")
            offset += sent

    def _send_copied(self, fd: int, offset: int, size: int) -> None:
        end = offset + size
        while offset < end:
            block = os.pread(fd, min(_TLS_SEND_BYTES, end - offset), offset)
            if not block:
                raise OSError("the spool file is shorter than it was")
            self._sock.sendall(block)
            offset += len(block)

    def receive(self, buffer: memoryview) -> int:
        """Bytes into ``buffer``, as many as there are; 0 at the end. Raises Unavailable."""
        try:
            return self._sock.recv_into(buffer)
        except OSError as error:
            raise self._broke("receiving", error) from error

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the stream goes. Raises Unavailable."""
        done = 0
        try:
            while done < len(buffer):
                rest = buffer[done:]
                # One call of the system for all of it: each return costs a turn at the interpreter's lock.
                count = self._sock.recv_into(rest, 0, socket.MSG_WAITALL if self._plain else 0)
                if not count:
                    break
                done += count
        except OSError as error:
            raise self._broke("receiving", error) from error
        return done

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end of the stream. Raises Unavailable."""
        if not self._plain:
            buffer = bytearray(size)
            found = self.fill(memoryview(buffer))
            return bytes(memoryview(buffer)[:found])
        pieces: list[bytes] = []
        try:
            while size:
                # Received where it stays: no copy.
                piece = self._sock.recv(size, socket.MSG_WAITALL)
                if not piece:
                    break
                pieces.append(piece)
                size -= len(piece)
        except OSError as error:
            raise self._broke("receiving", error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> Reply:
        """End the data connection in order and wait for the server's verdict. Raises Unavailable."""
        if self._resets:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _END_AT_CLOSE)
        self._shut()
        with self._session._guarded():  # noqa: SLF001
            return self._session._reply()  # noqa: SLF001

    def cut(self) -> None:
        """Stop a download that is not wanted to its end. The session goes on if the server lets it.

        ABOR hangs on three of five servers: the data connection is closed, the reply read, and a NOOP shows
        whether replies still belong to their commands.
        """
        self._close()
        if self._session.broken:
            return
        with contextlib.suppress(Unavailable, BackendFault):
            with self._session._guarded():  # noqa: SLF001
                self._session._reply()  # noqa: SLF001
            if self._session.command(b"NOOP").code == 200:
                return
        self._session.broken = True

    def _shut(self) -> None:
        """Close so that the server knows the end from a broken connection: TLS has a word for it."""
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.settimeout(min(2.0, self._timeout_s))
                self._sock.unwrap()
        self._close()

    def _close(self) -> None:
        self._session.stream = None
        with contextlib.suppress(OSError):
            self._sock.close()

    def _abandon(self) -> None:
        self._session.broken = True
        self._close()
