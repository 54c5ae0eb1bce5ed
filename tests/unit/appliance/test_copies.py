from __future__ import annotations

from pathlib import Path

import yaml

from appliance.copies import haproxy, prometheus

CONFIGURATION = (Path(__file__).parents[3] / "haproxy.cfg").read_text()


def servers(configuration: str) -> list[str]:
    return [line.strip() for line in configuration.splitlines() if line.strip().startswith("server")]


def test_one_name_stands_for_all_of_its_addresses() -> None:
    made = haproxy(CONFIGURATION, "api", "0.0.0.0", 8000)
    assert "bind 0.0.0.0:8000\n" in made
    assert "bind [::]:8000 v4v6\n" in haproxy(CONFIGURATION, "api", "::", 8000)
    assert set(servers(made)) == {"server-template copy 32 api:8000"}
    targets = yaml.safe_load(prometheus("api", 8000))
    assert targets == {"dns_sd_configs": [{"names": ["api"], "type": "A", "port": 8000}]}


def test_several_copies_are_named_with_their_ports() -> None:
    made = haproxy(CONFIGURATION, "10.0.0.1:8000, [fd00::2]:8001", "127.0.0.1", 9000)
    assert "bind 127.0.0.1:9000\n" in made
    assert set(servers(made)) == {"server copy1 10.0.0.1:8000", "server copy2 [fd00::2]:8001"}
    targets = yaml.safe_load(prometheus("10.0.0.1:8000, [fd00::2]:8001", 8000))
    assert targets == {"static_configs": [{"targets": ["10.0.0.1:8000", "[fd00::2]:8001"]}]}
