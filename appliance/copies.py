"""Where the copies of the service are, for HAProxy and Prometheus: ``python -m appliance.copies haproxy|prometheus``.

API_HOST is one name with an address for each copy, as Compose and headless services of Kubernetes have it; or several
hosts, each with its port, with commas between them. ``haproxy`` fills in haproxy.cfg, from stdin to stdout;
``prometheus`` writes the targets of its job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from tableloop.host_names import with_port

MOST_COPIES: Final = 32  # that a name may have addresses for


def hosts(api_host: str) -> list[str]:
    """Return the hosts of API_HOST."""
    return [host for part in api_host.split(",") if (host := part.strip())]


def haproxy(configuration: str, api_host: str, address: str, port: int) -> str:
    """Return haproxy.cfg with the address that it listens on, and the servers."""
    front = with_port(address, port) + (" v4v6" if address == "::" else "")
    names = hosts(api_host)
    if _is_name(names):
        servers = [f"server-template copy {MOST_COPIES} {names[0]}:{port}"]
    else:
        servers = [f"server copy{number} {host}" for number, host in enumerate(names, 1)]
    return configuration.replace("FRONT_ADDRESS", front).replace("SERVERS", "\n    ".join(servers))


def prometheus(api_host: str, port: int) -> str:
    """Return the line of prometheus.yml that says where the service is; JSON is YAML."""
    names = hosts(api_host)
    if _is_name(names):
        return f"dns_sd_configs: {json.dumps([{'names': names, 'type': 'A', 'port': port}])}"
    return f"static_configs: {json.dumps([{'targets': names}])}"


def _is_name(names: Sequence[str]) -> bool:
    return len(names) == 1 and ":" not in names[0]


def main() -> None:
    """Write what is asked for; `entrypoint.sh` has set the variables."""
    api_host, port = os.environ.get("API_HOST", ""), int(os.environ["API_PORT"])
    if not hosts(api_host):
        sys.exit("API_HOST is not set: it names the copies of the service")
    if sys.argv[1] == "haproxy":
        sys.stdout.write(haproxy(sys.stdin.read(), api_host, os.environ["BIND_ADDRESS"], port))
    else:
        sys.stdout.write(prometheus(api_host, port))


if __name__ == "__main__":
    main()
