"""The short way of a good JSON request: what FastAPI does around an endpoint takes longer than a prediction."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

JSON = "application/json"


class DirectRoute(APIRoute):
    """A route to an endpoint of a body and the request, ``(body, request) -> answer``.

    A body that is valid goes straight to the endpoint, and its answer straight out: no dependencies are looked for,
    nothing is parsed twice. All else takes FastAPI's whole way, so what is refused, and how, is the same; and it is
    FastAPI that describes the route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the short way, which knows when to leave a request to FastAPI's."""
        by_fastapi, endpoint = super().get_route_handler(), self.endpoint
        types = get_type_hints(endpoint, include_extras=True)
        answers = TypeAdapter(types.pop("return"))
        bodies = TypeAdapter(next(iter(types.values())))

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != JSON:
                return await by_fastapi(request)
            try:
                body = bodies.validate_json(await request.body())
            except ValidationError:
                return await by_fastapi(request)
            return Response(answers.dump_json(await endpoint(body, request)), media_type=JSON)

        return handle
