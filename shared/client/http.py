"""What the four HTTP clients share: the common routes over httpx, the key, and turning HTTP's failures into ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from shared.client.protocol import Ask, ChatClient, ServerAbsent, Silent
from shared.errors import ChatError, ConnectionLost
from shared.events import AnyEvent
from shared.reply import Snapshot
from shared.session import Message, ModelInfo, Session, SessionPage
from shared.stats import ServerStats

T = TypeVar("T")
_CONNECT_S = 5.0
_GATEWAY = frozenset({502, 503, 504})


class _Messages(msgspec.Struct):
    messages: list[Message]


class _Models(msgspec.Struct):
    models: list[ModelInfo]


class _Polled(msgspec.Struct):
    status: str
    last_seq: int
    events: list[AnyEvent]


class HttpClient(ChatClient):
    """The common routes; a leaf adds how a turn travels."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address if "://" in address else f"http://{address}", **options)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx.AsyncClient(
            base_url=self.address,
            headers=headers,
            timeout=httpx.Timeout(self._silence_s, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            trust_env=False,
            # Reading the certificates takes 70 ms, and plain HTTP has no use for them.
            verify=self.address.startswith("https:"),
        )
        self._open: set[httpx.Response] = set()
        # Requests without a head of an answer yet, and whether they were cut; the connections that were used.
        self._waiting: dict[asyncio.Task[Any], bool] = {}
        self._wires: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self) -> None:
        """Nothing to hold: each request connects, or takes a connection that is still open."""

    async def aclose(self) -> None:
        await self._http.aclose()

    async def cut(self) -> None:
        for response in list(self._open):
            stream = response.extensions["network_stream"]
            sock = stream.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for task in self._waiting:
            self._waiting[task] = task.cancel() or self._waiting[task]

    async def create_session(self, model_id: str | None = None) -> Session:
        return await self._ask("POST", "/sessions", Session, {"model_id": model_id})

    async def get_session(self, session_id: str) -> Session:
        return await self._ask("GET", f"/sessions/{session_id}", Session)

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        given = {"limit": limit, "cursor": cursor}
        query = {name: value for name, value in given.items() if value is not None}
        return await self._ask("GET", "/sessions", SessionPage, params=query)

    async def list_messages(self, session_id: str) -> list[Message]:
        return (await self._ask("GET", f"/sessions/{session_id}/messages", _Messages)).messages

    async def clear_session(self, session_id: str) -> None:
        await self._request("POST", f"/sessions/{session_id}/clear")

    async def delete_session(self, session_id: str) -> None:
        await self._request("DELETE", f"/sessions/{session_id}")

    async def start(self, ask: Ask) -> Snapshot:
        body = image_body(ask) if ask.kind == "image" else chat_body(ask)
        return await self._ask("POST", "/turns", Snapshot, body, headers=key_header(ask))

    async def get_turn(self, turn_id: str) -> Snapshot:
        return await self._ask("GET", f"/turns/{turn_id}", Snapshot)

    async def cancel(self, turn_id: str) -> Snapshot:
        return await self._ask("POST", f"/turns/{turn_id}/cancel", Snapshot)

    async def get_image(self, image_id: str) -> bytes:
        return (await self._request("GET", f"/images/{image_id}")).content

    async def list_models(self) -> list[ModelInfo]:
        return (await self._ask("GET", "/models", _Models)).models

    async def stats(self) -> ServerStats:
        return await self._ask("GET", "/stats", ServerStats)

    async def health(self) -> dict[str, Any]:
        with http_failures():
            answer: dict[str, Any] = (await self._http.get("/health")).json()
        return answer

    async def ping(self) -> float:
        begun = time.perf_counter()
        await self.health()
        return (time.perf_counter() - begun) * 1000

    def page(self, path: str) -> str | None:
        return f"{self.address}{path}"

    async def poll(self, turn_id: str, after: int, wait_s: float) -> tuple[bool, list[AnyEvent]]:
        """One long poll: whether the turn still runs, and the events after the cursor."""
        polled = await self._ask("GET", f"/turns/{turn_id}/events", _Polled, params={"after": after, "wait": wait_s})
        return polled.status == "running", polled.events

    async def _ask(self, method: str, path: str, answer: type[T], json: Any = None, **options: Any) -> T:
        response = await self._request(method, path, json=json, **options)
        return decode(response.content, answer)

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self._stream(method, path, **options) as response:
            await response.aread()
        self.counts.bytes_received += response.num_bytes_downloaded
        return response

    @asynccontextmanager
    async def _stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read. Raises ChatError for an error status, ConnectionLost for a broken line."""
        with http_failures():
            response = await self._send(self._http.build_request(method, path, **options))
            try:
                if response.is_error:
                    raise problem_of(await response.aread(), response.status_code)
                self._open.add(response)
                yield response
            finally:
                self._open.discard(response)
                await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Until the head of the answer is there; ``cut`` reaches this, too."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = False
        try:
            response = await self._http.send(request, stream=True)
        except asyncio.CancelledError:
            if self._waiting[task] and not task.uncancel():
                raise ConnectionLost("the connection was cut") from None
            raise
        finally:
            del self._waiting[task]
        wire = response.extensions["network_stream"]
        if wire not in self._wires:
            self._wires.add(wire)
            self.counts.connections += 1
        return response

    async def _bytes(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, counted."""
        # Our servers do not compress; a proxy on the way may.
        pieces = response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()
        async for data in pieces:
            self.counts.bytes_received += len(data)
            yield data


def chat_body(ask: Ask) -> dict[str, Any]:
    """The JSON body of a chat."""
    return {"message": ask.text, "session_id": ask.session_id, "model_id": ask.model_id}


def image_body(ask: Ask) -> dict[str, Any]:
    """The JSON body of a picture."""
    return {"prompt": ask.text, "size": ask.size, "session_id": ask.session_id}


def key_header(ask: Ask) -> dict[str, str]:
    """The header that makes a repeated request join its turn (draft-ietf-httpapi-idempotency-key-header)."""
    return {"Idempotency-Key": ask.request_id}


def decode(data: bytes, answer: type[T]) -> T:
    """A JSON answer of ours. Raises ConnectionLost when it is not one."""
    try:
        return msgspec.json.decode(data, type=answer)
    except msgspec.MsgspecError as error:
        raise ConnectionLost("the server answered something that is not ours") from error


def problem_of(body: bytes, status: int) -> ChatError | ConnectionLost:
    """The error in a problem+json body (RFC 9457); ConnectionLost when a gateway says that it cannot reach the server."""
    try:
        problem = msgspec.json.decode(body)
        return ChatError.received(problem["code"], problem["detail"], http_status=status)
    except (msgspec.MsgspecError, KeyError, TypeError):
        if status in _GATEWAY:
            return ConnectionLost(f"a gateway answered {status}")
        return ChatError("internal", f"The server answered {status}.", http_status=status)


@contextlib.contextmanager
def http_failures() -> Iterator[None]:
    """httpx's transport errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerAbsent("nothing answers there") from error
    except httpx.ReadTimeout as error:
        raise Silent("nothing came for too long") from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise ConnectionLost(f"the connection broke ({type(error).__name__})") from error
