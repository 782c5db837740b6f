"""One turn that a client asks for: the same object on every transport, from the service to the generation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from shared.chat.members import Membership
from shared.events import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """A request for a turn; ``text`` is the message of a chat or the prompt of an image.

    ``size`` is ``WIDTHxHEIGHT`` in pixels for an image and None for a chat. A turn that is not ``attended`` runs on
    without a reader. ``origin`` is the membership of the connection that asks, if it has one; it gets no hint about its
    own turn.
    """

    kind: Kind
    text: str
    size: str | None = None
    session_id: str | None = None
    model_id: str | None = None
    request_id: str | None = None
    attended: bool = True
    origin: Membership | None = None

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the fields that must be equal in two requests with the same key."""
        parts = [self.kind, self.text, self.size, self.session_id, self.model_id]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
