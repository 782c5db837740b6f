"""The limits of a request, checked once for all transports, before anything is recorded."""

from __future__ import annotations

import re

from shared.errors import ChatError, ErrorCode

DEFAULT_SIZE = "1024x1024"
SIZE_PATTERN = r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})"
KEY_PATTERN = r"[\x20-\x7e]{1,255}"
_SIZE = re.compile(SIZE_PATTERN)
_PAGE = re.compile(r"([0-9]{1,16}\.[0-9]{1,6})_([0-9a-f-]{36})")
_MESSAGE_CURSOR = re.compile(r"[0-9a-f-]{36}:(user|model)")
_KEY = re.compile(KEY_PATTERN)


def check_text(text: str | None, name: str) -> None:
    """Raise ``invalid_request`` for an empty text, and for NUL and lone surrogates, which not every wire can carry."""
    if text is None:
        return
    if not text.strip():
        raise ChatError("invalid_request", f"{name} must not be empty; send some text.")
    if "\0" in text:
        raise ChatError("invalid_request", f"{name} must not contain NUL; leave NUL out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ChatError(
            "invalid_request", f"{name} must be valid Unicode, and it has a lone surrogate; leave the surrogate out."
        ) from None


def bounded_int(digits: str, most: int) -> int:
    """The number that ASCII digits stand for, of any count of digits; ``most`` for a larger number.

    Python refuses to read more than 4,300 digits.
    """
    significant = digits.lstrip("0")
    return min(most, int(significant or "0")) if len(significant) <= len(str(most)) else most


def check_input(text: str, name: str, max_chars: int) -> None:
    """Raise ``invalid_request`` for a message or prompt that ``check_text`` refuses, or that is too long."""
    check_text(text, name)
    if len(text) > max_chars:
        raise ChatError("invalid_request", f"{name} is longer than {max_chars:,} characters; shorten it.")


def parse_size(size: str, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels of ``WIDTHxHEIGHT``. Raises ``invalid_request``."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ChatError("invalid_request", "size must be WIDTHxHEIGHT in pixels, such as 1024x1024.")
    width, height = int(match[1]), int(match[2])
    if width * height > max_pixels:
        raise ChatError("invalid_request", f"size is larger than {max_pixels:,} pixels in all; give a smaller one.")
    return width, height


def parse_page(cursor: str) -> tuple[float, str]:
    """Time and id of the session after which a page of sessions begins. Raises ``invalid_request``."""
    match = _PAGE.fullmatch(cursor)
    if match is None:
        raise ChatError(
            "invalid_request", "cursor is not a cursor that this list gave; send the last next_cursor, or none."
        )
    return float(match[1]), match[2]


def parse_message_cursor(cursor: str) -> str:
    """The id of the message after which a page of messages begins. Raises ``invalid_request``."""
    if _MESSAGE_CURSOR.fullmatch(cursor) is None:
        raise ChatError(
            "invalid_request", "cursor is not a cursor that this list gave; send the last next_cursor, or none."
        )
    return cursor


def check_key(key: str | None) -> None:
    """Raise ``invalid_request`` for an idempotency key that is not 1 to 255 printable ASCII characters."""
    if key is not None and not _KEY.fullmatch(key):
        raise ChatError("invalid_request", "The idempotency key must be 1 to 255 printable ASCII characters.")


def known_id(identifier: str, code: ErrorCode) -> str:
    """The id, if it has the form of an id. Raises ``code`` for any other text, and the store is not asked."""
    if not identifier.isascii() or not 1 <= len(identifier) <= 64 or "\0" in identifier:
        raise ChatError(code)
    return identifier
