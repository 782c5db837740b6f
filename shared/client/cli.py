"""A client from the command line: one message and its reply, one picture, or the interactive shell.

It is the same for all transports.

Exit status: 0 done, 1 refused or failed, 2 no server of this transport answers there or a setting is wrong, 130
interrupted. One line on stderr says why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.client import text
from shared.client.exit_status import ABSENT, FAILED, INTERRUPTED, KEY_ADVICE, fail
from shared.client.files import obstacle
from shared.client.one_shot import print_reply, save_picture
from shared.client.protocol import Ask, ChatClient
from shared.client.sessions import find_session
from shared.client.tls import SECURE
from shared.client.transport import Transport, Transports
from shared.config import Settings, clean_key, settings_problems
from shared.errors import ChatError, ConnectionLost, NotOurServer, ServerAbsent
from shared.usage import reason

_HOST = "127.0.0.1"


def main(client: type[ChatClient], argv: Sequence[str] | None, transports: Transports) -> int:
    """Send MESSAGE and print the reply as it streams, or open the shell. ``transports``: the choices of ``/switch``."""
    word = client.transport
    parser = argparse.ArgumentParser(
        prog=f"{word} client",
        description=f"Chat over {transports[word].title}: interactively, or one message with MESSAGE.",
    )
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="send this and exit; -: read it from stdin")
    _add_common(parser, word)
    parser.add_argument("--model", metavar="ID", help="model to ask (default: the session's, else the server's)")
    parser.add_argument("--plain", action="store_true", help="the shell prints raw text instead of Markdown")
    args = _parsed(parser, argv)
    if args.json and args.message is None:
        parser.error("--json goes with MESSAGE, which may be - to read the message from stdin")
    return _guarded(word, lambda settings: _chat(transports[word], args, settings, transports))


def image_main(client: type[ChatClient], argv: Sequence[str] | None, transports: Transports) -> int:
    """Ask for a picture of PROMPT, write it to a file, print the file's name."""
    word = client.transport
    parser = argparse.ArgumentParser(
        prog=f"{word} image", description=f"Ask for a picture over {transports[word].title}."
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    _add_common(parser, word)
    parser.add_argument("--size", metavar="WxH", help="such as 512x512 (default: 1024x1024)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="file to write (default: a new one named after the prompt)"
    )
    args = _parsed(parser, argv)
    return _guarded(word, lambda settings: _image(transports[word], args, settings))


def _add_common(parser: argparse.ArgumentParser, word: str) -> None:
    parser.add_argument(
        "--host", default=_HOST, help=f"where the server is: HOST, HOST:PORT or its URL (default: {_HOST})"
    )
    parser.add_argument("--port", type=_port, help=f"the server's port (default: {word.upper()}_PORT)")
    parser.add_argument("--session", metavar="ID", help="go on in this session: its id, or the beginning of it")
    parser.add_argument("--json", action="store_true", help="raw events, one JSON object a line")
    parser.add_argument("--no-resume", action="store_true", help="a lost connection is the end")
    parser.add_argument("--key", help="the server's key (default: API_SECRET_KEY)")
    parser.add_argument(
        "--tls", action="store_true", help="speak TLS, as with https://, wss://, grpcs:// or TLS_CA (docs/tls.md)"
    )


def _port(given: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", given) or not 0 < int(given) < 65536:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text.line(given, 40)}")
    return int(given)


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, each as text that can be sent. A path keeps the bytes that it was given with."""
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, _entered(value, f"the argument {name.upper()}"))
    return args


def _entered(given: str, what: str) -> str:
    """The text, and a note on stderr when some of it was not valid."""
    sent = text.entered(given)
    if sent != given and sent.count("\ufffd") > given.count("\ufffd"):
        sys.stderr.write(f"{what} is {text.NOT_UTF8}\n")
    return sent


def _guarded(word: str, work: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    """Run ``work`` to an exit status. Every failure becomes one line on stderr."""
    # Python has no stream object for a descriptor that was closed before it started (``>&-``).
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if sys.stdout is None:
        return fail(f"{word} client: stdout is closed, so the reply has nowhere to go")
    try:
        return asyncio.run(work(Settings()))
    except ValidationError as error:
        return fail(f"settings: {settings_problems(error)}", ABSENT)
    except ServerAbsent as error:
        return fail(error.message, ABSENT)
    except NotOurServer as error:
        return fail(f"not_our_server: {error.message}", ABSENT)
    except ChatError as error:
        advice = f" ({KEY_ADVICE})" if error.code == "unauthenticated" else ""
        return fail(f"{error.code}: {error.message}{advice}")
    except ConnectionLost as error:
        return fail(f"connection_lost: {error.message} ({text.after_seq(error.after)})")
    except BrokenPipeError:
        # The reader of stdout has closed it (``| head``). Python would complain once more when it flushes stdout at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return fail(f"{word} client: {reason(error)}")
    except KeyboardInterrupt:
        return INTERRUPTED


def _options(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The options of a client. Raises ``invalid_request`` for a key that no header can carry."""
    key = settings.api_secret_key.get_secret_value() if settings.api_secret_key else None
    if args.key is not None:
        try:
            key = clean_key(args.key)
        except ValueError as error:
            raise ChatError("invalid_request", f"--key: {error}") from error
    return {"key": key, "resume": not args.no_resume, "tls": args.tls, "ca": settings.tls_ca}


def _address(transport: Transport, args: argparse.Namespace, port: int | None) -> str:
    """``HOST:PORT`` as the arguments give it, after the scheme if there is one. Raises ``invalid_request``."""
    scheme, colon, host = args.host.rpartition("://")
    if "/" in host.rstrip("/"):
        raise ChatError("invalid_request", "--host takes a name, an address, or a URL without a path.")
    host = host.rstrip("/")
    if (given := re.fullmatch(r"(.+):(\d+)", host)) and (host.startswith("[") or ":" not in given[1]):
        host, port = given[1], port if port is not None else int(given[2])
    port = port if port is not None else transport.port()
    if not _is_host(host) or not 0 < port < 65536:
        raise ChatError(
            "invalid_request",
            "--host takes a name or an address, with or without :PORT (1 to 65535), or a URL;"
            f" {text.line(args.host)} is none of these.",
        )
    host = f"[{host}]" if ":" in host and "[" not in host else host
    return f"{scheme}{colon}{host}:{port}"


def _is_host(host: str) -> bool:
    """Whether a client's library can read the text as the host of a URL (RFC 3986, section 3.2.2)."""
    if ":" in host or "[" in host:
        try:
            ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return host.startswith("[") == host.endswith("]")
    with contextlib.suppress(UnicodeError):  # a part of a name has 1 to 63 bytes (RFC 1035, section 2.3.4)
        host.encode("idna")
        return bool(host) and not re.search(r"[\s\x00-\x1f\x7f@?#%\\<>^`{|}\]\ufffd]", host)
    return False


def absent(word: str, address: str, default_port: int) -> str:
    """The line for a server that does not answer, with the command that starts it."""
    host_port = address.rpartition("/")[2]
    host, _, port = host_port.rpartition(":")
    more = "" if port == str(default_port) else f" --port {port}"
    start = "start it" if _is_loopback(host) else "check the address, or start the server there"
    return f"nothing answers at {host_port}; {start} with: python -m protocols serve {word}{more}"


def come_back(word: str, address: str, default_port: int, session_id: str) -> str:
    """The command that opens the shell again in this session, at the same server."""
    scheme, _, host_port = address.rpartition("://")
    host, _, port = host_port.rpartition(":")
    options = [
        *(["--host", host] if host != _HOST else []),
        *(["--port", port] if port != str(default_port) else []),
        *(["--tls"] if scheme in SECURE else []),
    ]
    return " ".join(["python -m protocols chat", word, *options, "--session", session_id])


def _is_loopback(host: str) -> bool:
    """Whether the host of an address is this machine, as far as the address alone says it."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def _absence_explained(transport: Transport, address: str) -> Iterator[None]:
    try:
        yield
    except ServerAbsent as error:
        raise ServerAbsent(absent(transport.word, address, transport.port())) from error


async def _chat(transport: Transport, args: argparse.Namespace, settings: Settings, transports: Transports) -> int:
    address = _address(transport, args, args.port)
    options = _options(args, settings)
    with _absence_explained(transport, address):
        if args.message is None:
            return await _shell(transport.client(address, **options), args, settings, transports)
        message = _stdin() if args.message == "-" else args.message
        async with transport.client(address, **options) as client:
            session_id = await find_session(client, args.session) if args.session is not None else None
            ask = Ask(text=message, session_id=session_id, model_id=args.model)
            return await print_reply(client, ask, raw=args.json)


def _stdin() -> str:
    """All of stdin as text. Raises ``invalid_request`` when it is closed."""
    if sys.stdin is None:
        raise ChatError("invalid_request", "stdin is closed; give the message as an argument.")
    given = sys.stdin.buffer.read().decode(sys.stdin.encoding or "utf-8", "surrogateescape")
    return _entered(given.removeprefix("\ufeff").replace("\r\n", "\n"), "stdin")


async def _image(transport: Transport, args: argparse.Namespace, settings: Settings) -> int:
    address = _address(transport, args, args.port)
    if why := obstacle(args.out):
        raise ChatError("invalid_request", why)
    with _absence_explained(transport, address):
        async with transport.client(address, **_options(args, settings)) as client:
            session_id = await find_session(client, args.session) if args.session is not None else None
            ask = Ask(text=args.prompt, kind="image", size=args.size, session_id=session_id)
            return await save_picture(client, ask, args.out, raw=args.json)


async def _shell(client: ChatClient, args: argparse.Namespace, settings: Settings, transports: Transports) -> int:
    # Imported here, because one message needs neither prompt_toolkit nor rich, which take a third of its time.
    from shared.client import shell

    if sys.stdin is None:
        raise ChatError("invalid_request", "stdin is closed; give the message as an argument.")

    def open_client(word: str) -> ChatClient:
        port = args.port if word == client.transport else None
        made: ChatClient = transports[word].client(_address(transports[word], args, port), **_options(args, settings))
        return made

    def nothing_there(client: ChatClient) -> str:
        return absent(client.transport, client.address, transports[client.transport].port())

    def command(client: ChatClient, session_id: str) -> str:
        return come_back(client.transport, client.address, transports[client.transport].port(), session_id)

    return await shell.run(
        client,
        open_client,
        transports,
        absent=nothing_there,
        come_back=command,
        session_id=args.session,
        model_id=args.model,
        plain=args.plain,
    )
