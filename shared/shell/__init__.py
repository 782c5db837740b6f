"""The interactive client, the same for all five transports: what one types, what comes back, and what breaks on the way.

It talks to a ChatClient and knows no wire. ``run`` is the whole of its surface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from shared.client import ChatClient


class Transport(Protocol):
    """What the shell reads of a row of the table of transports."""

    @property
    def word(self) -> str:
        """Our word for it, such as ``sse``."""
        ...

    @property
    def title(self) -> str:
        """Its name, such as ``Server-Sent Events``."""
        ...


async def run(
    client: ChatClient,
    open_client: Callable[[str], ChatClient],
    transports: Mapping[str, Transport] | None = None,
    *,
    session_id: str | None = None,
    model_id: str | None = None,
    plain: bool = False,
) -> int:
    """Chat until the user leaves; the exit status: 0, or 1 when a pipe's line failed or the server was never there.

    ``client`` is not entered yet; the shell opens and closes it. ``open_client`` makes a client of another transport, for
    ``/switch``; ``transports`` is the table (None: only ``client``'s own). ``session_id``: go on in this session; ``model_id``:
    the model of sessions made here. ``plain``: no Markdown and no colours.
    """
    raise NotImplementedError
