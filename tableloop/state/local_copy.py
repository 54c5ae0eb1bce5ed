"""The service's local copy of the version that serves, as others find it; `app.champion` keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tableloop.state.layout import Layout


class LocalCopy(NamedTuple):
    """A version of the registered model and where its files are; ``registered_at`` is None where nobody knows it."""

    version: str
    directory: Path
    run_id: str
    registered_at: str | None


def local_copy(layout: Layout) -> LocalCopy | None:
    """Return what the service has noted of its copy; None before it has one.

    Raises
    ------
    ValueError
        The note cannot be read.
    """
    try:
        found = json.loads(layout.champion_pointer.read_bytes())
        directory = layout.champion / str(found.get("directory", ""))
        return LocalCopy(str(found["version"]), directory, str(found.get("run_id", "")), found.get("registered_at"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{layout.champion_pointer} cannot be read: {error}") from None
