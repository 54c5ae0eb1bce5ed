"""How fast the service is beside others that serve the same model: ``python -m bench.serving``, some three minutes.

Four servers take turns on one core, round after round, with the load from another core: the service with everything
on (validation, intervals, committed log, metrics), an endpoint of the same web framework and schema that predicts
nothing, ``mlflow models serve``, and the model as a pyfunc behind FastAPI. No row is sent twice in a row. The model
is the version that serves in STATE_DIR; the servers have free ports and their state in a temporary directory.
The table is written to bench/README.md. ``--former`` adds the service of another checkout, with a model of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]

from appliance.binaries import RUNTIME, UnavailableError, unpack_debian_package
from bench.scorer import varied
from pipeline.stage_runner import raw_data
from tableloop.model.conformal import as_matrix
from tableloop.model.onnx_scorer import Matrix, Scorer
from tableloop.settings import load_settings
from tableloop.signing import SigningKey
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy
from tableloop.table import load_table
from tableloop.version_files import SCORER

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "bench" / "README.md"
BEGIN, END = "<!-- bench/serving.py writes from here -->", "<!-- to here -->"
OURS, EMPTY, MLFLOW, PYFUNC = "this service", "empty endpoint", "mlflow models serve", "pyfunc in FastAPI"
FORMER = "former commit"
POSTGRES = "this service with PostgreSQL"
CONNECTIONS = (1, 16, 64)
BATCHES = {1: 50, 100: 20, 10_000: 5}  # rows: calls, of which the median counts
WARM_UP_SECONDS = 1
ROWS = 5_000
MIB = 1024**2

# wrk sends the bodies of a file one after the other, and prints what it measured as JSON.
KEY = "tableloop-bench"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
LUA = """
local bodies, n = {}, 0
for line in io.lines(os.getenv("BENCH_BODIES")) do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
function request()
  n = n % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[n])
end
function done(summary, latency)
  local e = summary.errors
  print(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status + e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Server:
    """How to start a server, and how to ask it for one row or for many; what it runs and serves, if not ours."""

    name: str
    command: Callable[[int], list[str]]
    one: str
    many: str
    one_body: Callable[[Matrix], Any]
    many_body: Callable[[Matrix], Any]
    ready: str
    root: Path = ROOT
    model: Path | None = None
    keys: str = ""
    database_url: str = ""


@dataclass(frozen=True)
class Running:
    """A server that has been started, and the directory with what belongs to the run."""

    server: Server
    port: int
    process: psutil.Process
    scratch: Path


@dataclass(frozen=True)
class Load:
    """What one run of wrk measured; milliseconds, and microseconds of the server's processor for a request."""

    rate: float
    p50: float
    p99: float
    processor: float


@dataclass
class Result:
    """What one server showed: rates by connections, milliseconds by rows of a batch, MiB of memory."""

    loads: dict[int, Load]
    batches: dict[int, float]
    memory: float


def main() -> None:
    """Measure all servers, print the table and write it to bench/README.md."""
    options = _options()
    model = model_directory(options.model)
    wrk = find_wrk()
    table = load_table()
    raw = as_matrix(pd.read_csv(raw_data(table)), table.feature_names)
    rows = varied(raw, max(ROWS, *BATCHES))
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {load_core})
    database_url = os.environ["DATABASE_URL"] if options.postgres else ""
    compared = servers(options.former, options.former_model, keys=options.keys, database_url=database_url)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        scratch = Path(directory)
        with ExitStack() as stack:
            running = [
                stack.enter_context(started(server, model, scratch / str(number), {server_core}))
                for number, server in enumerate(compared)
            ]
            results = _measure(running, rows, wrk, options)
        lines = _report(results, len(cores))
        if options.file_rows:
            lines += _file_report(model, raw, options.file_rows, scratch / "file", server_core)
    text = "\n".join(lines)
    sys.stdout.write(f"\n{text}\n")
    if not options.dry:
        write(text, BEGIN, END)


def _measure(running: Sequence[Running], rows: Matrix, wrk: str, options: argparse.Namespace) -> dict[str, Result]:
    """Return what each server showed in its median round: they take turns, so that all see the same machine."""
    for one in running:
        (one.scratch / "bodies").write_text(_bodies(one.server, rows[:ROWS]))
        wrk_run(wrk, one, connections=16, seconds=WARM_UP_SECONDS)
    loads: defaultdict[tuple[str, int], list[Load]] = defaultdict(list)
    for count in CONNECTIONS:
        for _ in range(options.rounds):
            for one in running:
                load = wrk_run(wrk, one, count, options.seconds)
                loads[one.server.name, count].append(load)
                sys.stdout.write(f"{one.server.name}: {load.rate:,.0f}/s ({load.processor:,.0f} µs) at {count}\n")
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for size, calls in BATCHES.items():
        for call in range(calls):
            for one in running:
                times[one.server.name, size].append(_batch_time(one, rows, size, call))
    return {
        name: Result(
            {count: sorted(loads[name, count], key=attrgetter("rate"))[options.rounds // 2] for count in CONNECTIONS},
            {size: statistics.median(times[name, size]) for size in BATCHES},
            memory_of(one.process),
        )
        for name, one in ((one.server.name, one) for one in running)
    }


def single_rows(server: Server) -> str:
    """Return bodies of single rows, one a line, no two alike."""
    table = load_table()
    return _bodies(server, varied(as_matrix(pd.read_csv(raw_data(table)), table.feature_names), ROWS))


def _bodies(server: Server, rows: Matrix) -> str:
    return "".join(json.dumps(server.one_body(row)) + "\n" for row in rows[:, None])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving")
    parser.add_argument("--model", type=Path, help="directory of an MLflow model with its scorer")
    parser.add_argument("--former", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--former-model", type=Path, metavar="DIRECTORY", help="the version that it serves")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk (3)")
    parser.add_argument("--rounds", type=int, default=3, help="in which the servers take turns (3)")
    parser.add_argument("--file-rows", type=int, default=1_000_000, help="rows of the Parquet file; 0: no file")
    parser.add_argument("--keys", action="store_true", help="the service asks for a key, and gets it")
    parser.add_argument("--postgres", action="store_true", help="also the service with its store at DATABASE_URL")
    parser.add_argument("--dry", action="store_true", help="print only, leave bench/README.md alone")
    options = parser.parse_args()
    if (options.former is None) != (options.former_model is None):
        parser.error("--former and --former-model belong together")
    return options


def model_directory(given: Path | None) -> Path:
    """Return the directory of the version that is measured."""
    layout = Layout(load_settings().state_dir)
    copy = None if given else local_copy(layout)
    model = given or (copy.directory if copy else layout.champion)
    if not (model / "MLmodel").exists():
        sys.exit(f"there is no model in {model}: run make up once, or name one by --model")
    return model


def find_wrk() -> str:
    """Return the load generator: from PATH, or from Debian's package, unpacked into .runtime/."""
    if found := shutil.which("wrk"):
        return found
    fetched = RUNTIME / "wrk" / "usr" / "bin" / "wrk"
    if not fetched.exists():
        RUNTIME.mkdir(exist_ok=True)
        try:
            unpack_debian_package("wrk", RUNTIME / "wrk")
        except UnavailableError as error:
            sys.exit(f"wrk is not on PATH, and Debian's package cannot be had ({error}): apt install wrk, try again")
    return str(fetched)


def servers(
    former: Path | None = None, former_model: Path | None = None, *, keys: bool = False, database_url: str = ""
) -> list[Server]:
    """Return the servers that are compared, this service first."""
    names = load_table().feature_names

    def records(rows: Matrix) -> list[dict[str, float]]:
        return [dict(zip(names, row, strict=True)) for row in rows.tolist()]

    def record(rows: Matrix) -> dict[str, float]:
        return records(rows)[0]

    def split(rows: Matrix) -> dict[str, Any]:
        return {"dataframe_split": {"columns": names, "data": rows.tolist()}}

    def uvicorn(name: str) -> Callable[[int], list[str]]:
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return lambda port: [*_python("uvicorn"), f"bench.servers:{name}", "--port", str(port), *options]

    def mlflow(port: int) -> list[str]:
        options = ["--model-uri", "model", "--env-manager", "local", "--port", str(port)]
        return [*_python("mlflow"), "models", "serve", *options]

    api = ("/predict", "/predict/batch", record, records)
    ours = Server(OURS, lambda _: _python("app.main"), *api, "/ready")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    servers = [
        replace(ours, keys=f"bench:predict:{digest}" if keys else ""),
        Server(EMPTY, uvicorn("empty"), *api, "/openapi.json"),
        Server(MLFLOW, mlflow, "/invocations", "/invocations", split, split, "/ping"),
        Server(PYFUNC, uvicorn("pyfunc"), *api, "/openapi.json"),
    ]
    if database_url:
        servers.append(replace(ours, name=POSTGRES, database_url=database_url))
    if former is not None:
        root = former.resolve()
        interpreter = root / ".venv" / "bin" / "python"
        command = [str(interpreter if interpreter.exists() else sys.executable), "-m", "app.main"]
        servers.append(replace(ours, name=FORMER, command=lambda _: command, root=root, model=former_model))
    return servers


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


@contextmanager
def started(server: Server, model: Path, scratch: Path, cores: set[int]) -> Iterator[Running]:
    """Start a server on these cores in a directory of its own, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    layout = Layout(scratch / "state")
    scratch.mkdir(exist_ok=True)
    (scratch / "data").symlink_to(server.root / "data")  # a former commit may read the table there
    for copy in (layout.champion / "model", scratch / "model"):
        shutil.copytree(server.model or model, copy)  # mlflow models serve refuses a link
    pointer = {"version": "1", "directory": "model", "run_id": "bench"}
    layout.champion_pointer.write_text(json.dumps(pointer))
    if (server.root / "tableloop" / "signing.py").exists():  # a former commit may know no signatures
        key = SigningKey.new()
        key.keep(layout.signing_key)
        key.sign(layout.champion / "model", pointer["run_id"])
    (scratch / "wrk.lua").write_text(LUA.replace("%s", KEY, 1))
    settings = {
        "STATE_DIR": layout.root,
        "API_KEYS": server.keys,
        "API_PORT": port,
        "DATABASE_URL": server.database_url,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # the service starts from its local copy
        "BENCH_MODEL": scratch / "model",
        "PYTHONPATH": server.root,
        "OMP_NUM_THREADS": 1,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (scratch / "server.log").open("wb") as log:
        process = subprocess.Popen(
            server.command(port),
            cwd=scratch,
            env=os.environ | {name: str(value) for name, value in settings.items()},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509 - no threads have been started
        )
    try:
        _wait(server, port, process, scratch / "server.log")
        yield Running(server, port, psutil.Process(process.pid), scratch)
    finally:
        members = _tree(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def _wait(server: Server, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            if _ask(port, "GET", server.ready)[0] == 200:
                return
        time.sleep(0.2)
    sys.exit(f"{server.name} does not answer:\n{log.read_text()[-2000:]}")


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request(method, path, body, HEADERS if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _processor_seconds(process: psutil.Process) -> float:
    return sum(sum(member.cpu_times()[:2]) for member in _tree(process.pid))


def memory_of(process: psutil.Process) -> float:
    """Return the MiB of memory (PSS) of a process and those that it has started."""
    return float(sum(member.memory_full_info().pss for member in _tree(process.pid)) / MIB)


def wrk_run(wrk: str, running: Running, connections: int, seconds: int) -> Load:
    """Return what wrk measures in so many seconds."""
    before = _processor_seconds(running.process)
    output = subprocess.run(
        [
            *(wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"),
            *("-s", "wrk.lua", f"http://127.0.0.1:{running.port}{running.server.one}"),
        ],
        cwd=running.scratch,
        env=os.environ | {"BENCH_BODIES": "bodies"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    measured = json.loads(output.splitlines()[-1])
    if measured["errors"]:
        sys.exit(f"{running.server.name}: {measured['errors']} of {measured['requests']} requests failed")
    return Load(
        measured["requests"] / measured["seconds"],
        measured["p50"],
        measured["p99"],
        (_processor_seconds(running.process) - before) / max(measured["requests"], 1) * 1e6,
    )


def _batch_time(running: Running, rows: Matrix, size: int, call: int) -> float:
    """Return the milliseconds of a list of rows, other ones for each call, the answer read to its end."""
    server = running.server
    chosen = rows[(np.arange(size) + call * size) % len(rows)]
    body = json.dumps(server.many_body(chosen)).encode()
    start = time.perf_counter()
    status, answer = _ask(running.port, "POST", server.many, body)
    seconds = time.perf_counter() - start
    if status != 200:
        sys.exit(f"{server.name} answers {status} for {size} rows: {answer[:300]!r}")
    return seconds * 1e3


def _file_report(model: Path, raw: Matrix, count: int, scratch: Path, core: int) -> list[str]:
    """Return how a Parquet file goes through the service, beside the scorer alone on the same core."""
    scratch.mkdir()
    rows, answered = scratch / "rows.parquet", scratch / "answer.parquet"
    pd.DataFrame(varied(raw, count), columns=list(load_table().feature_names)).to_parquet(rows)
    alone = _scorer_rate(model, raw, core)
    service = servers()[0]
    with started(service, model, scratch, {core}) as running:
        _ask(running.port, "POST", service.one, json.dumps(service.one_body(raw[:1])).encode())
        before = peak = running.process.memory_info().rss
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=600)
        with rows.open("rb") as file:
            headers = {"Content-Type": "application/vnd.apache.parquet", "Content-Length": str(rows.stat().st_size)}
            connection.request("POST", service.many, file, headers)
        answer = connection.getresponse()
        with answered.open("wb") as target:
            while part := answer.read(MIB):
                target.write(part)
                peak = max(peak, running.process.memory_info().rss)
        seconds = time.perf_counter() - start
        received = len(pd.read_parquet(answered, columns=["low"])) if answer.status == 200 else 0
    if received != count:
        sys.exit(f"{received} of {count} rows of the file were answered (status {answer.status})")
    rate = count / seconds
    return [
        "",
        f"A Parquet file of {count:,} rows through `/predict/batch`: {rate:,.0f} rows/s, which is "
        f"{rate / alone:.2f} of the scorer alone on the same core ({alone:,.0f} rows/s); resident memory "
        f"grew by {(peak - before) / MIB:.0f} MiB.",
    ]


def _scorer_rate(model: Path, raw: Matrix, core: int) -> float:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    scorer, rows = Scorer.load(model / SCORER), varied(raw, 20_000)
    start = time.perf_counter()
    scorer.predict(rows)
    seconds = time.perf_counter() - start
    os.sched_setaffinity(0, own)
    return len(rows) / seconds


def _report(results: dict[str, Result], cores: int) -> list[str]:
    one = [
        [name, count, f"{load.rate:,.0f}", f"{load.p50:.2f}", f"{load.p99:.2f}", f"{load.processor:,.0f}"]
        for name, result in results.items()
        for count, load in result.loads.items()
    ]
    many = [
        [name, *(f"{result.batches[size]:,.1f}" for size in BATCHES), f"{result.memory:.0f}"]
        for name, result in results.items()
    ]
    ours, others = results[OURS], [results[name] for name in (EMPTY, MLFLOW, PYFUNC)]
    ratios = [
        [
            count,
            *(f"{ours.loads[count].rate / other.loads[count].rate:.2f}" for other in others),
            f"{ours.loads[count].p99 / results[EMPTY].loads[count].p99:.1f}",
        ]
        for count in CONNECTIONS
    ]
    sizes = [f"{size:,} row{'s' * (size > 1)}" for size in BATCHES]
    times = [f"{results[MLFLOW].batches[size] / ours.batches[size]:.1f}" for size in BATCHES]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {cores} cores, Python {platform.python_version()}, load "
        f"average {os.getloadavg()[1]:.1f}. Single rows; latencies in milliseconds; the last column is the processor "
        "time that the server used for a request, in microseconds.",
        "",
        *as_table(["server", "connections", "requests/s", "p50", "p99", "processor"], one),
        "",
        "This service against the others, requests/s; and its p99 by the empty endpoint's:",
        "",
        *as_table(["connections", EMPTY, MLFLOW, PYFUNC, "p99"], ratios),
        "",
        "Lists of rows, milliseconds from the first byte sent to the last one read; memory (PSS) in MiB:",
        "",
        *as_table(["server", *sizes, "memory"], many),
        "",
        f"{MLFLOW} takes {', '.join(times)} times as long as this service for {', '.join(sizes)}.",
    ]
    if POSTGRES in results:
        stored = results[POSTGRES]
        rates = ", ".join(f"{stored.loads[count].rate / ours.loads[count].rate:.2f}" for count in CONNECTIONS)
        lines += [
            "",
            f"Its store in PostgreSQL: requests/s at {', '.join(map(str, CONNECTIONS))} connections {rates}.",
        ]
    if FORMER in results:
        former = results[FORMER]
        rates = ", ".join(f"{ours.loads[count].rate / former.loads[count].rate:.2f}" for count in CONNECTIONS)
        lines += [
            "",
            f"This service by the {FORMER}: requests/s at {', '.join(map(str, CONNECTIONS))} connections {rates}; "
            f"milliseconds of {sizes[-1]} {ours.batches[10_000] / former.batches[10_000]:.2f}; "
            f"memory {ours.memory / former.memory:.2f}.",
        ]
    return lines


def as_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [header, ["---", *(["---:"] * (len(header) - 1))], *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def processor() -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.machine()


def write(text: str, begin: str, end: str) -> None:
    """Replace what stands between two lines of bench/README.md."""
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()
