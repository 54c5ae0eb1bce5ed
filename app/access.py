"""Who may predict and who may label: keys, and the administrator's login.

Predicting is open until there is a key of scope predict, or `API_KEYS` is set. Labelling always needs a key of scope
label, or the administrator's login, because the next model learns from labels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import HTTPException, Request
from loguru import logger

from tableloop import api_keys
from tableloop.api_keys import ApiKey, KeysError
from tableloop.credentials import WRONG_LOGIN_SECONDS, AdminLogin, NoPasswordError
from tableloop.senders import ADMINISTRATOR, TRUSTED
from tableloop.settings import Settings
from tableloop.state.layout import Layout

LOOK_SECONDS: Final = 1.0  # from one look at the file of keys to the next
SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key, made by `make key NAME=... SCOPE=...`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, in a header"},
    "administrator": {
        "type": "http",
        "scheme": "basic",
        "description": "User `admin`, with the password in `secrets/admin-password` under `STATE_DIR`",
    },
}
LOGIN: Final[dict[str, Any]] = {"security": [{name: []} for name in SCHEMES]}


def described(describe: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return a function that describes the service as ``describe`` does, with the ways to log in."""

    def describe_with_logins() -> dict[str, Any]:
        description = describe()
        description["components"]["securitySchemes"] = SCHEMES
        return description

    return describe_with_logins


class Access:
    """Tells who sends a request, and refuses what the sender may not do."""

    def __init__(self, settings: Settings) -> None:
        layout = Layout(settings.state_dir)
        self._settings = settings
        self._file = layout.api_keys
        self._given = api_keys.parse(settings.api_keys)
        self._login = AdminLogin(layout.admin_password)
        self._look_at = 0.0
        self._looked: tuple[float, int] | None = None
        self._keys: list[ApiKey] = self._given
        self._found: dict[str, ApiKey] = {}  # by what was sent, as long as the keys are the same
        self._closed = bool(self._given)

    def check_predict(self, request: Request) -> None:
        """Return when this request may predict.

        Raises
        ------
        HTTPException
            401 without a key, 403 with one of another scope.
        """
        if time.monotonic() >= self._look_at:
            self._look()
        if self._closed:
            self._sender(request, "predict")

    async def labeller(self, request: Request) -> str:
        """Return the name of the key with which this request labels, or that it is the administrator.

        Raises
        ------
        HTTPException
            401 without a key, 403 with one of another scope.
        """
        self._look()
        try:
            return self._sender(request, "label")
        except HTTPException:
            if "authorization" in request.headers or "x-api-key" in request.headers:
                await asyncio.sleep(WRONG_LOGIN_SECONDS)  # nobody tries many passwords
            raise

    def _sender(self, request: Request, scope: str) -> str:
        authorization = request.headers.get("authorization", "")
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                if self._login.holds(authorization):
                    return ADMINISTRATOR
            except NoPasswordError as error:
                raise HTTPException(503, str(error)) from error
        given = credentials.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        key = self._found.get(given) or api_keys.find(self._keys, given)
        if key is not None:
            self._found[given] = key
        else:
            what = "this key or password is not known" if authorization or given else "this call needs a key"
            raise HTTPException(
                401,
                f"{what}: send Authorization: Bearer with a key of scope {scope} (make key NAME=... SCOPE={scope} "
                "makes one), or log in as admin with the password in secrets/admin-password under STATE_DIR",
                {"WWW-Authenticate": "Bearer"},
            )
        if not key.may(scope):
            raise HTTPException(
                403, f"the key {key.name} is of scope {key.scope}, and this call needs one of {scope}"
            )
        return f"{key.name}{TRUSTED}" if key.scope == "admin" else key.name

    def _look(self) -> None:
        """Read the file of keys when it has changed."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            status = self._file.stat()
            looked: tuple[float, int] | None = (status.st_mtime, status.st_ino)
        except OSError:
            looked = None
        if looked == self._looked:
            return
        self._looked = looked
        self._found = {}
        try:
            self._keys = [*self._given, *api_keys.stored(self._settings)]
        except KeysError as error:
            logger.error(f"{error}; the keys known before hold on")
        self._closed = bool(self._given) or any(key.scope == "predict" for key in self._keys)
