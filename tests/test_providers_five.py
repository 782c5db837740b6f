"""The real providers' SDKs behind all five transports: real servers, real clients, the providers' wires emulated on loopback.

Every transport must show the same outcome of every scenario, and no transport may show the text of a provider's error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio

from protocols import TRANSPORTS
from protocols.processes import Server, serving, serving_all
from shared.client.protocol import ChatClient, collect, collect_picture
from shared.errors import ChatError, ConnectionLost
from shared.events import ImageStarted, Usage
from shared.reply import Picture
from tests.emulators import PROVIDER_TEXT, WRONG_KEY, Emulator, Seen
from tests.emulators.chat import GEMINI_MODELS, LONG, WILD
from tests.emulators.odd import LONG_PIECE
from tests.provider_models import KEY, PROVIDERS, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The images do not depend on the provider of the chat, so their tests run with one provider.
once = pytest.mark.parametrize("house", ["gemini"], indirect=True)

USAGE = Usage(7, 4)
CANCEL_MS = 250

T = TypeVar("T")
# The outcome of a scenario: how the turn ended (a finish reason or an error's code), its text, its usage.
Outcome = tuple[str | None, str, Usage | None]
OUTCOMES: dict[str, Outcome] = {
    "plain": ("stop", f"{TEXT}1 messages", USAGE),
    "long": ("stop", "".join(f"t{i} " for i in range(LONG)), USAGE),
    "wild": ("stop", "".join(WILD), USAGE),
    "empty": ("stop", TEXT, USAGE),
    "nothing": ("stop", "", USAGE),
    "thoughts": ("stop", TEXT, USAGE),
    "no-usage": ("stop", TEXT, Usage()),
    "max-tokens": ("length", TEXT, USAGE),
    "slow-500": ("stop", TEXT, USAGE),
    "flaky-1": ("stop", f"{TEXT}1 messages", USAGE),
    "block-prompt": ("content_refused", "", None),
    "block-reply": ("content_refused", TEXT, None),
    "status-400": ("invalid_request", "", None),
    "status-401": ("model_unauthorized", "", None),
    "status-403": ("model_unauthorized", "", None),
    "status-404": ("model_not_found", "", None),
    "status-429": ("model_rate_limited", "", None),
    "status-500": ("model_unavailable", "", None),
    "status-503": ("model_unavailable", "", None),
    "error-frame-503": ("model_unavailable", TEXT, None),
    "error-frame-429": ("model_rate_limited", TEXT, None),
    "garbage": ("model_unavailable", TEXT, None),
    "cut": ("model_unavailable", TEXT, None),
    "eof": ("model_unavailable", TEXT, None),
    "end-mark": ("other", TEXT, Usage()),
    "open-after-finish": ("stop", TEXT, USAGE),
    "gateway": ("stop", TEXT, USAGE),
    "whole": ("stop", TEXT, USAGE),
    "halves": ("stop", "\N{GRINNING FACE} ok", USAGE),
    "odd-counts": ("stop", TEXT, Usage(7, None)),
    "numbers": ("stop", "a 421.5true", Usage()),
    "typed-parts": ("stop", TEXT, Usage()),
    "long-piece": ("stop", LONG_PIECE, USAGE),
    "strict": ("stop", TEXT, Usage()),
    "wrong-type": ("model_unavailable", TEXT, None),
    "wrong-shape": ("model_unavailable", "", None),
    "page": ("model_unavailable", "", None),
}
PICTURES = {
    "plain": "a picture",
    "slow-300": "a picture",
    "status-401": "model_unauthorized",
    "status-429": "model_rate_limited",
    "status-500": "model_unavailable",
    "block": "content_refused",
    "error-frame-429": "model_rate_limited",
    "cut": "model_unavailable",
    "not-a-picture": "model_unavailable",
    "whole": "a picture",
    "wrapped": "a picture",
    "url": "a picture",
    "url-elsewhere": "model_unavailable",
    "no-stream": "a picture",
    "truncated": "model_unavailable",
    "bomb": "model_unavailable",
}
# Scenarios in which a provider falls silent, with short limits.
LIMITS = {"PROVIDER_FIRST_FRAME_TIMEOUT_S": "4", "PROVIDER_BETWEEN_FRAMES_TIMEOUT_S": "2", "IMAGE_TIMEOUT_S": "4"}
SILENT: dict[str, Outcome] = {
    "stall": ("model_timeout", TEXT, None),
    "stall-first": ("model_timeout", "", None),
    "hang": ("model_timeout", "", None),
}


@dataclass(frozen=True)
class House:
    """The five servers on one store, and the emulated providers that they ask."""

    provider: str
    emulator: Emulator
    servers: dict[str, Server]

    async def request(self, nonce: str) -> Seen:
        """The provider's request with this nonce in it."""

        def found() -> list[Seen]:
            return [seen for seen in self.emulator.seen if nonce in str(seen.body)]

        await self.emulator.until(lambda: bool(found()))
        return found()[-1]


def env(emulator: Emulator, provider: str, store: str = "sqlite://", key: str = KEY) -> dict[str, str]:
    return {
        "GENAI_PROVIDER": provider,
        "GENAI_MODEL_ID": GEMINI_MODELS[0],
        "GEMINI_API_KEY": key,
        "GOOGLE_GEMINI_BASE_URL": emulator.base_url,
        "IMAGE_PROVIDER": "openai",
        "OPENAI_API_KEY": key,
        "OPENAI_BASE_URL": emulator.openai_url,
        "PROVIDER_RETRIES": "1",
        "STORE_URL": store,
        # The lease is long, because these tests load five servers with 300 answers each on a machine that may be busy.
        "LEASE_S": "60",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PROVIDERS)
async def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    path: Path = tmp_path_factory.mktemp("store") / "chat.db"
    async with (
        Emulator() as emulator,
        serving_all(env=env(emulator, request.param, f"sqlite:///{path}")) as servers,
    ):
        yield House(request.param, emulator, servers)
        said = str([server.log for server in servers.values()])
        assert PROVIDER_TEXT not in said
        assert KEY not in said


@pytest_asyncio.fixture(loop_scope="module", params=list(TRANSPORTS))
async def client(request: pytest.FixtureRequest, house: House) -> AsyncIterator[ChatClient]:
    async with house.servers[request.param].client() as connected:
        yield connected


def ours(error: ChatError) -> str:
    """The error's code. Fails when the error's words are the provider's."""
    assert PROVIDER_TEXT not in error.message
    assert KEY not in error.message
    return error.code


async def everywhere(
    house: House, play: Callable[[ChatClient, str], Coroutine[None, None, T]], scenarios: Iterable[str]
) -> dict[str, dict[str, T]]:
    """The outcome of each scenario over each transport; all run at once."""
    async with contextlib.AsyncExitStack() as stack:
        clients = {word: await stack.enter_async_context(server.client()) for word, server in house.servers.items()}
        async with asyncio.TaskGroup() as group:
            tasks = {
                word: {scenario: group.create_task(play(client, scenario)) for scenario in scenarios}
                for word, client in clients.items()
            }
        return {word: {scenario: task.result() for scenario, task in of.items()} for word, of in tasks.items()}


def wrong(found: dict[str, dict[str, T]], scenarios: dict[str, T]) -> dict[tuple[str, str], T]:
    """The outcomes of a scenario that differ from the expected outcome, by transport."""
    return {(word, name): of[name] for word, of in found.items() for name in scenarios if of[name] != scenarios[name]}


async def outcome(client: ChatClient, scenario: str) -> Outcome:
    session = await client.create_session()
    end: tuple[str | None, Usage | None]
    try:
        reply = await collect(client.chat(f"{client.transport} emulate:{scenario}", session_id=session.session_id))
        end = (reply.finish_reason, reply.usage)
    except ChatError as error:
        end = (ours(error), None)
    try:
        messages = await client.list_messages(session.session_id)
    except ConnectionLost:  # an idle connection that the server closed just when it was used again
        messages = await client.list_messages(session.session_id)
    return (end[0], messages[-1].text if messages[-1].role == "model" else "", end[1])


async def test_every_scenario_of_the_chat(house: House) -> None:
    assert not wrong(await everywhere(house, outcome, OUTCOMES), OUTCOMES)


async def drawn(client: ChatClient, scenario: str) -> str:
    try:
        picture = await collect_picture(client.image(f"a fox emulate:{scenario}", size="1536x1024"))
    except ChatError as error:
        return ours(error)
    assert (picture.width, picture.height, picture.mime_type) == (1536, 1024, "image/png")
    assert picture.image.startswith(b"\x89PNG")
    return "a picture"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_that_falls_silent(provider: str) -> None:
    async with Emulator() as emulator, serving_all(env={**env(emulator, provider), **LIMITS}) as servers:
        house = House(provider, emulator, servers)
        assert not wrong(await everywhere(house, outcome, SILENT), SILENT)
        assert not wrong(await everywhere(house, drawn, ["stall"]), {"stall": "model_timeout"})


@once
async def test_partial_pictures_come_as_previews(house: House, client: ChatClient) -> None:
    items = [item async for item in client.image("a fox", size="1024x1024")]
    if TRANSPORTS[client.transport].tokens:
        assert [item.preview for item in items if isinstance(item, ImageStarted)] == [True, True, False]
    else:
        assert [type(item) for item in items] == [Picture]


@once
async def test_a_size_that_the_model_does_not_draw_costs_nothing(house: House, client: ChatClient) -> None:
    before = len(house.emulator.seen)
    with pytest.raises(ChatError, match="divisible by 16") as error:
        await collect_picture(client.image("a fox", size="1000x1000"))
    assert error.value.code == "invalid_request"
    assert len(house.emulator.seen) == before


async def test_an_unknown_model_says_which_setting_to_change(house: House, client: ChatClient) -> None:
    with pytest.raises(ChatError, match="GENAI_MODEL_ID") as error:
        await collect(client.chat("hi", model_id="missing-model"))
    assert error.value.code == "model_not_found"


async def test_who_is_at_work(house: House, client: ChatClient) -> None:
    stats = await client.stats()
    assert (stats.provider, stats.model) == (house.provider, GEMINI_MODELS[0])
    assert GEMINI_MODELS[0] in [model.model for model in await client.list_models()]


async def cancelled(house: House, client: ChatClient, kind: str, stage: str, attempt: int) -> float:
    """How many milliseconds after the cancel the provider saw its request closed."""
    nonce = f"cancel {client.transport} {kind} {stage} {attempt}."
    session_id = (await client.create_session()).session_id
    text = f"{nonce} emulate:{stage}"
    asked = client.chat if kind == "chat" else client.image
    task = asyncio.create_task(collect(asked(text, session_id=session_id)))
    seen = await house.request(nonce)
    frames = 0 if stage in ("hang", "stall-first") else 1
    await house.emulator.until(lambda: seen.frames >= frames)
    turn_id = (await client.get_session(session_id)).running_turn_id
    assert turn_id is not None
    pressed = time.time() * 1000
    assert (await client.cancel(turn_id)).status == "cancelled"
    await house.emulator.until(lambda: seen.ended_at is not None)
    assert seen.ended_by == "client"
    if kind == "chat":
        assert (await task).status == "cancelled"
    else:
        with contextlib.suppress(ChatError):  # plain REST has no picture to answer with
            await task
    return (seen.ended_at or 0) - pressed


@pytest.mark.parametrize("stage", ["hang", "stall-first", "stall", "paced-1000"])
async def test_cancelling_closes_the_providers_request(house: House, client: ChatClient, stage: str) -> None:
    assert await fastest(house, client, "chat", stage) < CANCEL_MS


@once
@pytest.mark.parametrize("stage", ["hang", "stall"])
async def test_cancelling_a_picture_closes_the_providers_request(house: House, client: ChatClient, stage: str) -> None:
    assert await fastest(house, client, "image", stage) < CANCEL_MS


@once
async def test_every_scenario_of_the_images(house: House) -> None:
    """This test runs after those of previews, because a server remembers that a model refuses to stream previews."""
    assert not wrong(await everywhere(house, drawn, PICTURES), PICTURES)


async def fastest(house: House, client: ChatClient, kind: str, stage: str) -> float:
    """The best of three attempts, because other work may delay a shared machine. The first fast attempt is enough."""
    best = CANCEL_MS * 1.0
    for attempt in range(3):
        if best < CANCEL_MS:
            break
        best = min(best, await cancelled(house, client, kind, stage, attempt))
    return best


async def test_more_streams_than_a_pool_has_connections(house: House, client: ChatClient) -> None:
    """The libraries below the SDKs keep 100 connections unless they are told otherwise."""
    async with asyncio.TaskGroup() as group:
        asked = [f"{client.transport} {i} emulate:paced-20" for i in range(120)]
        tasks = [group.create_task(collect(client.chat(text))) for text in asked]
    assert {task.result().text for task in tasks} == {"".join(f"t{i} " for i in range(20))}


async def test_an_empty_reply_is_no_context(house: House, client: ChatClient) -> None:
    """The providers refuse an empty message, so with one in its context a session would be unusable for good."""
    session_id = (await client.create_session()).session_id
    empty = await collect(client.chat("emulate:nothing", session_id=session_id))
    assert (empty.status, empty.text) == ("completed", "")
    for turn in range(2):
        reply = await collect(client.chat(f"turn {turn}", session_id=session_id))
        assert reply.text == f"{TEXT}{2 * turn + 1} messages"
    assert [message.text for message in await client.list_messages(session_id)][:2] == [
        "emulate:nothing",
        "",
    ]


@pytest.mark.parametrize("word", [word for word, transport in TRANSPORTS.items() if transport.tokens])
async def test_thoughts_are_an_event_and_no_text(house: House, word: str) -> None:
    async with house.servers[word].client() as client:
        kinds = [type(item).__name__ async for item in client.chat(f"{word} emulate:think-200")]
    assert kinds[:3] == ["TurnStarted", "Thinking", "Chunk"]
    assert kinds.count("Thinking") == 1


async def test_one_conversation_over_all_five(house: House) -> None:
    session_id = None
    for turn, server in enumerate(house.servers.values()):
        async with server.client() as client:
            reply = await collect(client.chat(f"turn {turn}", session_id=session_id))
            session_id = reply.session_id
            assert reply.text == f"{TEXT}{2 * turn + 1} messages"
            assert reply.message_count == 2 * turn + 2


@pytest.mark.parametrize("word", TRANSPORTS)
async def test_a_wrong_key_is_told_without_a_letter_of_it(word: str) -> None:
    async with Emulator() as emulator, serving(word, env=env(emulator, "gemini", key=WRONG_KEY)) as server:
        async with server.client() as client:
            with pytest.raises(ChatError, match="GEMINI_API_KEY") as error:
                await collect(client.chat("hi"))
            assert error.value.code == "model_unauthorized"
            with pytest.raises(ChatError, match="OPENAI_API_KEY") as error:
                await collect_picture(client.image("a fox"))
            assert error.value.code == "model_unauthorized"
        await server.stop()
    for secret in (WRONG_KEY, PROVIDER_TEXT):
        assert secret not in str(server.log)


@pytest.mark.parametrize("word", TRANSPORTS)
async def test_a_named_provider_without_its_key_does_not_start(word: str) -> None:
    with pytest.raises(RuntimeError, match="GEMINI_API_KEY"):
        async with serving(word, env={"GENAI_PROVIDER": "gemini", "GEMINI_API_KEY": "", "GOOGLE_API_KEY": ""}):
            pass
