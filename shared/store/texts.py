"""Texts that are too long for one answer: every answer stays under the 4 MiB that a gRPC channel accepts by default."""

from __future__ import annotations

MAX_TEXT_BYTES = 3 * 1024 * 1024


def cut_text(text: str, max_bytes: int = MAX_TEXT_BYTES) -> tuple[str, bool]:
    """The text, cut between two characters where its UTF-8 is longer than ``max_bytes``; and whether it was cut."""
    if len(text) * 4 <= max_bytes:
        return text, False
    data = text.encode()
    if len(data) <= max_bytes:
        return text, False
    return data[:max_bytes].decode(errors="ignore"), True
