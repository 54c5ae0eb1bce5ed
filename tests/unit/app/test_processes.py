"""What processes of the service know of each other."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values

from app.metrics import HttpMetrics
from app.processes import Processes
from app.uploads import Uploads


def in_another_process(do: Callable[[], None]) -> None:
    """Fork, as the parent does, and wait for the end."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_what_addresses_hold_is_the_sum_of_all_processes_until_one_is_started_anew() -> None:
    processes = Processes(2)
    held = processes.held()

    def hold() -> None:
        processes.number = 1
        held.add("10.0.0.1", 3)
        held.add("10.0.0.2", 1)

    in_another_process(hold)
    processes.number = 0
    held.add("10.0.0.1", 2)
    assert (held.of("10.0.0.1"), held.of("10.0.0.2"), held.of("10.0.0.3"), held.total()) == (5, 1, 0, 6)
    held.forget(1)
    assert (held.of("10.0.0.1"), held.total()) == (2, 2)


def test_a_process_waits_for_a_model_while_another_has_one() -> None:
    processes = Processes(2)
    processes._parent = os.getppid()  # as if this one were forked from it
    models: list[str] = []

    async def turn(*, loads: bool) -> float:
        started = time.monotonic()
        asyncio.get_running_loop().call_later(0.3, models.append, "a model")
        await processes.turn(lambda: bool(models), lambda: loads)
        return time.monotonic() - started

    processes.number = 0
    assert asyncio.run(turn(loads=False)) < 0.2  # nobody has one: it says so to those who ask
    assert (processes.taking, processes.others_have_models) == (1, True)
    processes.number = 1
    assert not processes.others_have_models
    models.clear()
    assert asyncio.run(turn(loads=True)) > 0.2
    processes.number = 0
    models.clear()
    assert asyncio.run(turn(loads=False)) > 0.2
    assert (processes.taking, processes.others_have_models) == (2, True)


def test_the_files_of_counters_are_there_before_anybody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # both are set, and have to be as before
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    processes = Processes(2)
    HttpMetrics(processes.counters(CollectorRegistry()))
    sizes = {file.name: file.stat().st_size for file in Path(processes._directory).iterdir()}
    kinds = {name.partition("_")[0] for name in sizes}
    assert {f"{kind}_{number}.db" for kind in kinds for number in range(2)} <= sizes.keys()
    assert all(sizes.values())


def test_one_process_needs_none_of_it() -> None:
    processes, registry = Processes(), CollectorRegistry()
    assert processes.counters(registry) is registry
    asyncio.run(processes.turn(lambda: False, lambda: True))
    assert (processes.taking, processes.others_have_models, processes.stops()) == (1, True, False)
    with processes.lock("anything"), Uploads(processes).one_of("10.0.0.1"):
        pass
