"""Checks of what a provider sends, made on arrival: an SDK builds objects from JSON without checking the types."""

from __future__ import annotations

import json
from typing import Any

from shared.events import Usage

# The counts are int64 in protobuf.
MAX_COUNT = 2**63 - 1


class NotAnAnswer(ValueError):
    """A provider's answer cannot be read: not JSON, of another type, cut, or too large. ``web_page``: the answer is HTML."""

    def __init__(self, message: str, *, web_page: bool = False) -> None:
        super().__init__(message)
        self.web_page = web_page


def token_count(value: Any) -> int | None:
    """A count of tokens from 0 to 2^63-1; None for any other value. A float without a fraction is such a count."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def usage(value: Any, input_name: str, output_name: str) -> Usage | None:
    """The counts in a provider's usage object by their names there; None where the object has none."""
    if not isinstance(value, dict):
        return None
    counts = Usage(token_count(value.get(input_name)), token_count(value.get(output_name)))
    return None if counts == Usage() else counts


def text(value: Any) -> str:
    """The text of a reply's piece: a string, a number as its JSON, nothing for null.

    Raises NotAnAnswer for any other type.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise NotAnAnswer(f"a text is a {type(value).__name__}")


def fields(value: Any) -> dict[str, Any]:
    """An object's fields; none for null. Raises NotAnAnswer for any other type."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise NotAnAnswer(f"an object is a {type(value).__name__}")


def items(value: Any) -> list[Any]:
    """A list's items; none for null. Raises NotAnAnswer for any other type."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise NotAnAnswer(f"a list is a {type(value).__name__}")


def chosen(answers: list[Any], index: int | None) -> tuple[dict[str, Any], int | None]:
    """The one of several alternative answers in a frame that is the reply, and the index that the reply has from now on.

    ``index`` is None before the first frame: then the reply is the answer with index 0, or else the first. A missing index
    counts as 0. Raises NotAnAnswer for an answer that is no object.
    """
    by_index: dict[int, dict[str, Any]] = {}
    for answer in map(fields, answers):
        number = answer.get("index")
        by_index.setdefault(number if type(number) is int else 0, answer)
    if index is None and by_index:
        index = 0 if 0 in by_index else next(iter(by_index))
    return by_index.get(index, {}) if index is not None else {}, index
