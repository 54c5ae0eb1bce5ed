"""What ``make status`` shows: services as a table, the model, drift, the last retraining, the version in the shadow.

Exit codes: 0 healthy, 1 a service is down or still starting, 3 it does not run. (``make`` turns every code but 0 into
2 and prints the original behind ``Error``.) What lies in files is shown of a stopped appliance too.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Error as XmlRpcError
from xmlrpc.client import ServerProxy

import yaml

from monitoring.health import (
    LONGEST_LOOK,
    TIMEOUT,
    Check,
    Services,
    UnwellError,
    check_all,
    check_drift_monitor,
    given_up,
)
from monitoring.process_usage import usage
from tableloop.figures import error_figure
from tableloop.settings import Settings, as_environment
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy
from tableloop.state.locks import is_held, retraining_lock_holder
from tableloop.state.monitor_report import current_report
from tableloop.state.shadow_evidence import evidence
from tableloop.state.shadows import Shadow
from tableloop.table import params_file

HEALTHY, DEGRADED, STOPPED = 0, 1, 3
HEADER = ("service", "state", "pid", "uptime", "memory", "address")
RIGHT_ALIGNED = ("pid", "uptime", "memory")
WITHOUT_ADDRESS = ("drift-monitor", "watchdog")
TRIGGERS = {
    "start": "the first start",
    "user": "make retrain",
    "drift": "the drift monitor",
    "schedule": "the schedule",
}

Cells = Sequence[str]


@dataclass(frozen=True)
class Program:
    """A process of supervisord: its state in supervisord's words, and what it uses."""

    state: str
    pid: int
    uptime: float
    memory: float


def show(settings: Settings) -> int:
    """Write the state of the appliance to stdout and return the exit code."""
    layout = Layout(settings.state_dir)
    now = time.time()
    if not is_running(layout.root):
        # Compose's file sets API_HOST: there each service is a container, and none holds the state's lock.
        apart = "the services run apart: docker compose ps shows them"
        first = apart if os.environ.get("API_HOST") else "stopped: make up starts it"
        sys.stdout.write("\n".join([first, "", *_facts(settings, None, now)]) + "\n")
        return STOPPED
    services = Services.from_environment(as_environment(settings))
    checks = check_all(services)
    programs = _programs(layout)
    monitor, interval = programs.get("drift-monitor"), settings.drift_interval_seconds
    if monitor and monitor.uptime > interval + LONGEST_LOOK:  # a younger one may be at its first look
        checks["drift-monitor"] = check_drift_monitor(layout.heartbeat, interval)
    has_been_ready = layout.was_ready.exists()
    checks |= {name: Check(up=False, detail=reason) for name, reason in given_up(layout).items()}
    rows, ill = _rows(services, checks, programs, starting=not has_been_ready)
    verdict = ("degraded" if has_been_ready else "starting") + f": {', '.join(ill)}" if ill else "healthy"
    lines = [verdict, "", *_table(rows), "", *_facts(settings, services, now)]
    lines += [f"{name}: {check.detail}" for name, check in checks.items() if not check.up]
    lines += [f"without {name}: {remedy}" for name, remedy in services.missing().items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return DEGRADED if ill else HEALTHY


def is_running(state: Path) -> bool:
    """Return whether an appliance holds the lock of this state."""
    return is_held(Layout(state).run_lock)


def _rows(
    services: Services, checks: Mapping[str, Check], programs: Mapping[str, Program], *, starting: bool
) -> tuple[list[Cells], list[str]]:
    """Return the rows of the table, and the services that are not well."""
    rows: list[Cells] = []
    ill = []
    addresses = services.addresses()
    for name in (*addresses, *WITHOUT_ADDRESS):
        program = programs.get(name)
        if name in services.missing():
            rows.append((name, "missing", "", "", "", ""))
            continue
        # What has no address cannot be asked: it has to run.
        up = name in addresses or (program is not None and program.state == "RUNNING")
        up = up and (name not in checks or checks[name].up)
        state = "up" if up else "starting" if starting else "down"
        if not up:
            ill.append(f"{name} is {state}")
        used = ["", "", ""]
        if program and program.pid:
            memory = f"{program.memory / 1e6:.0f} MB" if program.memory else ""
            used = [str(program.pid), _duration(program.uptime), memory]
        rows.append((name, state, *used, addresses.get(name, "")))
    return rows, ill


def _table(rows: Sequence[Cells]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if title in RIGHT_ALIGNED else f"{cell:<{width}}"
            for cell, width, title in zip(row, widths, HEADER, strict=True)
        ).rstrip()
        for row in (HEADER, *rows)
    ]


def _programs(layout: Layout) -> dict[str, Program]:
    """Return what supervisord knows of its processes, by name; nothing when it does not answer."""
    # Imported here: a stopped appliance needs none of it.
    from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415

    supervisord = ServerProxy(
        "http://localhost", SupervisorTransport(None, None, f"unix://{layout.supervisord_socket}")
    )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # its connection takes no other
    try:
        answer: Any = supervisord.supervisor.getAllProcessInfo()
    except (OSError, HTTPException, XmlRpcError):
        return {}
    finally:
        socket.setdefaulttimeout(before)
    # Every program leads a process group of its own.
    used = usage({info["name"]: info["pid"] for info in answer if info["pid"]})
    memory = {name: figures["memory_bytes"] for name, figures in used.items()}
    return {
        name: Program(info["statename"], info["pid"], info["now"] - info["start"], memory.get(name, 0.0))
        for name, info in ((info["name"], info) for info in answer)
    }


def _facts(settings: Settings, services: Services | None, now: float) -> list[str]:
    """Return the lines about the model, drift, retrainings and the disk."""
    layout = Layout(settings.state_dir)
    facts = {"model": _model(layout, services, now)}
    if problem := _mismatch(services):
        facts["registry"] = problem
    try:
        store = Store.of(settings)
        facts |= {"drift": _drift(store, layout, now), "trained": _retrained(store, now)}
        if shadow := shadows.current(store, settings.model_name):
            facts["shadow"] = _shadow(settings, store, shadow, now)
        if held := retraining_lock_holder(layout, database_url=settings.database_url.get_secret_value()):
            facts["now"] = held
    except StoreError as error:
        facts["store"] = f"the store cannot be read: {error}"
    try:
        facts["state"] = f"{layout.root}, {shutil.disk_usage(layout.root).free / 1e9:.1f} GB free on its disk"
    except OSError:
        facts["state"] = f"{layout.root}, which is not there yet"
    return [f"{name:<9}{text}" for name, text in facts.items()]


def _model(layout: Layout, services: Services | None, now: float) -> str:
    """Return the version that serves; of a service that does not answer, the one that it would start with."""
    try:
        card = services.ask_api("/model") if services else {}
        scores = card["scores"]
        rmse, mae, r2 = (scores.get(f"test_{name}") for name in ("rmse", "mae", "r2"))
        parts = [f"version {card['version']}, {card['family']}"]
        parts += [f"test RMSE {error_figure(rmse)}, MAE {error_figure(mae)}, R² {r2:.3f}"] if rmse is not None else []
        parts += [_registered(card.get("registered_at"), now), f"from the {card['source']}, {card['engine']}"]
    except (UnwellError, KeyError, TypeError, ValueError):
        try:
            copy = local_copy(layout)
        except ValueError as error:
            return str(error)
        if copy is None:
            return "none yet"
        parts = [f"version {copy.version}", _registered(copy.registered_at, now), "kept as the service's local copy"]
    return "; ".join(part for part in parts if part)


def _mismatch(services: Services | None) -> str:
    """Return why the version that serves is not the registry's; empty when it is, or that is not known."""
    try:
        ready = services.ask_api("/ready") if services else {}
    except UnwellError:  # the service's own line says so
        return ""
    return str(ready["detail"]) if ready.get("matches_registry") is False else ""


def _registered(at: str | None, now: float) -> str:
    return f"registered {_ago(at, now)}" if at else ""


def _drift(store: Store, layout: Layout, now: float) -> str:
    report = current_report(store, layout)
    if report is None:
        return "no check yet"
    monitor = report["monitor"]
    text = f"{report['status']}: {report['summary']}; last look {_ago(monitor.get('looked_at'), now)}"
    if (waits := monitor.get("waits_for")) and not monitor["retraining"]:
        text += f"\n{'':<9}before it retrains it waits for {', '.join(waits)}"
    return text


def _retrained(store: Store, now: float) -> str:
    """Return how the last retraining that has ended did so."""
    last = next((item for item in store.retrainings(2) if item.ended_at is not None), None)
    if last is None or last.ended_at is None:
        return "never"
    version = f" version {last.version}" if last.version else ""
    begun = TRIGGERS.get(last.trigger, last.trigger)
    return f"{_duration(now - last.ended_at)} ago by {begun}: {last.outcome}{version}; {last.reason}"


def _shadow(settings: Settings, store: Store, shadow: Shadow, now: float) -> str:
    """Return what the version in the shadow has scored, what labels say of it by now, and what it waits for."""
    number = shadow.version
    parts = [f"{shadow.scored:,} predictions scored"]
    serving = store.serving_champion(settings.model_name)
    gate = yaml.safe_load(params_file().read_text())["preprocess"]
    found = evidence(store, shadow, serving.version, gate.get("gate_share", 1.0)) if serving else None
    if serving and found and found.rows:
        own, other = shadows.errors(found.rows)
        parts.append(f"{len(found.rows):,} labels judge it")
        parts.append(f"RMSE {error_figure(own)} against {error_figure(other)} of version {serving.version}")
    else:
        parts.append(str(found) if found and found.came else "no labels of them yet")
    if shadow.failures > 1:  # a look that is under way counts as one
        parts.append(f"it cannot score: {shadow.problem}")
    waits = f"it waits for make promote VERSION={number} or make reject VERSION={number}"
    if settings.promote == "shadow":
        latest = datetime.fromtimestamp(shadow.began_at + settings.shadow_days * 86_400, UTC)
        waits = f"it stays until labels have judged it, at most until {latest:%Y-%m-%d %H:%M} UTC"
    return f"version {number} since {_duration(now - shadow.began_at)}: {', '.join(parts)}\n{'':<9}{waits}"


def _ago(at: object, now: float) -> str:
    try:
        return f"{_duration(now - datetime.fromisoformat(str(at)).timestamp())} ago"
    except ValueError:
        return "at an unknown time"


def _duration(seconds: float) -> str:
    """Return seconds in the two units that matter, such as ``2 h 5 m``."""
    minutes, s = divmod(max(0, int(seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{h} h {m} m"
    return f"{m} m {s} s" if minutes else f"{s} s"
