"""``python -m protocols demo``: the same conversation and picture over the five transports at once, live, then compared.

Five servers run in five processes on one store, with the five real clients and the offline models. Each transport must bring
exactly what the models say and draw.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from protocols import TRANSPORTS, certs
from protocols.demo_report import compare_runs, model_output, show_runs
from protocols.demo_view import DemoView, TransportRun
from protocols.live import open_console, say
from protocols.processes import serving_all
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, Rewound, collect
from shared.config import Settings, settings_problems, tls_environment
from shared.errors import ChatError, ConnectionLost
from shared.events import Chunk, ImageChunk
from shared.llm.offline import MODEL_ID
from shared.reply import Fold, Picture, Reply
from shared.signals import run_until_signal
from shared.usage import reason

_CONVERSATION = ("My name is Ada.", "Show me code that reads a stream of events.", "What is my name?")
_PROMPT = "a red bridge over a quiet river"
# At the end, the conversation that began on the first transport goes on over the second one.
_BEGUN_ON, _CONTINUED_ON, _LAST_MESSAGE = "rest", "grpc", "What is my name?"


# What to do after the demo, as its last lines say it.
NEXT = (
    ("python -m protocols serve all", "start them; then: python -m protocols chat sse"),
    ("python -m compare race", "race them in this terminal"),
    ("python -m compare page", "race them in a browser"),
    ("python -m compare run --quick", "measure them, with a report"),
    ("python -m compare probe ADDRESS", "what a proxy on your path does to the tokens"),
    ("python -m compare guide --need tokens,browser", "which one for your needs"),
    ("python -m compare numbers --users 1000", "what your own load costs, after a run"),
)
_MOST_EXPLAINED = 52


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the five are equal, 1 when one differs, 2 when a server does not start, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m protocols demo",
        description="The same conversation and picture over the five transports at once, live, then compared.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for the pictures (default: demo-out)"
    )
    parser.add_argument("--size", default="512x512", metavar="WxH", help="size of the pictures (default: 512x512)")
    parser.add_argument("--store", metavar="URL", help="sqlite:///PATH to keep the sessions (default: a temporary one)")
    parser.add_argument("--tls", action="store_true", help="over TLS, with a certificate made for this run")
    args = parser.parse_args(argv)
    try:
        return asyncio.run(run_until_signal(_demo(open_console(), args), "stopped, and the five servers with it"))
    except ValidationError as error:
        problem = f"settings: {settings_problems(error)}"
    except ImportError:
        problem = certs.MISSING
    except (RuntimeError, OSError) as error:
        problem = reason(error)
    sys.stderr.write(f"{problem}\n")
    return 2


async def _demo(console: Console, args: argparse.Namespace) -> int:
    settings = Settings()
    key = settings.api_secret_key.get_secret_value() if settings.api_secret_key else None
    await asyncio.to_thread(args.out.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="genai-demo-", ignore_cleanup_errors=True) as folder:
        # A provider never says the same twice, so every transport is compared with the offline models.
        env = {
            "STORE_URL": args.store or f"sqlite:///{Path(folder) / 'demo.db'}",
            "GENAI_PROVIDER": "offline",
            "IMAGE_PROVIDER": "offline",
            "GENAI_MODEL_ID": MODEL_ID,
            **tls_environment(settings),
        }
        if args.tls:
            certs.make(Path(folder))
            env |= certs.files(Path(folder))
        begun = time.perf_counter()
        say(console, "Starting five servers on one store, with the offline models …")
        async with contextlib.AsyncExitStack() as stack:
            servers = await stack.enter_async_context(serving_all(env=env, apart=True))
            where = ", ".join(f"{TRANSPORTS[word].title} on {server.url}" for word, server in servers.items())
            say(console, f"All are up after {time.perf_counter() - begun:.1f} s: {where}.\n")
            clients = {word: await stack.enter_async_context(servers[word].client(key=key)) for word in servers}
            for client in clients.values():
                await client.ping()
            runs = {word: TransportRun(word) for word in servers}
            view = DemoView(console, runs)
            with view.shown(keep=False):
                async with asyncio.TaskGroup() as group:
                    for word, run in runs.items():
                        group.create_task(_play(clients[word], run, view, args))
            picture = next((run.picture for run in runs.values() if run.picture), None)
            model = await model_output(settings, (*_CONVERSATION, _LAST_MESSAGE), _PROMPT, picture)
            compare_runs(runs, model, len(_CONVERSATION))
            show_runs(console, runs, settings, len(_CONVERSATION))
            goes_on = await _continue_elsewhere(console, clients, runs[_BEGUN_ON].session_id, model.texts[-1])
    paths = ", ".join(str(args.out / f"{word}.png") for word, run in runs.items() if run.picture)
    say(console, f"The pictures: {paths}")
    for run in runs.values():
        for what, how in run.differs.items():
            say(console, f"{TRANSPORTS[run.word].title} differs: {what}: {how}", style="bold red")
    _show_next(console)
    return 0 if goes_on and not any(run.differs for run in runs.values()) else 1


async def _play(client: ChatClient, run: TransportRun, view: DemoView, args: argparse.Namespace) -> None:
    """One transport: the conversation, the picture, then the logs of its turns, read again."""
    try:
        for number, message in enumerate(_CONVERSATION, 1):
            run.step = f"turn {number} of {len(_CONVERSATION)}"
            reply = await _read(run, client.chat(message, session_id=run.session_id)) or run.fold.reply()
            assert isinstance(reply, Reply)
            run.session_id = reply.session_id
            run.turn_ids.append(reply.turn_id)
            run.texts.append(reply.text)
            times = f"first token {run.first_ms[-1]:.0f} ms, whole {run.total_ms[-1]:.0f} ms"
            view.step(f"{run.label:<10} {run.step}: {len(reply.text)} characters, {times}")
        run.step = "picture"
        drawing = client.image(_PROMPT, size=args.size, session_id=run.session_id)
        picture = await _read(run, drawing) or run.fold.picture()
        assert isinstance(picture, Picture)
        run.picture = picture
        run.turn_ids.append(picture.turn_id)
        run.bytes = client.counts.bytes_received
        path = args.out / f"{run.word}.png"
        await asyncio.to_thread(path.write_bytes, picture.image)
        view.step(f"{run.label:<10} picture: {len(picture.image)} bytes, {run.total_ms[-1]:.0f} ms, {path}")
        run.step = "reading the logs again"
        for turn_id in run.turn_ids:
            async with aclosing(client.read(turn_id, 0)) as items:
                async for item in items:
                    if not isinstance(item, Lost | Reconnected | Rewound | Reply | Picture):
                        run.log.append(item)
        run.step = "done"
    except (ChatError, ConnectionLost) as error:
        run.step = "failed"
        run.differs["run"] = str(error)
        view.step(f"{run.label:<10} failed: {error}")


async def _read(run: TransportRun, items: AsyncGenerator[Item, None]) -> Reply | Picture | None:
    """Read one answer into the run. An answer that comes in one piece, as on plain REST, is returned."""
    run.fold = Fold()
    begun = time.perf_counter()
    first_ms: float | None = None
    whole: Reply | Picture | None = None
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Rewound):
                run.fold = Fold()
            if isinstance(item, Lost | Reconnected | Rewound):
                continue
            if first_ms is None and isinstance(item, Chunk | ImageChunk | Reply | Picture):
                first_ms = (time.perf_counter() - begun) * 1000
            if isinstance(item, Reply | Picture):
                whole = item
                run.whole += 1
            else:
                run.fold.add(item)
                run.live.append(item)
    run.total_ms.append((time.perf_counter() - begun) * 1000)
    run.first_ms.append(run.total_ms[-1] if first_ms is None else first_ms)
    return whole


async def _continue_elsewhere(
    console: Console, clients: Mapping[str, ChatClient], session_id: str | None, expected: str
) -> bool:
    """Continue a conversation over another transport.

    Returns whether the reply is the model's, and is there for the first transport.
    """
    if session_id is None:
        return False
    begun, continued = (TRANSPORTS[word].title for word in (_BEGUN_ON, _CONTINUED_ON))
    try:
        reply = await collect(clients[_CONTINUED_ON].chat(_LAST_MESSAGE, session_id=session_id))
        there = (await clients[_BEGUN_ON].list_messages(session_id))[-1].text
    except (ChatError, ConnectionLost) as error:
        say(console, f"\nThe conversation begun over {begun} did not go on over {continued}: {error}")
        return False
    goes_on = reply.text == there == expected
    verdict = f"equal to the model, and there over {begun}" if goes_on else "NOT what the model said"
    say(
        console,
        f"\nThe conversation begun over {begun}, continued over {continued}: "
        f"“{_LAST_MESSAGE}” “{reply.text.splitlines()[0]}” ({verdict})",
    )
    return goes_on


def _show_next(console: Console) -> None:
    """Print what to do after the demo; where the terminal is narrow, each explanation stands below its command."""
    say(console, "\nNext:")
    longest = max(len(command) for command, _ in NEXT)
    for command, what in NEXT:
        if console.width > longest + _MOST_EXPLAINED:
            say(console, f"{command:<{longest}}   {what}", indent=2)
        else:
            say(console, command, indent=2)
            say(console, what, indent=6)
