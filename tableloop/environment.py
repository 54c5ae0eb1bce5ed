"""What of the caller's environment our processes see: the one place that decides.

``python -E -m tableloop.environment COMMAND`` prints what is to be changed, the settings included, as lines for a
shell; `entrypoint.sh` evaluates them before anything else. Only the standard library is imported before the packages
are known to be there.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tableloop.host_names import own_host
from tableloop.state.layout import Layout

if TYPE_CHECKING:
    from tableloop.settings import Settings

# Variables by which programs that we use are configured, here by us: those of the caller are meant for others.
FOREIGN: Final = re.compile(
    r"(?:PYTHON|_?MLFLOW_|DVC|GF_|PROMETHEUS_|LOGURU_|UVICORN_|FLASK_|OTEL_)\w*|WEB_CONCURRENCY"
    r"|prometheus_multiproc_dir|MPLBACKEND|MATPLOTLIBRC"
    r"|GIT_(?:DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|OBJECT_DIRECTORY)"
    r"|BASH_ENV|ENV|CDPATH"
    r"|PREPARED|CONSOLE|STAGE_RESULTS|RETRAIN_FORCED"  # what our own processes tell each other
)
KEPT: Final = re.compile(
    r"PYTHON(?:DONTWRITEBYTECODE|PYCACHEPREFIX)|PROMETHEUS_URL"
    # How MLflow's client gets to another server, or to the files in its object storage.
    r"|MLFLOW_(?:S3_\w+|TRACKING_(?:INSECURE_TLS|SERVER_CERT_PATH|CLIENT_CERT_PATH))"
)
# DVC reads a configuration of the user's and one of the machine's: a cache of others, remotes, hooks.
DVC: Final = {
    "DVC_NO_ANALYTICS": "1",
    "DVC_GLOBAL_CONFIG_DIR": "/nonexistent",
    "DVC_SYSTEM_CONFIG_DIR": "/nonexistent",
}
OWN: Final = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",  # whatever the locale is
    "MPLBACKEND": "agg",
    "NETRC": os.devnull,  # MLflow's client would log in with what it finds there, not with what it is told
    **DVC,
}
PACKAGES: Final = (
    "pydantic_settings",
    "sqlalchemy",
    "mlflow",
    "dvc",
    "supervisor",
)  # some of them, from every corner
CHECKSUMS: Final = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
NO_PROXY: Final = ("NO_PROXY", "no_proxy")  # some programs read the one, some the other
HARMLESS: Final = ("down", "status", "logs", "clean")  # commands that leave no files behind


def changes(environment: Mapping[str, str], settings: Settings) -> dict[str, str | None]:
    """Return the variables to set, and with None those to unset, before one of our programs starts."""
    from tableloop.settings import as_environment  # noqa: PLC0415 - see `main`

    dropped = [name for name in environment if FOREIGN.fullmatch(name) and not KEPT.fullmatch(name)]
    own = as_environment(settings) | OWN | {"LOGNAME": user()}  # some programs end where the user has no name
    here = own_host(settings.bind_address)
    # Where our programs find each other, and the registry: no proxy is between them.
    urls = [settings.mlflow_tracking_uri, environment.get("PROMETHEUS_URL", "")]
    hosts = ["localhost", "127.0.0.1", "::1", here, settings.mlflow_host, settings.alertmanager_host]
    hosts += environment.get("API_HOST", "").split(",")
    hosts += [urlsplit(url).hostname or "" for url in urls]
    for name in NO_PROXY:
        own[name] = _joined(environment.get(name) or environment.get(name.swapcase()) or "", hosts)
    return dict.fromkeys(dropped) | own | storage(environment) | {"OWN_HOST": f"[{here}]" if ":" in here else here}


def storage(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what follows from the variables of AWS that are given, for clients of S3 that read others."""
    own = {}
    if region := environment.get("AWS_REGION"):
        own["AWS_DEFAULT_REGION"] = region  # the only one that boto3 reads
    if endpoint := s3_endpoint(environment):
        # Much storage that is not Amazon's refuses the checksums that boto3 adds where it may.
        own |= {"MLFLOW_S3_ENDPOINT_URL": endpoint, **dict.fromkeys(CHECKSUMS, "when_required")}
    return {name: value for name, value in own.items() if not environment.get(name)}


def s3_endpoint(environment: Mapping[str, str]) -> str:
    """Return the address of object storage that is not Amazon's own; an empty string where none is given."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def _joined(former: str, hosts: list[str]) -> str:
    """Return a list of hosts for NO_PROXY; ``*``, which means any host, has no meaning beside others."""
    if former.strip() == "*":
        return former
    names = [name.strip() for name in former.split(",")]
    return ",".join(dict.fromkeys(filter(None, [*names, *hosts])))


def user() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def refusal(command: list[str], state: Path) -> str | None:
    """Return why this user may not run the command: as root it would leave files that their owner cannot change."""
    marker = Layout(state).marker
    if os.getuid() != 0 or not marker.exists() or (owner := marker.stat().st_uid) == 0:
        return None
    if "monitoring.health" in command or ("appliance.control" in command and command[-1] in HARMLESS):
        return None
    return (
        f"STATE_DIR={state} belongs to uid {owner}, and root would leave files there that it cannot change: run this "
        f"as that user (sudo -u '#{owner}' …), or give all of it to root (chown -R root {state})"
    )


def main() -> None:
    """Print the lines for the shell, or end with one line that says what is in the way."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        sys.exit(f"{sys.executable} has no {', '.join(missing)}: run make setup, which installs what is needed")
    from tableloop.settings import load_settings  # noqa: PLC0415 - it needs packages

    settings = load_settings()
    if reason := refusal(sys.argv[1:], settings.state_dir):
        sys.exit(reason)
    for name, value in changes(os.environ, settings).items():
        sys.stdout.write(f"unset {name}\n" if value is None else f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
