"""``/openapi.json`` (OpenAPI 3.1), compared with what the servers send."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from shared.events import EVENT_TYPES
from tests.conftest import Servers
from tests.event_streams import events_of
from tests.parts import part
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
            sent = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Event", "CursorLost")]}
            schema = content[MEDIA_TYPES[word].partition(";")[0]]["schema"]
            # The schema of SSE is that of a message, whose data is an event.
            assert (schema["properties"]["data"]["contentSchema"] if word == "sse" else schema) == sent


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


@pytest.mark.parametrize("word", HTTP_WORDS)
async def test_every_operation_has_a_plain_name(word: str, servers: Servers) -> None:
    """The functions of a generated client have these names, and the rows of ``/docs`` these headings."""
    document = (await ask(servers, word, "GET", "/openapi.json")).json
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 15
    for name, heading in ((operation["operationId"], operation["summary"]) for operation in operations):
        assert re.fullmatch("[a-z]+(_[a-z]+)?", name), name
        assert heading.lower() != name.replace("_", " ")
        assert re.fullmatch(r"[A-Z][^`.\n]{8,80}", heading), heading


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
    limits = {
        path: parameter["schema"]["maximum"]
        for path in ("/sessions", "/sessions/{session_id}/messages")
        for parameter in document["paths"][path]["get"]["parameters"]
        if parameter["name"] == "limit"
    }
    assert limits == {"/sessions": 200, "/sessions/{session_id}/messages": 500}
    assert parameters["limit"]["minimum"] == 1
    assert parameters["after"]["minimum"] == 0
    assert parameters["Idempotency-Key"]["pattern"] == "^[\\x20-\\x7e]{1,255}$"


# The WebSocket server has the common routes alone, and NDJSON differs from SSE in its streams.
SCHEMATHESIS = {"rest": ".", "sse": ".", "ndjson": "stream"}


@pytest.mark.parametrize("word", SCHEMATHESIS)
async def test_schemathesis_finds_nothing(word: str, servers: Servers, tmp_path: Path) -> None:
    """Requests made from the document, right and wrong ones; each answer is held against it.

    One check is left out: that a request which fits its schema is accepted. No schema tells that a cursor is beyond the last event.
    """
    command = (
        *("run", f"http://{servers[word].address}/openapi.json", "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "2", "--generation-deterministic", "--include-path-regex", SCHEMATHESIS[word]),
        *("--exclude-checks", "positive_data_acceptance", "--request-timeout", "30", "--no-color"),
    )
    process = await asyncio.create_subprocess_exec(
        *(part("schemathesis").path, *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


USES_GENERATED = """
import sys
from chat_client import Client
from chat_client.api.sessions import create_session
from chat_client.api.turns import get_turn, start_turn
from chat_client.models import SessionBody, TurnBody

client = Client(base_url=sys.argv[1])
session = create_session.sync(client=client, body=SessionBody())
turn = start_turn.sync(client=client, body=TurnBody(message="/tokens 3 Hello", session_id=session.session_id))
while turn.status == "running":
    turn = get_turn.sync(turn.turn_id, client=client)
missing = get_turn.sync("nothing", client=client)
print(turn.status, turn.session_id == session.session_id, missing.code)
"""


async def test_a_generated_client_runs(servers: Servers, tmp_path: Path) -> None:
    """openapi-python-client makes a package of the document; it makes a session, starts a turn and reads the turn."""
    document = tmp_path / "openapi.json"
    document.write_bytes((await ask(servers, "rest", "GET", "/openapi.json")).body)
    config = tmp_path / "config.yaml"
    config.write_text("package_name_override: chat_client\npost_hooks: []\n")
    for command in (
        (part("openapi-python-client").path, "generate", "--path", document, "--config", config, "--meta", "none"),
        (sys.executable, "-c", USES_GENERATED, f"http://{servers['rest'].address}"),
    ):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said
    assert said.split()[-3:] == ["completed", "True", "turn_not_found"], said


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
