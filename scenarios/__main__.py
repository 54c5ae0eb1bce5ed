"""Play a story to the running appliance: ``python -m scenarios [drift|steady|burst|shadow]``.

The service is asked about rows that no version was trained on, and their labels come some seconds later. Of a table
with few rows it is asked about all but a few, which are kept for the end of the story.

- ``drift``: what `table.yaml` says under ``story`` happens, or where it says nothing, more questions come from where
  the values are high, and these move (`scenarios.story`). Nobody calls a retraining: the drift monitor has
  to see the change and train, and the gate to promote. The story ends well (exit code 0) when a new version serves,
  its live RMSE is at most `stories.GOAL` of the former one's after the change, and no request failed. It is refused
  at once where the drift monitor could not retrain in time.
- ``steady``: nothing changes for three minutes, and nothing may be retrained.
- ``shadow``: wrong labels come, and later the market changes; each time one retrains. In the shadow, the version that
  learnt from the wrong labels has to be rejected, and the other one promoted. It needs PROMOTE=shadow.
- ``burst``: short bursts of as many requests as four connections carry.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from functools import partial

import pandas as pd

from monitoring.drift_check import load_policy
from pipeline.workspace import ROOT
from scenarios.market import KEPT, Market, split_rows
from scenarios.record import Record, draw
from scenarios.stories import STORIES
from scenarios.traffic import UNANSWERED, Connection, Traffic
from scenarios.watcher import Watcher, not_in_the_shadow, obstacle
from tableloop.credentials import NoPasswordError, basic, read_password
from tableloop.host_names import own_host
from tableloop.settings import Settings, load_settings
from tableloop.state.layout import Layout
from tableloop.table import Table, load_table


def play(name: str, table: Table, settings: Settings) -> int:
    """Play one story, and return the exit code."""
    record, host = Record(), own_host(settings.bind_address)
    try:
        service = Connection(host, settings.api_port, certificate=settings.tls_cert)
        watcher = Watcher(service, Connection(host, settings.prometheus_port), record)
    except UNANSWERED as error:
        return _fail(f"the service does not answer on port {settings.api_port} ({error}); make up starts it")
    if name == "drift" and (problem := obstacle(watcher.before, time.time())):
        return _fail(problem)
    if name == "shadow" and (problem := not_in_the_shadow(watcher.before)):
        return _fail(problem)
    try:
        login = basic(read_password(Layout(settings.state_dir).admin_password))
    except NoPasswordError as error:
        return _fail(str(error))
    asking = partial(Connection, host, settings.api_port, login, settings.tls_cert)
    parts = split_rows(table)
    few = len(parts["test"]) * (1 - KEPT) < 2 * load_policy().window  # the drift monitor would see rows again
    market = Market(parts["test"], table, pd.concat([parts["train"], parts["validation"]]) if few else None)
    with Traffic(asking, table, market, record) as traffic:
        problems = STORIES[name](table, record, traffic, watcher)
    if record.failures:
        problems.append(f"{len(record.failures)} requests failed, the first: {record.failures[0]}")
    file = Layout(settings.state_dir).simulations / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}.png"
    draw(record, name, table.target.unit_words, file)
    count = len(record.answers)
    record.tell(f"{count:,} predictions, {len(record.failures)} failed; a picture of the story: {file}")
    return _fail(*problems) if problems else 0


def _fail(*problems: str) -> int:
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1


def main() -> None:
    """Play the story that the argument names."""
    parser = argparse.ArgumentParser(prog="python -m scenarios", description="Play a story to a running appliance.")
    parser.add_argument("story", nargs="?", default="drift", choices=STORIES)
    arguments = parser.parse_args()
    settings = load_settings()
    os.chdir(ROOT)
    sys.exit(play(arguments.story, load_table(), settings))


if __name__ == "__main__":
    main()
