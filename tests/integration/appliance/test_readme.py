"""The README's example of a request, as it stands."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.integration.conftest import ROOT, Appliance

TRUE_VALUE = 4.526  # of the block group that the README asks for, the first row of the table


def test_the_curl_of_the_readme_gives_the_answer_of_the_readme(running: Appliance) -> None:
    text = (ROOT / "README.md").read_text()
    command, printed = re.findall(r"```bash\n(curl .*?)```\s+```json\n(.*?)```", text, re.DOTALL)[0]
    command = command.replace("localhost:8000", f"localhost:{running.ports['API_PORT']}")
    answer = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)
    expected = json.loads(printed)
    assert answer.keys() == expected.keys()
    value = answer["predicted_median_house_value"]
    assert value == pytest.approx(expected["predicted_median_house_value"], rel=1e-3)
    assert value == pytest.approx(TRUE_VALUE, rel=0.05)
    assert answer["interval"] == pytest.approx(expected["interval"], rel=1e-3)
