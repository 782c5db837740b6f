"""``/openapi.json`` (OpenAPI 3.1), compared with what the servers send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from shared.events import EVENT_TYPES
from tests.conftest import Servers
from tests.event_streams import events_of
from tests.raw_http import ask

HTTP_WORDS = ("rest", "ndjson", "sse", "websocket")
MEDIA_TYPES = {"ndjson": "application/x-ndjson", "sse": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_the_events_in_openapi(word: str, servers: Servers) -> None:
    """The events are a union told apart by ``type``: complete, and true to the events that are sent."""
    document = (await ask(servers, word, "GET", "/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    union = schemas["Event"]
    mapping = union["discriminator"]["mapping"]
    assert union["discriminator"]["propertyName"] == "type"
    assert set(mapping) == {str(kind.__struct_config__.tag) for kind in EVENT_TYPES}
    assert [one["$ref"] for one in union["oneOf"]] == list(mapping.values())
    for tag, reference in mapping.items():
        schema = schemas[reference.rpartition("/")[2]]
        assert schema["properties"]["type"]["enum"] == [tag]
        assert "type" in schema["required"]
    events = []
    for path, body in (("/chat/stream", {"message": "/fail model_timeout x"}), ("/images/stream", {"prompt": "Hill"})):
        events += events_of("ndjson", (await ask(servers, "ndjson", "POST", path, body=body)).body)
    assert {event["type"] for event in events} >= {"turn_started", "chunk", "image_chunk", "turn_failed"}
    for event in events:
        schema = schemas[mapping[event["type"]].rpartition("/")[2]]
        assert set(schema["required"]) <= set(event) <= set(schema["properties"])
    if word in MEDIA_TYPES:
        for path in ("/chat/stream", "/images/stream"):
            content = document["paths"][path]["post"]["responses"]["200"]["content"]
            sent = [{"$ref": f"#/components/schemas/{name}"} for name in ("Event", "CursorLost")]
            assert content[MEDIA_TYPES[word].partition(";")[0]]["schema"] == {"anyOf": sent}


def references(node: Any) -> Iterable[str]:
    match node:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_every_answer_is_documented(word: str, servers: Servers) -> None:
    """Status, media type and the fields of JSON answers, errors included; no form of an error that is never sent."""
    document = (await ask(servers, word, "GET", "/openapi.json")).json
    assert "HTTPValidationError" not in str(document)
    made = (await ask(servers, "rest", "POST", "/images", body={"prompt": "A hill", "size": "16x16"})).json
    session = (await ask(servers, word, "POST", "/sessions")).json["session_id"]
    turn = f"/turns/{made['turn_id']}"
    asked: list[tuple[str, str, str, Any, dict[str, str]]] = [
        ("POST", "/sessions", "/sessions", None, {}),
        ("GET", "/sessions", "/sessions", None, {}),
        ("GET", "/sessions/{session_id}", f"/sessions/{session}", None, {}),
        ("GET", "/sessions/{session_id}/messages", f"/sessions/{session}/messages", None, {}),
        ("GET", "/turns/{turn_id}", turn, None, {}),
        ("GET", "/turns/{turn_id}", "/turns/nothing", None, {}),
        ("GET", "/turns/{turn_id}/events", f"{turn}/events", None, {}),
        ("GET", "/turns/{turn_id}/events", f"{turn}/events?after=x", None, {}),
        ("POST", "/turns/{turn_id}/cancel", f"{turn}/cancel", None, {}),
        ("POST", "/turns", "/turns", {"message": ""}, {}),
        ("GET", "/images/{image_id}", f"/images/{made['image_id']}", None, {}),
        ("GET", "/images/{image_id}", f"/images/{made['image_id']}", None, {"range": "bytes=0-9"}),
        ("POST", "/tickets", "/tickets", {}, {}),
        *(("GET", path, path, None, {}) for path in ("/models", "/health", "/stats", "/metrics", "/")),
    ]
    if word == "rest":
        body = {"prompt": "A hill", "size": "16x16"}
        asked += [("POST", "/images", "/images", body, {"accept": accept}) for accept in ("*/*", "image/*")]
        asked += [("POST", "/chat", "/chat", {"message": text}, {}) for text in ("Hi", "/fail model_timeout")]
    for method, path, target, sent, headers in asked:
        answer = await ask(servers, word, method, target, body=sent, headers=headers)
        responses = document["paths"][path][method.lower()]["responses"]
        response = responses.get(str(answer.status), responses["default"])
        media_type = answer.headers["content-type"].partition(";")[0]
        schema = response["content"][media_type]["schema"]
        assert schema, (method, target)
        if media_type.endswith("json") and "properties" in schema:
            assert set(schema["required"]) <= set(answer.json) <= set(schema["properties"]), (method, target)


async def test_a_key_is_in_the_document(keyed: Servers) -> None:
    """The document names the key's header, so that ``/docs`` can authorise."""
    document = (await ask(keyed, "rest", "GET", "/openapi.json")).json
    assert document["security"] == [{"bearer": []}, {"apiKey": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    assert document["paths"]["/health"]["get"]["security"] == []


async def test_a_ticket_is_in_the_document(keyed: Servers) -> None:
    document = (await ask(keyed, "sse", "GET", "/openapi.json")).json
    ticket = document["components"]["securitySchemes"]["ticket"]
    assert (ticket["in"], ticket["name"]) == ("query", "ticket")
    stream = document["paths"]["/turns/{turn_id}/stream"]["get"]
    assert stream["security"] == [{"bearer": []}, {"apiKey": []}, {"ticket": []}]
    assert "204" in stream["responses"]


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_every_example_of_a_body_executes(word: str, servers: Servers) -> None:
    """As ``/docs`` sends it after "Try it out" and "Execute"."""
    document = (await ask(servers, word, "GET", "/openapi.json")).json
    tried = set()
    for path, methods in document["paths"].items():
        if "requestBody" in methods.get("post", {}):
            example = methods["post"]["requestBody"]["content"]["application/json"]["example"]
            answer = await ask(servers, word, "POST", path, body=example)
            assert str(answer.status) in methods["post"]["responses"], (path, answer.json)
            assert answer.status < 300
            tried.add(path)
    assert tried >= {"/sessions", "/turns", "/tickets"}


async def test_the_limits_are_in_the_document(servers: Servers) -> None:
    document = (await ask(servers, "rest", "GET", "/openapi.json")).json
    parameters = {
        parameter["name"]: parameter["schema"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
    }
    assert (parameters["limit"]["minimum"], parameters["limit"]["maximum"]) == (1, 200)
    assert parameters["after"]["minimum"] == 0
    assert parameters["Idempotency-Key"]["pattern"] == "^[\\x20-\\x7e]{1,255}$"


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_what_a_server_is_for_a_browser_and_for_a_program(word: str, servers: Servers) -> None:
    for accept, media_type in (
        ("text/html,*/*;q=0.8", "text/html"),
        ("*/*", "application/json"),
        ("text/html;q=0", "application/json"),
    ):
        answer = await ask(servers, word, "GET", "/", headers={"accept": accept})
        assert answer.headers["content-type"].startswith(media_type)
        assert "Accept" in answer.headers["vary"]
