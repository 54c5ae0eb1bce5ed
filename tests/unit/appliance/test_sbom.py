"""The list of what is in the image."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version


def test_the_list_is_cyclonedx_and_names_packages_with_their_versions() -> None:
    done = subprocess.run([sys.executable, "-m", "appliance.sbom"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in document["components"]}
    assert components["mlflow"] == {
        "type": "library",
        "name": "mlflow",
        "version": version("mlflow"),
        "purl": f"pkg:pypi/mlflow@{version('mlflow')}",
        "bom-ref": f"pkg:pypi/mlflow@{version('mlflow')}",
    }
    references = [component["bom-ref"] for component in document["components"]]
    assert len(set(references)) == len(references)
