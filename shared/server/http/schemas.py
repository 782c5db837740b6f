"""The schemas of answers for ``/openapi.json`` (OpenAPI 3.1, JSON Schema 2020-12)."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.events import EVENT_TYPES

_COMPONENTS = "#/components/schemas/"


def openapi_json(model: Any, *, status: int = 200, description: str = "OK") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with JSON: the schema of a struct."""
    content = {"application/json": {"schema": _schema_of(model)}}
    return {status: {"description": description, "content": content}}


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
