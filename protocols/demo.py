"""``python -m protocols demo``: the same conversation and picture over the five transports at once, live, then compared.

Five servers in five processes on one store, the five real clients, the offline models: each lane must bring the model's very words.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from protocols import TRANSPORTS
from protocols.processes import catching_signals, serving_all
from shared.client.protocol import ChatClient, Item, Lost, Resumed, collect
from shared.config import Settings, settings_problems
from shared.errors import ChatError, ConnectionLost
from shared.events import AnyEvent, Chunk, ImageChunk
from shared.images.offline import OfflineImages
from shared.llm.model import ContextMessage
from shared.llm.offline import MODEL_ID
from shared.llm.offline_reply import reply_tokens
from shared.reply import Fold, Picture, Reply

TALK = ("My name is Ada.", "Show me code that reads a stream of events.", "What is my name?")
PROMPT = "a red bridge over a quiet river"
BEGUN_ON, CONTINUED_ON, AGAIN = "rest", "grpc", "What is my name?"

# What differs between two runs of the same turn: whose it is, and when it was.
_OWN = frozenset({"turn_id", "session_id", "image_id", "request_id", "at", "elapsed_ms"})
_TAIL_CHARS = 46
_NO_DIFFERENCE_MS = 20.0
_COLUMNS = (
    "transport",
    "first\ntoken ms",
    "whole\nreply ms",
    "picture\nms",
    "received",
    "bytes",
    "text\nequal",
    "log\nequal",
    "picture\nequal",
)


@dataclass(slots=True)
class Lane:
    """What one transport has brought. ``whole`` counts the answers that came in one piece, ``differs`` says what and how."""

    word: str
    doing: str = "starting"
    fold: Fold = field(default_factory=Fold)
    session_id: str | None = None
    turn_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    picture: Picture | None = None
    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    live: list[AnyEvent] = field(default_factory=list)
    log: list[AnyEvent] = field(default_factory=list)
    whole: int = 0
    bytes: int = 0
    differs: dict[str, str] = field(default_factory=dict)

    @property
    def tail(self) -> str:
        """The end of what streams now, on one line."""
        begun = [entry for entry in self.fold.pictures.values() if entry[1]]
        if begun:
            about, data = begun[-1]
            return f"{'preview' if about.preview else 'picture'} {100 * len(data) // max(about.size_bytes, 1)} %"
        if not TRANSPORTS[self.word].tokens and self.doing not in ("starting", "done", "failed"):
            return "(nothing yet: it comes whole)"
        return " ".join(self.fold.text.split())[-_TAIL_CHARS:]


@dataclass(frozen=True, slots=True)
class Model:
    """What the offline models say and draw by themselves, without any transport."""

    texts: list[str]
    again: str
    sha256: str


class View:
    """The lanes as they stream: a live table on a terminal, a line a step where there is none."""

    def __init__(self, console: Console, lanes: Mapping[str, Lane]) -> None:
        self._console = console
        self._lanes = lanes
        self._begun = time.perf_counter()

    def __rich__(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("transport", style="bold")
        table.add_column(f"step ({time.perf_counter() - self._begun:.1f} s)", min_width=22)
        table.add_column("received", justify="right")
        table.add_column("what streams", no_wrap=True, min_width=_TAIL_CHARS)
        for lane in self._lanes.values():
            table.add_row(lane.word, lane.doing, str(len(lane.live) + lane.whole), Text(lane.tail))
        return table

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the lanes run."""
        if self._console.is_terminal:
            with Live(self, console=self._console, refresh_per_second=12, transient=True):
                yield
        else:
            yield

    def step(self, lane: Lane, line: str) -> None:
        """A lane has come a step further."""
        if not self._console.is_terminal:
            self._console.print(
                f"{time.perf_counter() - self._begun:5.1f} s  {lane.word:<10} {line}", markup=False, soft_wrap=True
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the five lanes are equal, 1 when one differs, 2 when a server does not start, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m protocols demo",
        description="The same conversation and picture over the five transports at once, live, then compared.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for the pictures (default: demo-out)"
    )
    parser.add_argument("--size", default="512x512", metavar="WxH", help="of the pictures (default: 512x512)")
    parser.add_argument("--store", metavar="URL", help="sqlite:///PATH to keep the sessions (default: a temporary one)")
    args = parser.parse_args(argv)
    # A table must not be folded where a program reads it.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    try:
        return asyncio.run(_until_signal(console, args))
    except ValidationError as error:
        wrong = settings_problems(error)
        return _end(f"settings: {wrong}", 2)
    except (RuntimeError, OSError) as error:
        return _end(str(error), 2)


def _end(line: str, status: int) -> int:
    sys.stderr.write(f"{line}\n")
    return status


async def _until_signal(console: Console, args: argparse.Namespace) -> int:
    with catching_signals() as signals:
        work = asyncio.create_task(_demo(console, args))
        asked = asyncio.create_task(signals.get())
        await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            asked.cancel()
            return work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return _end("stopped, and the five servers with it", 128 + asked.result())


async def _demo(console: Console, args: argparse.Namespace) -> int:
    settings = Settings()
    key = settings.api_secret_key.get_secret_value() if settings.api_secret_key else None
    await asyncio.to_thread(args.out.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="genai-demo-", ignore_cleanup_errors=True) as folder:
        # The comparison needs one token source for every lane: a provider never says the same twice, so it is not asked here.
        env = {
            "STORE_URL": args.store or f"sqlite:///{Path(folder) / 'demo.db'}",
            "GENAI_PROVIDER": "offline",
            "IMAGE_PROVIDER": "offline",
            "GENAI_MODEL_ID": MODEL_ID,
        }
        begun = time.perf_counter()
        console.print("Starting five servers on one store, with the offline models …", soft_wrap=True)
        async with contextlib.AsyncExitStack() as stack:
            servers = await stack.enter_async_context(serving_all(env=env, apart=True))
            where = ", ".join(f"{word} on {server.address}" for word, server in servers.items())
            console.print(
                f"All are up after {time.perf_counter() - begun:.1f} s: {where}.\n", markup=False, soft_wrap=True
            )
            lanes = {word: Lane(word) for word in servers}
            clients = {word: await stack.enter_async_context(servers[word].client(key=key)) for word in servers}
            for client in clients.values():
                await client.ping()
            view = View(console, lanes)
            with view.shown():
                async with asyncio.TaskGroup() as group:
                    for word, lane in lanes.items():
                        group.create_task(_play(clients[word], lane, view, args))
            model = await _model(settings, lanes)
            _compare(lanes, model)
            _report(console, lanes, settings)
            goes_on = await _hand_over(console, clients, lanes, model)
    paths = ", ".join(str(args.out / f"{word}.png") for word, lane in lanes.items() if lane.picture)
    console.print(f"The pictures: {paths}", markup=False, soft_wrap=True)
    for lane in lanes.values():
        for what, how in lane.differs.items():
            console.print(f"{lane.word} differs: {what}: {how}", style="bold red", markup=False, soft_wrap=True)
    return 0 if goes_on and not any(lane.differs for lane in lanes.values()) else 1


async def _play(client: ChatClient, lane: Lane, view: View, args: argparse.Namespace) -> None:
    """One lane: the conversation, the picture, then the logs of all its turns, read again over the same transport."""
    try:
        for number, message in enumerate(TALK, 1):
            lane.doing = f"turn {number} of {len(TALK)}"
            reply = await _ask(lane, client.chat(message, session_id=lane.session_id)) or lane.fold.reply()
            assert isinstance(reply, Reply)
            lane.session_id = reply.session_id
            lane.turn_ids.append(reply.turn_id)
            lane.texts.append(reply.text)
            times = f"first token {lane.first_ms[-1]:.0f} ms, whole {lane.total_ms[-1]:.0f} ms"
            view.step(lane, f"{lane.doing}: {len(reply.text)} characters, {times}")
        lane.doing = "picture"
        client_image = client.image(PROMPT, size=args.size, session_id=lane.session_id)
        picture = await _ask(lane, client_image) or lane.fold.picture()
        assert isinstance(picture, Picture)
        lane.picture = picture
        lane.turn_ids.append(picture.turn_id)
        lane.bytes = client.counts.bytes_received
        path = args.out / f"{lane.word}.png"
        await asyncio.to_thread(path.write_bytes, picture.image)
        view.step(lane, f"picture: {len(picture.image)} bytes, {lane.total_ms[-1]:.0f} ms, {path}")
        lane.doing = "reading the logs again"
        for turn_id in lane.turn_ids:
            async with aclosing(client.read(turn_id, 0)) as items:
                async for item in items:
                    if not isinstance(item, Lost | Resumed | Reply | Picture):
                        lane.log.append(item)
        lane.doing = "done"
    except (ChatError, ConnectionLost) as error:
        lane.doing = "failed"
        lane.differs["run"] = str(error)
        view.step(lane, f"failed: {error}")


async def _ask(lane: Lane, items: AsyncGenerator[Item, None]) -> Reply | Picture | None:
    """Read one answer into the lane; on plain REST it is one object, which is returned."""
    lane.fold = Fold()
    begun = time.perf_counter()
    first_ms: float | None = None
    answer: Reply | Picture | None = None
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Lost | Resumed):
                continue
            if first_ms is None and isinstance(item, Chunk | ImageChunk | Reply | Picture):
                first_ms = (time.perf_counter() - begun) * 1000
            if isinstance(item, Reply | Picture):
                answer = item
                lane.whole += 1
            else:
                lane.fold.add(item)
                lane.live.append(item)
    lane.total_ms.append((time.perf_counter() - begun) * 1000)
    lane.first_ms.append(lane.total_ms[-1] if first_ms is None else first_ms)
    return answer


async def _model(settings: Settings, lanes: Mapping[str, Lane]) -> Model:
    """Ask the offline models directly, in this process."""
    history: list[ContextMessage] = []
    texts = []
    for message in (*TALK, AGAIN):
        history.append(ContextMessage("user", message))
        texts.append("".join(reply_tokens(history, settings.offline_tokens)))
        history.append(ContextMessage("model", texts[-1]))
    drawn = next((lane.picture for lane in lanes.values() if lane.picture), None)
    sha256 = ""
    if drawn is not None:
        at_once = settings.model_copy(update={"offline_tokens_per_s": 0.0, "offline_first_token_ms": 0.0})
        async for part in OfflineImages(at_once).generate(PROMPT, drawn.width, drawn.height):
            sha256 = hashlib.sha256(part.data).hexdigest()
    return Model(texts[:-1], texts[-1], sha256)


def _compare(lanes: Mapping[str, Lane], model: Model) -> None:
    """Each lane with the model, and its logs event by event with the first lane's and with what it saw live."""
    reference = [_common(event) for event in next(iter(lanes.values())).log]
    for lane in lanes.values():
        if lane.texts != model.texts:
            lane.differs["text"] = "not what the model said"
        if lane.picture is None or hashlib.sha256(lane.picture.image).hexdigest() != model.sha256:
            lane.differs["picture"] = "not what the model drew"
        log = [_common(event) for event in lane.log]
        if not log or log != reference:
            at = next((i for i, pair in enumerate(zip(log, reference, strict=False)) if pair[0] != pair[1]), None)
            lane.differs["log"] = f"{len(log)} events, not {len(reference)}" if at is None else f"event {at + 1} of all"
        elif lane.live and lane.live != lane.log:
            lane.differs["log"] = "read again, it is not what was seen live"


def _common(event: AnyEvent) -> dict[str, Any]:
    """An event without what is its own turn's: type, seq, text, usage, finish reason, sha256 and the rest stay."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in _OWN}


def _report(console: Console, lanes: Mapping[str, Lane], settings: Settings) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, heading in enumerate(_COLUMNS):
        table.add_column(heading, justify="right" if 0 < number < 6 else "left", style="bold" if not number else None)
    for lane in lanes.values():
        table.add_row(
            lane.word,
            _ms(lane.first_ms[: len(TALK)]),
            _ms(lane.total_ms[: len(TALK)]),
            _ms(lane.total_ms[len(TALK) :]),
            f"{lane.whole} replies" if lane.whole else f"{len(lane.live)} events",
            f"{lane.bytes:,}",
            *("no" if what in lane.differs or "run" in lane.differs else "yes" for what in ("text", "log", "picture")),
        )
    console.print(table)
    rate = f"{settings.offline_tokens_per_s:g} tokens a second" if settings.offline_tokens_per_s else "no pauses"
    console.print(
        f"\nFirst token and whole reply: median of {len(TALK)} turns, from the call to the client; in them is the model's own "
        f"{settings.offline_first_token_ms:g} ms to its first token, then {rate}.\n"
        "Bytes: bodies and frames of all four turns, as far as each client's library shows them. Log: every event of every "
        "turn, read again from its start.",
        markup=False,
        soft_wrap=True,
    )
    whole = [word for word in lanes if not TRANSPORTS[word].tokens]
    firsts = [
        statistics.median(lane.first_ms[: len(TALK)])
        for word, lane in lanes.items()
        if word not in whole and lane.first_ms
    ]
    for word in whole:
        console.print(f"{word} sends one whole reply, so its first token is its last.", markup=False, soft_wrap=True)
    if len(firsts) > 1:
        spread = max(firsts) - min(firsts)
        verdict = (
            "on one run of one machine that is no difference"
            if spread < _NO_DIFFERENCE_MS
            else "five servers and clients shared this machine, so this is no ranking"
        )
        console.print(
            f"The first tokens of the other {len(firsts)} lie within {spread:.0f} ms: {verdict}.",
            markup=False,
            soft_wrap=True,
        )


def _ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "-"


async def _hand_over(
    console: Console, clients: Mapping[str, ChatClient], lanes: Mapping[str, Lane], model: Model
) -> bool:
    """Go on over one transport with the conversation that was begun over another."""
    session_id = lanes[BEGUN_ON].session_id
    if session_id is None:
        return False
    try:
        reply = await collect(clients[CONTINUED_ON].chat(AGAIN, session_id=session_id))
        seen = (await clients[BEGUN_ON].list_messages(session_id))[-1].text
    except (ChatError, ConnectionLost) as error:
        console.print(
            f"\nThe conversation begun over {BEGUN_ON} did not go on over {CONTINUED_ON}: {error}",
            markup=False,
            soft_wrap=True,
        )
        return False
    goes_on = reply.text == seen == model.again
    console.print(
        f"\nThe conversation begun over {BEGUN_ON}, continued over {CONTINUED_ON}: “{AGAIN}” “{reply.text.splitlines()[0]}” "
        f"({'equal to the model, and there over ' + BEGUN_ON if goes_on else 'NOT what the model said'})",
        markup=False,
        soft_wrap=True,
    )
    return goes_on
