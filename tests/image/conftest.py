"""One image, one trained volume: everything else starts from a copy of it."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.image.docker import HARDENED, PROGRAMS, Container, docker

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "tableloop:test"
LONGEST_START = 300  # seconds; that a start is quick has tests of its own


@dataclass(frozen=True)
class FirstStart:
    """What was seen of a container that met an empty volume, without a network."""

    image: str
    volume: str
    seconds: float
    console: str
    changes: str
    memory: int
    processes: dict[str, tuple[str, str, str]]
    model: str


@pytest.fixture(scope="session")
def image() -> str:
    if docker("info", check=False).returncode:
        pytest.exit("no Docker engine answers: make test-image needs one", returncode=3)
    docker("build", "--tag", IMAGE, str(ROOT), timeout=1800)
    return IMAGE


@pytest.fixture(scope="session")
def volumes(image: str) -> Iterator[Callable[..., str]]:
    """Make volumes, empty or as a copy of another; all are removed at the end."""
    made: list[str] = []

    def make(source: str = "") -> str:
        name = f"tableloop-test-{uuid.uuid4().hex[:10]}"
        docker("volume", "create", name)
        made.append(name)
        if source:
            mounts = ["--volume", f"{source}:/from:ro", "--volume", f"{name}:/to"]
            docker("run", "--rm", "--user", "0", "--entrypoint", "cp", *mounts, image, "-a", "/from/.", "/to/")
        return name

    yield make
    for name in made:
        docker("volume", "rm", "--force", name, check=False)


@pytest.fixture
def run(image: str) -> Iterator[Callable[..., Container]]:
    """Start containers of the image; they are removed at the end of the test."""
    containers: list[Container] = []

    def start(options: Sequence[str] = (), command: Sequence[str] = ()) -> Container:
        containers.append(Container(image, options, command))
        return containers[-1]

    yield start
    for container in containers:
        container.remove()


@pytest.fixture(scope="session")
def first_start(image: str, volumes: Callable[..., str]) -> FirstStart:
    volume = volumes()
    container = Container(image, [*HARDENED, "--volume", f"{volume}:/data"])
    try:
        seconds = container.wait_ready(LONGEST_START)
        seen = FirstStart(
            image=image,
            volume=volume,
            seconds=seconds,
            console=container.logs(),
            changes=docker("diff", container.name).stdout,
            memory=_memory(container),
            processes=container.processes(),
            model=container.exec("cat", "/data/champion/current.json"),
        )
        docker("stop", container.name)
    finally:
        container.remove()
    return seen


@pytest.fixture
def trained(run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart) -> Container:
    """A ready container on a copy of the trained volume, with nothing in the way and no network."""
    container = run([*HARDENED, "--volume", f"{volumes(first_start.volume)}:/data"])
    container.wait_ready(60)
    return container


@pytest.fixture(scope="session")
def appliances(image: str, volumes: Callable[..., str], first_start: FirstStart) -> Iterator[dict[str, Container]]:
    """A container like `trained` in which a test makes programs fail; each test leaves it healthy."""
    mounts = {program: f"{volumes(first_start.volume)}:/data" for program in PROGRAMS}
    containers = {program: Container(image, [*HARDENED, "--volume", mount]) for program, mount in mounts.items()}
    try:
        for container in containers.values():
            container.wait_ready(LONGEST_START)
        yield containers
    finally:
        for container in containers.values():
            container.remove()


@pytest.fixture
def appliance(appliances: dict[str, Container]) -> Container:
    """One of them, for whatever leaves it healthy."""
    return appliances["api"]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Write a figure to the console, also of a test that passes."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return write


@pytest.fixture
def small_params(tmp_path: Path) -> Path:
    """A params.yaml with the quickest candidates only, for tests that are not about the model."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"]["candidates"] = {"linear": {}, "hist_gradient_boosting": {"max_iter": 20, "features": {}}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    return readable(file)


def readable(file: Path) -> Path:
    """Return a file that any user in a container can read."""
    file.chmod(0o644)
    file.parent.chmod(0o755)
    return file


def _memory(container: Container) -> int:
    """Return the proportional set size of all processes but Grafana's, in bytes."""
    script = (
        "import pathlib, re\n"
        "total = 0\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/smaps_rollup'):\n"
        "    try:\n"
        "        if not (p.parent / 'cmdline').read_bytes().startswith(b'grafana'):\n"
        "            total += int(re.search(r'Pss: +([0-9]+)', p.read_text())[1])\n"
        "    except (OSError, TypeError): pass\n"
        "print(total * 1024)\n"
    )
    return int(container.exec("python", "-c", script, user="10001:0"))
