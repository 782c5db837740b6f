"""What the four HTTP servers share; with ``shared/client/http.py`` the only place in ``shared`` that knows a web library.

A leaf adds its own routes and nothing else.
"""

from shared.server.http.answers import json_response, no_reader, while_connected
from shared.server.http.bodies import After, ChatBody, Epoch, IdempotencyKey, ImageBody, Service
from shared.server.http.direct_route import Routes
from shared.server.http.lines import socket_line
from shared.server.http.negotiation import prefers
from shared.server.http.open_body import OpenBody, open_socket
from shared.server.http.schemas import PICTURES, openapi_cursor_lost, openapi_events, openapi_json
from shared.server.http.serving import main

__all__ = [
    "PICTURES",
    "After",
    "ChatBody",
    "Epoch",
    "IdempotencyKey",
    "ImageBody",
    "OpenBody",
    "Routes",
    "Service",
    "json_response",
    "main",
    "no_reader",
    "open_socket",
    "openapi_cursor_lost",
    "openapi_events",
    "openapi_json",
    "prefers",
    "socket_line",
    "while_connected",
]
