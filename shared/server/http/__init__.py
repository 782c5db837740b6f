"""What the four HTTP servers share; with ``http_client`` the only context in ``shared`` that knows a web library.

A leaf adds its own routes and nothing else.
"""

from shared.server.http.answers import (
    answer,
    answers,
    gone,
    image_answer,
    problem,
    stream_headers,
    streams,
    while_connected,
)
from shared.server.http.app import create_app
from shared.server.http.bodies import After, ChatBody, IdempotencyKey, ImageBody, Service
from shared.server.http.serving import main, serve

__all__ = [
    "After",
    "ChatBody",
    "IdempotencyKey",
    "ImageBody",
    "Service",
    "answer",
    "answers",
    "create_app",
    "gone",
    "image_answer",
    "main",
    "problem",
    "serve",
    "stream_headers",
    "streams",
    "while_connected",
]
