"""What the HTTP clients share: the common routes over httpx, and HTTP's failures as ChatError and ConnectionLost.

Each leaf shows its own requests: method, path, headers, body. Every request here also has ``Authorization: Bearer KEY`` where there
is a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from shared.client.opened import OpenedConnections
from shared.client.protocol import Ask, ChatClient
from shared.client.strangers import describe_body
from shared.errors import ChatError, ConnectionLost, ErrorCode, NotOurServer, ServerAbsent, Silent
from shared.events import AnyEvent
from shared.reply import Snapshot
from shared.session import MessagePage, ModelInfo, Session, SessionPage
from shared.stats import ServerStats

T = TypeVar("T")
JSON = "application/json"
Sender = Callable[[Path | None, float], httpx.AsyncBaseTransport]
_CONNECT_S = 5.0
_MAX_REFUSAL_BYTES = 64 * 1024
# Statuses of a gateway that cannot reach the server behind it (RFC 9110, sections 15.6.3 to 15.6.5).
_GATEWAY = frozenset({502, 503, 504})
# Statuses that a proxy may answer by itself, without a problem+json body.
_PROXY_REFUSALS: dict[int, ErrorCode] = {
    401: "unauthenticated",
    403: "permission_denied",
    413: "payload_too_large",
    429: "rate_limited",
}


class _Models(msgspec.Struct):
    models: list[ModelInfo]


class _Polled(msgspec.Struct):
    status: str
    last_seq: int
    events: list[AnyEvent]


class _Health(msgspec.Struct):
    status: str
    transport: str | None = None


class _Problem(msgspec.Struct):
    code: str
    detail: str
    last_seq: int | None = None


class HttpClient(ChatClient):
    """The common routes. A leaf adds how a turn travels.

    ``sender`` makes what sends the requests in place of httpx's HTTP/1.1: it gets the CA (None: the system's) and ``silence_s``.
    """

    def __init__(self, address: str, *, sender: Sender | None = None, **options: Any) -> None:
        super().__init__(address, **options)
        self.address = f"{'https' if self._uses_tls else 'http'}://{address.rpartition('://')[2]}"
        self._http = httpx.AsyncClient(
            base_url=self.address,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            # A sender of its own counts the silence itself.
            timeout=httpx.Timeout(self._silence_s, connect=_CONNECT_S) if sender is None else None,
            transport=None if sender is None else sender(self._ca, self._silence_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            trust_env=False,
            verify=self._tls or False,
        )
        self._answered = False
        # Answers whose body is still being read.
        self._open: set[httpx.Response] = set()
        # Tasks that wait for the head of an answer, and whether ``cut`` has cancelled them.
        self._waiting: dict[asyncio.Task[Any], bool] = {}
        # The connections that were used.
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._opened = OpenedConnections()

    async def connect(self) -> None:
        """Nothing to open: each request connects, or uses a connection that is still open."""

    async def aclose(self) -> None:
        try:
            await self._http.aclose()
        finally:
            await self._opened.aclose()

    async def cut(self) -> None:
        for response in list(self._open):
            if "network_stream" not in response.extensions:
                # On HTTP/2 a stream is dropped, and the connection goes on.
                await response.aclose()
                continue
            sock = response.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for task in self._waiting:
            self._waiting[task] = task.cancel() or self._waiting[task]

    async def create_session(self, model_id: str | None = None) -> Session:
        return await self._ask("POST", "/sessions", Session, json={"model_id": model_id})

    async def get_session(self, session_id: str) -> Session:
        return await self._ask("GET", f"/sessions/{session_id}", Session)

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        return await self._ask("GET", "/sessions", SessionPage, params=_page(limit, cursor))

    async def message_page(self, session_id: str, limit: int | None = None, cursor: str | None = None) -> MessagePage:
        return await self._ask("GET", f"/sessions/{session_id}/messages", MessagePage, params=_page(limit, cursor))

    async def clear_session(self, session_id: str) -> None:
        await self._request("POST", f"/sessions/{session_id}/clear")

    async def delete_session(self, session_id: str) -> None:
        await self._request("DELETE", f"/sessions/{session_id}")

    async def start(self, ask: Ask) -> Snapshot:
        if ask.kind == "image":
            body = {"prompt": ask.text, "size": ask.size, "session_id": ask.session_id}
        else:
            body = {"message": ask.text, "session_id": ask.session_id, "model_id": ask.model_id}
        return await self._ask("POST", "/turns", Snapshot, json=body, headers={"Idempotency-Key": ask.request_id})

    async def get_turn(self, turn_id: str) -> Snapshot:
        return await self._ask("GET", f"/turns/{turn_id}", Snapshot)

    async def cancel(self, turn_id: str) -> Snapshot:
        return await self._ask("POST", f"/turns/{turn_id}/cancel", Snapshot)

    async def get_image(self, image_id: str) -> bytes:
        return (await self._request("GET", f"/images/{image_id}", media_type="image/")).content

    async def list_models(self) -> list[ModelInfo]:
        return (await self._ask("GET", "/models", _Models)).models

    async def stats(self) -> ServerStats:
        return await self._ask("GET", "/stats", ServerStats)

    async def health(self) -> dict[str, Any]:
        """``{"status": "ok", "transport": WORD, …}``. A server that takes no new turns answers 503 with another status."""
        async with self._sent("GET", "/health") as response:
            if not response.is_success and response.status_code != 503:
                raise await self._refused(response)
            body = await _beginning(response)
            try:
                status = msgspec.json.decode(body, type=_Health)
            except msgspec.MsgspecError:
                raise await self._refusal(response.status_code, response.headers, body) from None
        if status.transport not in (None, self.transport):
            raise NotOurServer(await self._stranger() or f"{self.address} is another server")
        answer: dict[str, Any] = msgspec.json.decode(body)
        return answer

    async def ping(self) -> float:
        begun = time.perf_counter()
        await self.health()
        return (time.perf_counter() - begun) * 1000

    def page(self, path: str) -> str | None:
        return f"{self.address}{path}"

    async def poll(self, turn_id: str, after: int, wait_s: float, epoch: int = 0) -> tuple[bool, list[AnyEvent]]:
        """One long poll, answered within ``wait_s``: whether the turn still runs, and the events after the cursor."""
        params = {**cursor(after, epoch), "wait": wait_s}
        polled = await self._ask("GET", f"/turns/{turn_id}/events", _Polled, params=params)
        return polled.status == "running", polled.events

    async def _ask(self, method: str, path: str, answer: type[T], **options: Any) -> T:
        """Send a request and decode the JSON of its answer."""
        return self._decoded((await self._request(method, path, **options)).content, answer)

    async def _request(self, method: str, path: str, *, media_type: str = JSON, **options: Any) -> httpx.Response:
        """Send a request and read the whole answer."""
        async with self._stream(method, path, media_type=media_type, **options) as response:
            await response.aread()
        self.counts.bytes_received += response.num_bytes_downloaded
        return response

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, *, media_type: str, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """An answer of ``media_type`` whose body is still to be read; closed when the block is left.

        Raises ChatError for a refusal, NotOurServer for an answer that no chat server gives, else ConnectionLost.
        """
        async with self._sent(method, path, **options) as response:
            if not response.is_success:
                raise await self._refused(response)
            if response.status_code != 204 and not response.headers.get("content-type", "").startswith(media_type):
                raise await self._refused(response)
            self._answered = True
            yield response

    @asynccontextmanager
    async def _sent(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer with any status."""
        try:
            with http_failures(self.address):
                extensions = {"trace": self._opened.trace}
                response = await self._send(self._http.build_request(method, path, extensions=extensions, **options))
                self._open.add(response)
                try:
                    yield response
                finally:
                    self._open.discard(response)
                    await response.aclose()
        except NotOurServer:
            raise
        except ConnectionLost as error:
            if self._may_be_stranger(error) and (stranger := await self._stranger()):
                raise NotOurServer(stranger) from error
            raise

    def _may_be_stranger(self, error: ConnectionLost) -> bool:
        """Whether another program may answer there: only before the first good answer.

        A refused TLS handshake looks like absence.
        """
        return not self._answered and (self._uses_tls or not isinstance(error, ServerAbsent))

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for the head of its answer. ``cut`` reaches this wait, too."""
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
        # A sender of its own does not tell its connections apart, and counts as one.
        connection = response.extensions.get("network_stream", self._http)
        if connection not in self._streams:
            self._streams.add(connection)
            self.counts.connections += 1
        return response

    async def _bytes(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, counted."""
        # The chat servers do not compress; a proxy on the way may.
        pieces = response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()
        async for data in pieces:
            self.counts.bytes_received += len(data)
            yield data

    def _decoded(self, data: bytes, answer: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=answer)
        except msgspec.MsgspecError as error:
            raise NotOurServer(f"{self.address} answers with JSON that is not of this chat") from error

    async def _refused(self, response: httpx.Response) -> Exception:
        """Why an answer is not the one that was asked for."""
        return await self._refusal(response.status_code, response.headers, await _beginning(response))

    async def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """The exception for a refused request: a ChatError, a lost connection, or the name of the program that answers."""
        refusal = problem_of(body, status) if status >= 400 else None
        if isinstance(refusal, ChatError) and status not in (403, 404, 405):
            return refusal
        if not self._answered and (stranger := await self._stranger()):
            return NotOurServer(stranger)
        if refusal is not None:
            return refusal
        if 300 <= status < 400:
            where = headers.get("location", "nowhere")[:200]
            return NotOurServer(
                f"{self.address} answers {status}, a redirect to {where}; give the chat server's own address"
            )
        what = describe_body(headers.get("content-type", ""), body)
        return NotOurServer(
            f"{self.address} answers {status} with {what}: not an answer of the {self.transport} server"
        )


def cursor(after: int, epoch: int) -> dict[str, float]:
    """The query that reads a turn from a cursor."""
    return {"after": after, "epoch": epoch} if epoch else {"after": after}


def _page(limit: int | None, cursor: str | None) -> dict[str, str | int]:
    """The query of a page."""
    return {name: value for name, value in (("limit", limit), ("cursor", cursor)) if value is not None}


async def _beginning(response: httpx.Response) -> bytes:
    """The first 64 KiB of a body. The body of another program's answer may have no end."""
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) >= _MAX_REFUSAL_BYTES:
            break
    return body


def problem_of(body: bytes, status: int) -> ChatError | ConnectionLost | None:
    """The refusal in an answer with an error status: problem+json (RFC 9457), or what a gateway or proxy says by its status alone.

    None for an answer that neither a chat server nor a proxy gives.
    """
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        if status in _GATEWAY:
            return Silent(f"a gateway answered {status}")
        if status in _PROXY_REFUSALS:
            return ChatError(
                _PROXY_REFUSALS[status],
                f"A proxy, or another server, answered {status}; check the address and the proxy's settings.",
                http_status=status,
            )
        return None
    return ChatError.received(problem.code, problem.detail, http_status=status, last_seq=problem.last_seq)


@contextlib.contextmanager
def http_failures(address: str) -> Iterator[None]:
    """httpx's exceptions as ConnectionLost."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerAbsent("nothing answers there") from error
    except httpx.ReadTimeout as error:
        raise Silent("nothing came for too long") from error
    except httpx.DecodingError as error:
        raise NotOurServer(f"{address} answers with a compressed body that is damaged") from error
    except (httpx.ReadError, httpx.WriteError) as error:
        raise ConnectionLost("the connection broke") from error
    except httpx.RemoteProtocolError as error:
        raise ConnectionLost("the connection ended before the answer did") from error
    except (httpx.RequestError, httpx.StreamError) as error:
        raise ConnectionLost(f"the connection broke ({type(error).__name__})") from error
