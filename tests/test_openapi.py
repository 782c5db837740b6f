"""``/openapi.json`` (OpenAPI 3.1) held against what the servers send."""

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
            assert content[MEDIA_TYPES[word].partition(";")[0]]["schema"] == {"$ref": "#/components/schemas/Event"}


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
