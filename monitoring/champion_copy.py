"""The drift monitor's copy of the version that serves, where no service keeps one on the same disk."""

from __future__ import annotations

from app.champion import ChampionKeeper
from app.model_loader import MlflowRegistry
from tableloop.settings import Settings
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy


def renew_copy(settings: Settings) -> None:
    """Make the version that the alias names the local copy, by the same rules as the service does.

    The copy stays as it is where the registry does not answer, or where the service would refuse the version.
    """
    layout, registry = Layout(settings.state_dir), MlflowRegistry(settings)
    try:
        found, copy = registry.find(), local_copy(layout)
    except (OSError, ValueError):
        return
    if found is None or (copy is not None and (copy.version, copy.run_id) == (found.version, found.run_id)):
        return
    name = f"{settings.model_name}@{settings.model_alias}"
    ChampionKeeper(registry, layout.champion, settings.model_poll_seconds, name, lambda *_: None).poll()
