"""The schemas of answers for ``/openapi.json`` (OpenAPI 3.1, JSON Schema 2020-12)."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.events import EVENT_TYPES

PICTURES = ("image/png", "image/jpeg", "image/webp")
_COMPONENTS = "#/components/schemas/"


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str


def openapi_problems() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of every route: each other status is a problem."""
    content = {"application/problem+json": {"schema": _schema_of(Problem)}}
    return {"default": {"description": "An error", "content": content}}


def openapi_bytes(*media_types: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with bytes or text."""
    return {status: {"description": "OK", "content": {kind: {"schema": {"type": "string"}} for kind in media_types}}}


def add_security(schema: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    """Add the two ways to send the key; with a key set every route wants one of them."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    schema.setdefault("components", {})["securitySchemes"] = schemes
    if keyed:
        schema["security"] = [{name: []} for name in schemes]
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
    content |= {kind: {"schema": {"type": "string"}} for kind in or_bytes}
    return {status: {"description": "OK", "content": content}}


def openapi_events(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that streams events."""
    content = {media_type: {"schema": {"$ref": _COMPONENTS + "Event"}}}
    return {200: {"description": "The events of the turn", "content": content}}


def add_events(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the events to an OpenAPI document, as a union told apart by ``type`` (OpenAPI's discriminator)."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    if "Event" not in schemas:
        _, components = msgspec.json.schema_components(EVENT_TYPES, ref_template=_COMPONENTS + "{name}")
        schemas.update(components)
        mapping = {str(kind.__struct_config__.tag): _COMPONENTS + kind.__name__ for kind in EVENT_TYPES}
        schemas["Event"] = {
            "oneOf": [{"$ref": reference} for reference in mapping.values()],
            "discriminator": {"propertyName": "type", "mapping": mapping},
        }
    return schema


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
