"""A session as a text that others can read: Markdown for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.client import text
from shared.session import Message, Session


def as_json(session: Session, messages: Sequence[Message]) -> str:
    """The session and its messages, with the fields that ``GET /sessions/{id}`` and ``/messages`` have."""
    given = msgspec.to_builtins({"session": session, "messages": messages})
    return msgspec.json.format(msgspec.json.encode(given), indent=2).decode() + "\n"


def as_markdown(session: Session, messages: Sequence[Message]) -> str:
    """A heading for each message, and the message below it as it was sent. A turn that ended without an answer is marked."""
    title = text.line(session.title) or "A session without messages"
    begun = datetime.fromtimestamp(session.created_at / 1000).astimezone().isoformat(" ", "minutes")
    model = session.model or "the server's default"
    parts = [f"# {title}\n\nSession {session.session_id}, begun {begun}, model: {model}.\n"]
    answered = {message.turn_id for message in messages if message.role == "model"}
    for message in messages:
        who = "You" if message.role == "user" else "Model"
        ended = "" if message.role == "user" or message.status == "completed" else f" ({message.status})"
        said = f"[picture {message.image_id}]" if message.image_id and not message.text else message.text
        parts.append(f"## {who}{ended}\n\n{said}\n")
        if message.turn_id not in answered and message.status not in ("completed", "running"):
            parts.append(f"## Model ({message.status})\n\n[no answer]\n")
    return "\n".join(parts)
