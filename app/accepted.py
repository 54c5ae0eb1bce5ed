"""Which form of an answer a client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Form = TypeVar("Form")


def accepted(accept: str, forms: Mapping[str, Form], default: Form) -> Form:
    """Return the form of the first media type in an Accept header that has one; browsers name HTML first."""
    names = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return next((forms[name] for name in names if name in forms), default)
