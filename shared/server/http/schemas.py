"""The schemas of answers for ``/openapi.json`` (OpenAPI 3.1, JSON Schema 2020-12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shared.events import EVENT_TYPES, CursorLost

PICTURES = ("image/png", "image/jpeg", "image/webp")
_EVENT_STREAM = "text/event-stream"
_COMPONENTS = "#/components/schemas/"


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457). ``last_seq`` is given with ``cursor_lost`` alone."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str
    last_seq: int | None = None


def openapi_problems() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of every route: each other status is a problem."""
    return {"default": {"description": "An error", "content": _problem_content()}}


def openapi_cursor_lost() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that reads a turn from a cursor and refuses a cursor that is lost."""
    return {
        409: {"description": "The store has lost events before the cursor: read from 0", "content": _problem_content()}
    }


def _problem_content() -> dict[str, Any]:
    return {"application/problem+json": {"schema": _schema_of(Problem)}}


def openapi_bytes(*media_types: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with bytes or text."""
    return {status: {"description": "OK", "content": {kind: {"schema": _bytes_schema(kind)} for kind in media_types}}}


def add_security(
    schema: dict[str, Any], *, keyed: bool, public: Callable[[str], bool], opened_by_ticket: str | None
) -> dict[str, Any]:
    """Add the ways to send the key; with a key set every route that is not ``public`` wants one of them.

    A ticket opens the GET of the path ``opened_by_ticket`` alone.
    """
    keys: dict[str, dict[str, str]] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    ticket: dict[str, dict[str, str]] = {}
    if opened_by_ticket is not None:
        ticket["ticket"] = {"type": "apiKey", "in": "query", "name": "ticket", "description": "from POST /tickets"}
    schema.setdefault("components", {})["securitySchemes"] = keys | ticket
    if keyed:
        schema["security"] = _any_of(keys)
        for path, methods in schema["paths"].items():
            for operation in methods.values() if public(path) else ():
                operation["security"] = []
        if opened_by_ticket is not None:
            schema["paths"][opened_by_ticket]["get"]["security"] = _any_of(keys | ticket)
    return schema


def _any_of(schemes: Iterable[str]) -> list[dict[str, list[str]]]:
    return [{name: []} for name in schemes]


def add_body_examples(schema: dict[str, Any]) -> dict[str, Any]:
    """Give every JSON body the example of the body's model, so that ``/docs`` executes a request as it is shown."""
    models = schema.get("components", {}).get("schemas", {})
    for methods in schema["paths"].values():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                # A body that may be absent is a reference or null.
                references = [content["schema"], *content["schema"].get("anyOf", ())]
                names = [each["$ref"].removeprefix(_COMPONENTS) for each in references if "$ref" in each]
                content["example"] = models[names[0]]["examples"][0]
    return schema


def without_framework_errors(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop the framework's own form of 422, which this server never sends: a problem takes its place."""
    for methods in schema["paths"].values():
        for operation in methods.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    return schema


def openapi_json(model: Any, *, status: int = 200, or_bytes: tuple[str, ...] = ()) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with JSON: the schema of a struct. ``or_bytes``: other media types."""
    content = {"application/json": {"schema": _schema_of(model)}}
    content |= {kind: {"schema": _bytes_schema(kind)} for kind in or_bytes}
    return {status: {"description": "OK", "content": content}}


def openapi_events(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that streams events; ``cursor_lost``, which is no event, may stand between them."""
    event: dict[str, Any] = {"anyOf": [{"$ref": _COMPONENTS + name} for name in ("Event", "CursorLost")]}
    if media_type == _EVENT_STREAM:
        event = _message_of_sse(event)
    return {200: {"description": "The events of the turn", "content": {media_type: {"schema": event}}}}


def _message_of_sse(event: dict[str, Any]) -> dict[str, Any]:
    """One message of an event stream (WHATWG HTML, section 9.2.6), in the form that OpenAPI 3.2 gives it; its data is JSON."""
    text = {"type": "string"}
    data = text | {"contentMediaType": "application/json", "contentSchema": event}
    return {"type": "object", "required": ["data"], "properties": {"event": text, "id": text, "data": data}}


def add_events(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the events to an OpenAPI document, as a union told apart by ``type`` (OpenAPI's discriminator)."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    if "Event" not in schemas:
        documented = (*EVENT_TYPES, CursorLost)
        _, components = msgspec.json.schema_components(documented, ref_template=_COMPONENTS + "{name}")
        schemas.update(components)
        mapping = {str(kind.__struct_config__.tag): _COMPONENTS + kind.__name__ for kind in EVENT_TYPES}
        schemas["Event"] = {
            "oneOf": [{"$ref": reference} for reference in mapping.values()],
            "discriminator": {"propertyName": "type", "mapping": mapping},
        }
    return schema


def _bytes_schema(media_type: str) -> dict[str, str]:
    return {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}


def _schema_of(model: Any) -> dict[str, Any]:
    """A struct's JSON schema with every reference resolved in place."""
    (schema,), components = msgspec.json.schema_components([model], ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(components[node["$ref"]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved
