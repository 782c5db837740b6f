"""A client from the command line: one message and its reply, one picture, or the interactive shell. The same for all five.

Exit status: 0 done, 1 refused or failed, 2 nothing answers there (or wrong settings), 130 interrupted; why is one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from shared.client.files import free_name
from shared.client.protocol import Ask, ChatClient, Item, Lost, Resumed
from shared.config import Settings
from shared.errors import ChatError, ConnectionLost, ServerAbsent
from shared.events import (
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    TurnCancelled,
    TurnFailed,
    TurnInterrupted,
    to_json,
)
from shared.reply import Fold, Picture, Reply

DONE, FAILED, ABSENT, INTERRUPTED = 0, 1, 2, 130

_CANCEL_S = 3.0
# What a terminal would act on: the C0 and C1 controls but tab and newline. Files and pipes get every character as it came.
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")
_CONTROLS[0x0D] = _CONTROLS[0x85] = ""


class Way(Protocol):
    """A row of the table of transports, as far as the shell needs it."""

    @property
    def word(self) -> str:
        """Our word for the transport."""

    @property
    def title(self) -> str:
        """Its name."""

    def port(self) -> int:
        """The configured port of its server."""

    def client(self, address: str | None = None, **options: Any) -> ChatClient:
        """A client of it."""


def main(client: type[ChatClient], argv: Sequence[str] | None, ways: Mapping[str, Way]) -> int:
    """Send MESSAGE and print the reply as it streams, or open the shell; ``ways`` are where its ``/switch`` can go."""
    word = client.transport
    parser = argparse.ArgumentParser(
        prog=f"{word} client", description=f"Chat over {word}: interactively, or one message with MESSAGE."
    )
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="send this and exit; -: read it from stdin")
    _add_common(parser, word)
    parser.add_argument("--model", metavar="ID", help="model to ask (default: the session's, else the server's)")
    parser.add_argument("--plain", action="store_true", help="the shell prints raw text instead of Markdown")
    args = parser.parse_args(argv)
    return _guarded(word, lambda settings: _chat(client, args, settings, ways))


def image_main(client: type[ChatClient], argv: Sequence[str] | None, ways: Mapping[str, Way]) -> int:
    """Ask for a picture of PROMPT, write it to a file, print the file's name."""
    word = client.transport
    parser = argparse.ArgumentParser(prog=f"{word} image", description=f"Ask for a picture over {word}.")
    parser.add_argument("prompt", metavar="PROMPT")
    _add_common(parser, word)
    parser.add_argument("--size", metavar="WxH", help="such as 512x512 (default: 1024x1024)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: a new file named after the prompt")
    args = parser.parse_args(argv)
    return _guarded(word, lambda settings: _image(client, args, settings, ways))


def _add_common(parser: argparse.ArgumentParser, word: str) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="where the server is (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, help=f"its port (default: {word.upper()}_PORT)")
    parser.add_argument("--session", metavar="ID", help="go on in this session")
    parser.add_argument("--json", action="store_true", help="raw events, one JSON object a line")
    parser.add_argument("--no-resume", action="store_true", help="a lost connection is the end")
    parser.add_argument("--key", help="the server's API_SECRET_KEY (default: ours)")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError("a port is 1 to 65535")
    return port


def _guarded(word: str, work: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    """Run ``work`` to an exit status; whatever can go wrong becomes one line on stderr."""
    try:
        return asyncio.run(work(Settings()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        return _fail(f"settings: {problems}", ABSENT)
    except ServerAbsent as error:
        return _fail(error.message, ABSENT)
    except ChatError as error:
        return _fail(f"{error.code}: {error.message}")
    except ConnectionLost as error:
        return _fail(f"connection_lost: {error.message} (after seq {error.after})")
    except BrokenPipeError:
        # Who read us has left (``| head``): nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(f"{word} client: {error}")
    except KeyboardInterrupt:
        return INTERRUPTED


def _fail(line: str, status: int = FAILED) -> int:
    sys.stderr.write(f"{line}\n")
    return status


def _options(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    key = args.key or (settings.api_secret_key.get_secret_value() if settings.api_secret_key else None)
    return {"key": key, "resume": not args.no_resume}


def _at(way: Way, args: argparse.Namespace, port: int | None = None) -> str:
    port = port if port is not None else way.port()
    return f"[{args.host}]:{port}" if ":" in args.host and "[" not in args.host else f"{args.host}:{port}"


def absent(word: str, address: str, default_port: int) -> str:
    """The line for a server that is not there, with the command that starts it."""
    host_port = address.rpartition("/")[2]
    port = host_port.rpartition(":")[2]
    more = "" if port == str(default_port) else f" --port {port}"
    return f"nothing answers at {host_port}; start it with: python -m protocols serve {word}{more}"


@contextlib.contextmanager
def _named_absence(way: Way, address: str) -> Any:
    try:
        yield
    except ServerAbsent as error:
        raise ServerAbsent(absent(way.word, address, way.port())) from error


async def _chat(make: type[ChatClient], args: argparse.Namespace, settings: Settings, ways: Mapping[str, Way]) -> int:
    way = ways[make.transport]
    address = _at(way, args, args.port)
    options = _options(args, settings)
    with _named_absence(way, address):
        if args.message is None:
            return await _shell(make(address, **options), args, settings, ways)
        message = sys.stdin.read() if args.message == "-" else args.message
        ask = Ask(text=message, session_id=args.session, model_id=args.model)
        async with make(address, **options) as client:
            items = client.chat(message, session_id=args.session, model_id=args.model, request_id=ask.request_id)
            return await _cancelling(client, ask, _print(items, raw=args.json))


async def _shell(client: ChatClient, args: argparse.Namespace, settings: Settings, ways: Mapping[str, Way]) -> int:
    from shared.client import shell

    def open_client(word: str) -> ChatClient:
        port = args.port if word == client.transport else None
        return ways[word].client(_at(ways[word], args, port), **_options(args, settings))

    def nothing_there(client: ChatClient) -> str:
        return absent(client.transport, client.address, ways[client.transport].port())

    return await shell.run(
        client,
        open_client,
        ways,
        session_id=args.session,
        model_id=args.model,
        plain=args.plain,
        absent=nothing_there,
    )


async def _cancelling(client: ChatClient, ask: Ask, work: Coroutine[Any, Any, int]) -> int:
    """Run ``work``; when Ctrl-C interrupts it, the turn is cancelled on the server before we leave."""
    task = asyncio.ensure_future(work)
    try:
        return await task
    except asyncio.CancelledError:
        # The key names our turn on every transport, also where plain REST has not told us its id yet: starting it again joins it.
        with contextlib.suppress(ChatError, ConnectionLost, TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await client.cancel((await client.start(ask)).turn_id)
        return _fail("\ncancelled" if sys.stderr.isatty() else "cancelled", INTERRUPTED)


async def _print(items: AsyncGenerator[Item, None], *, raw: bool) -> int:
    """The reply on stdout as it comes; what happens to the line, and how a turn ended badly, on stderr."""
    ended: str | None = None
    last = "\n"
    try:
        async with aclosing(items):
            async for item in items:
                if isinstance(item, Lost | Resumed):
                    _notice(item)
                elif raw:
                    _write(to_json(item).decode() + "\n", exact=True)
                elif isinstance(item, Chunk | Reply):
                    _write(item.text)
                    last = item.text or last
                ended = _ended_badly(item) or ended
    finally:
        if not last.endswith("\n"):
            _write("\n")
    return _fail(ended) if ended else DONE


def _ended_badly(item: Item) -> str | None:
    if isinstance(item, TurnFailed):
        return f"{item.code}: {item.message}"
    if isinstance(item, TurnCancelled) or (isinstance(item, Reply) and item.status == "cancelled"):
        return "cancelled: someone cancelled this turn; what was said is kept"
    if isinstance(item, TurnInterrupted) or (isinstance(item, Reply) and item.status == "interrupted"):
        return "interrupted: the server stopped in the middle of this turn; what was said is kept"
    return None


def _write(text: str, *, exact: bool = False) -> None:
    """To stdout at once; a terminal gets no control characters from a model."""
    out = sys.stdout
    if not exact and out.isatty():
        text = text.translate(_CONTROLS)
    out.buffer.write(text.encode())
    out.buffer.flush()


def _notice(item: Lost | Resumed) -> None:
    if isinstance(item, Lost):
        line = f"[lost after seq {item.after}: {item.why}]\n"
    else:
        line = f"[back after {item.elapsed_ms:.0f} ms, going on after seq {item.after}]\n"
    # On a terminal the reply stands in the way.
    sys.stderr.write(f"\n{line}" if sys.stderr.isatty() else line)


async def _image(make: type[ChatClient], args: argparse.Namespace, settings: Settings, ways: Mapping[str, Way]) -> int:
    way = ways[make.transport]
    address = _at(way, args, args.port)
    if args.out is not None and not args.out.absolute().parent.is_dir():
        return _fail(f"invalid_request: there is no folder {args.out.absolute().parent}")
    ask = Ask(text=args.prompt, kind="image", size=args.size, session_id=args.session)
    with _named_absence(way, address):
        async with make(address, **_options(args, settings)) as client:
            items = client.image(args.prompt, size=args.size, session_id=args.session, request_id=ask.request_id)
            return await _cancelling(client, ask, _save(items, args))


async def _save(items: AsyncGenerator[Item, None], args: argparse.Namespace) -> int:
    fold, picture = Fold(), None
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Lost | Resumed):
                _notice(item)
                continue
            if args.json:
                _write(to_json(item).decode() + "\n", exact=True)
            if isinstance(item, Picture):
                picture = item
            elif not isinstance(item, Reply):
                fold.add(item)
                _progress(item, fold)
    picture = picture or fold.picture()
    path = args.out or free_name(args.prompt, picture.mime_type)
    await asyncio.to_thread(path.write_bytes, picture.image)
    line = f"{path}  {picture.width}x{picture.height}, {len(picture.image)} bytes\n"
    if args.json:
        sys.stderr.write(line)
    else:
        _write(f"{path}\n")
    return DONE


def _progress(item: Item, fold: Fold) -> None:
    if not sys.stderr.isatty():
        return
    if isinstance(item, ImageChunk):
        started, data = fold.pictures[item.image_id]
        what = "preview" if started.preview else "picture"
        sys.stderr.write(
            f"\r{what} {100 * len(data) // max(started.size_bytes, 1):3d} % of {started.size_bytes} bytes "
        )
    elif isinstance(item, ImageStarted | ImageCompleted):
        sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
