"""What the four HTTP servers share; with ``http_client`` the only place in ``shared`` that knows a web library.

A leaf adds its own routes and nothing else.
"""

from shared.http.answers import answer, answers, gone, image_answer, problem, stream_headers, streams, while_connected
from shared.http.app import create_app
from shared.http.bodies import After, ChatBody, ImageBody, RequestKey, Service
from shared.http.serving import main, serve

__all__ = [
    "After",
    "ChatBody",
    "ImageBody",
    "RequestKey",
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
