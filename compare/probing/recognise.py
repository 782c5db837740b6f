"""Which server stands at the end of a path: one of the five of this project, or a foreign one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compare.probing.frames import Answer
from compare.probing.heard import Heard
from compare.probing.http1 import as_json, fetch
from compare.probing.http2 import Http2
from compare.probing.stream import read_whole
from compare.probing.target import Target
from compare.probing.websocket import Socket
from compare.probing.wires import WIRES, Grpc, GrpcWeb
from protocols.grpc import chat_pb2 as pb
from shared.errors import ServerAbsent

_ANSWER_S = 5.0
_TRIES = 4
_OFFLINE = "offline"
_WEB = "grpc-web"
_SWITCHING, _OK, _INVALID = 101, 200, 422
# The call was answered, or the key is wrong.
_RPC_ANSWERS = frozenset({0, 16})
# NDJSON and SSE have the same route: there the server's own word decides.
_SAME_ROUTE = {"ndjson": ("sse",), "sse": ("ndjson",)}


@dataclass(frozen=True, slots=True)
class RecognisedServer:
    """``word`` is its transport, empty for a foreign server.

    ``provider``: the chat's provider, empty where the server does not say. ``refusal``: the answer to ``GET /health``
    or ``GET /stats``, where it is not the one of a server. ``under``: the part of the address's path that a hop removes before a
    server of this project.
    """

    word: str
    provider: str = ""
    refusal: Heard | None = None
    under: str = ""

    @property
    def costs_nothing(self) -> bool:
        """Whether its turns are free: the offline model answers."""
        return self.provider == _OFFLINE


async def recognise(target: Target, word: str | None = None) -> RecognisedServer:
    """Ask the server what it is; ``word`` is what the user says it is. Raises ServerAbsent when nothing answers.

    A server that names no transport of this project is foreign, and so is an address with a path of its own.
    """
    if target.path != "/":
        folder = target.path.partition("?")[0].rstrip("/")
        about = as_json(await fetch(target, "GET", f"{folder}/health", seconds=_ANSWER_S))
        return RecognisedServer("", under=folder) if "transport" in about else RecognisedServer("")
    if word == _WEB:
        return await _recognise_web(target)
    if word == "grpc":
        return await _recognise_grpc(target, word)
    health = await _health(target)
    about = as_json(health)
    named = word or str(about.get("transport", ""))
    refusal = None if "transport" in about else health
    if named == _WEB:
        return await _recognise_web(target)
    if named in WIRES:
        return RecognisedServer(named, str(about.get("provider") or await _provider(target)), refusal)
    if "transport" in about:
        return RecognisedServer("")
    if health.status == _OK and "status" in about:
        # A server tells its health, and nothing more, under a name that it does not know.
        refusal = await fetch(target, "GET", "/stats", seconds=_ANSWER_S)
    try:
        found = await _recognise_grpc(target, word)
    except ServerAbsent:
        if health.status is None:
            raise
        found = RecognisedServer("")
    return found if found.word else replace(found, refusal=refusal)


async def speaks(target: Target, word: str) -> bool:
    """Whether a wire can be spoken at this address, by its own route; no turn is started. Raises ServerAbsent."""
    if word == "grpc":
        return (await Grpc().authorized(target)).rpc_status in _RPC_ANSWERS
    if word == _WEB:
        return (await GrpcWeb().authorized(target)).rpc_status in _RPC_ANSWERS
    named = as_json(await fetch(target, "GET", "/health", seconds=_ANSWER_S)).get("transport")
    if named == word or named in _SAME_ROUTE.get(word, ()):
        return named == word
    if word == "websocket":
        socket = await Socket.open(target)
        await socket.leave()
        return socket.heard.status == _SWITCHING
    route = "/chat" if word == "rest" else "/chat/stream"
    return (await fetch(target, "POST", route, {}, seconds=_ANSWER_S)).status == _INVALID


async def _health(target: Target) -> Heard:
    """The answer to ``GET /health``. A hop's error is asked again, because it may be one request's bad luck."""
    for _ in range(_TRIES):
        heard = await fetch(target, "GET", "/health", seconds=_ANSWER_S)
        if not heard.by_gateway or "transport" in as_json(heard):
            break
    return heard


async def _provider(target: Target) -> str:
    return str(as_json(await fetch(target, "GET", "/stats", seconds=_ANSWER_S)).get("provider", ""))


async def _recognise_web(target: Target) -> RecognisedServer:
    stats = await GrpcWeb().stats(target)
    return RecognisedServer(_WEB, "" if stats is None else stats.provider)


async def _recognise_grpc(target: Target, word: str | None) -> RecognisedServer:
    connection = await Http2.open(target)
    stream = await connection.call("chat.ChatService/GetServerStats", b"", frames=Answer)
    heard = await read_whole(stream, _ANSWER_S)
    if heard.rpc_status == 0:
        return RecognisedServer("grpc", pb.ServerStats.FromString(heard.body).provider)
    if word == "grpc" or heard.rpc_status is not None:
        return RecognisedServer(word or "grpc" if heard.rpc_status != 12 else "")
    if not heard.pieces and heard.status is None:
        raise ServerAbsent(f"{target.authority} speaks neither HTTP/1.1 nor HTTP/2")
    return RecognisedServer("")
