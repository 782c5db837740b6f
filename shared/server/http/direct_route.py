"""A route of FastAPI that reads a usual request itself, because FastAPI's reading costs more than a small answer.

FastAPI documents the route as any other. FastAPI also reads each request that this module does not read: a request with a query,
and a request that is not valid. So the words of a refusal are FastAPI's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import APIRouter, Request, params
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from shared.server.http.body_middleware import replay
from shared.server.http.schemas import openapi_problems

# Gives one argument of an endpoint, from a request and its body. Raises ValidationError.
_Read = Callable[[Request, bytes], Any]
_Depend = Callable[[Request], Awaitable[Any]]
_END_OF_SENTENCE = re.compile(r"\.(?:\s+|$)")


class Routes(APIRouter):
    """The routes of a leaf, or a group of the common routes; the endpoints return a ``Response``."""

    def __init__(self, *tags: str) -> None:
        super().__init__(tags=list(tags), route_class=DirectRoute, responses=openapi_problems())


class DirectRoute(APIRoute):
    """One route; its endpoint gets the arguments that FastAPI would give it. ``direct``: whether this class can read them."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._name_operation()
        self._reads: dict[str, _Read] = {}
        self._depends: dict[str, _Depend] = {}
        self._has_body = False
        hints = get_type_hints(endpoint, include_extras=True)
        parameters = inspect.signature(endpoint).parameters.values()
        self.direct = all(self._plan(parameter, hints[parameter.name]) for parameter in parameters)

    def _name_operation(self) -> None:
        """Name the operation after its function. The heading is the first sentence of the function's docstring.

        FastAPI would make ``get_turn_turns__turn_id__get`` and "Get Turn" of a function ``get_turn``.
        """
        self.operation_id = self.operation_id or self.name
        heading, *more = _END_OF_SENTENCE.split(self.description, maxsplit=1)
        self.summary = self.summary or " ".join(heading.split())
        self.description = "".join(more)

    def _plan(self, parameter: inspect.Parameter, hint: Any) -> bool:
        """Plan how an argument is read. Returns whether it can be read here."""
        name, default = parameter.name, parameter.default
        kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else [hint]
        options = set(get_args(kind)) - {type(None)} or {kind}
        given = next((one for one in metadata if isinstance(one, params.Depends | params.Param)), None)
        if kind is Request:
            self._reads[name] = lambda request, body: request
        elif isinstance(given, params.Depends) and given.dependency is not None:
            self._depends[name] = given.dependency
        elif isinstance(given, params.Query) and default is not parameter.empty:
            self._reads[name] = lambda request, body: default
        elif isinstance(given, params.Header) and options == {str} and given.alias and default is None:
            header = given.alias
            self._reads[name] = lambda request, body: request.headers.get(header)
        elif name in self.param_convertors and kind is str:
            self._reads[name] = lambda request, body: request.path_params[name]
        elif inspect.isclass(model := next(iter(options))) and issubclass(model, BaseModel):
            self._has_body = True
            self._reads[name] = lambda request, body: (
                model.model_validate_json(body) if body or default is parameter.empty else default
            )
        else:
            return False
        return True

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if not self.direct or scope["query_string"] or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        # The body comes in one message (``BodyMiddleware``).
        body = (await receive()).get("body", b"") if self._has_body else b""
        try:
            arguments = {name: read(request, body) for name, read in self._reads.items()}
        except ValidationError:
            await super().handle(scope, replay(body, receive), send)
            return
        for name, depend in self._depends.items():
            arguments[name] = await depend(request)
        response = await self.endpoint(**arguments)
        await response(scope, receive, send)
