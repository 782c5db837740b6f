"""Routes that read a usual request themselves answer as the framework's own routes do."""

from __future__ import annotations

import asyncio
import importlib
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Query, Request, Response

from shared.server.http.answers import json_response
from shared.server.http.bodies import After, IdempotencyKey, Service, SessionBody, TurnBody
from shared.server.http.direct_route import Routes
from tests.test_http_wire import running

JSON = {"Content-Type": "application/json"}
# Method, path, headers and body.
REQUESTS: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "/turns/a%20b", {}, b""),
    ("GET", "/turns/x?after=7", {}, b""),
    ("GET", "/turns/x?after=7&after=8", {}, b""),
    ("GET", "/turns/x?after=1_0", {}, b""),
    ("GET", "/turns/x?name=%ff&name=", {}, b""),
    ("GET", "/turns/", {}, b""),
    ("PUT", "/turns/x", JSON, b"{}"),
    ("HEAD", "/turns/x", {}, b""),
    ("POST", "/turns", {**JSON, "Idempotency-Key": "a key"}, b'{"message": "Hello", "unknown": [1, {"a": null}]}'),
    ("POST", "/turns", JSON, b'{"message": "one", "message": "two"}'),
    ("POST", "/turns", JSON, b"\xef\xbb\xbf{}"),
    ("POST", "/turns", JSON, b'{"message": "\\ud83d"}'),
    ("POST", "/turns", JSON, b'{"message": "\\ud83d\\ude00 \xc3\xa4"}'),
    ("POST", "/turns", JSON, b'{"message": "\xff"}'),
    ("POST", "/turns", JSON, b'{"message": "a\nb"}'),
    ("POST", "/turns", JSON, b'{"message": 7, "size": 8}'),
    ("POST", "/turns", JSON, b'{"message": "a", "other": 1e999, "more": ' + b"9" * 5000 + b"}"),
    ("POST", "/turns", JSON, b'{"message": "a", "other": ' + b"[" * 150 + b"]" * 150 + b"}"),
    ("POST", "/turns", JSON, b'{"message": "a", "other": ' + b"[" * 1500 + b"]" * 1500 + b"}"),
    ("POST", "/turns", JSON, b'{"message": '),
    ("POST", "/turns", JSON, b"[]"),
    ("POST", "/turns", JSON, b"null"),
    ("POST", "/turns", JSON, b""),
    ("POST", "/turns?x", JSON, b'{"message": "Hello"}'),
    ("POST", "/sessions", {}, b""),
    ("POST", "/sessions", JSON, b"null"),
    ("POST", "/sessions", JSON, b'{"model_id": ""}'),
]


def endpoints(routes: APIRouter, prefix: str) -> APIRouter:
    """Routes that answer with the arguments that their endpoints get."""

    @routes.get(prefix + "/turns/{turn_id}")
    async def read(
        request: Request, service: Service, turn_id: str, after: After = 3, name: Annotated[str | None, Query()] = None
    ) -> Response:
        return json_response([request.method, service.draining, turn_id, after, name], headers={"X-Read": "yes"})

    @routes.post(prefix + "/turns")
    async def write(service: Service, body: TurnBody, key: IdempotencyKey = None) -> Response:
        return json_response([service.draining, body.model_dump(), sorted(body.model_fields_set), key], 202)

    @routes.post(prefix + "/sessions")
    async def make(body: SessionBody | None = None) -> Response:
        return json_response(None if body is None else body.model_dump(), 201)

    return routes


async def test_the_answers_are_those_of_the_framework() -> None:
    routes = endpoints(APIRouter(), "/framework")
    routes.routes += endpoints(Routes(), "/direct").routes
    async with running(routes) as address, httpx.AsyncClient(trust_env=False, verify=False) as http:

        async def ask(prefix: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
            async with asyncio.timeout(20):
                answer = await http.request(method, f"http://{address}{prefix}{path}", headers=headers, content=body)
            said: Any = answer.json() if answer.content else None
            if answer.is_error and said:
                del said["request_id"]
            return answer.status_code, said, {name: answer.headers.get(name) for name in ("x-read", "allow")}

        for request in REQUESTS:
            assert await ask("/direct", *request) == await ask("/framework", *request), request


@pytest.mark.parametrize("name", ["http_rest", "streamable_http", "sse"])
def test_every_route_of_a_leaf_is_read_directly(name: str) -> None:
    """A parameter of another kind would send each request of its route through the framework."""
    leaf = importlib.import_module(f"protocols.{name}.server")
    assert {route.direct for route in leaf.router.routes} == {True}
