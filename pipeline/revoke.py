"""Take labels out of all later trainings: ``python -m pipeline.revoke`` with at least one condition, ``make revoke``.

The labels stay in the store and in their batches, with who revoked them and why, so a version that learnt from them
can still be reproduced. The next retraining neither learns from them nor is judged by them. Exit codes: 0 done, 1 no
label meets the conditions, 2 a condition cannot be read, 3 a retraining runs.
"""

from __future__ import annotations

import argparse
import sys

from tableloop.environment import user
from tableloop.moments import moment
from tableloop.settings import RegistrySettings
from tableloop.state.database import Revoked, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock


def describe(revoked: Revoked) -> str:
    """Return in one line whose labels they are, and whether a version may have learnt from them."""
    count = sum(revoked.by_sender.values())
    named = ", ".join(f"{name} {number:,}" for name, number in sorted(revoked.by_sender.items()))
    advice = (
        f"; {revoked.in_batches:,} of them were taken for trainings: make retrain makes a version without them"
        if revoked.in_batches
        else ""
    )
    return f"{count:,} labels ({named}){advice}"


def main() -> int:
    """Revoke once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Take labels out of all later trainings.")
    parser.add_argument("--sender", help="of this key, of administrator, or of 'before senders'")
    parser.add_argument("--since", type=moment, help="received at this time or later, such as 2026-11-25T08:00")
    parser.add_argument("--until", type=moment, help="received before this time")
    parser.add_argument("--batch", help="of this batch: the name of its file in data/feedback of the workspace")
    parser.add_argument("--reason", default="", help="why, for whoever looks at it later")
    parser.add_argument("--dry-run", action="store_true", help="say what it would revoke")
    arguments = parser.parse_args()
    conditions = {name: getattr(arguments, name) for name in ("sender", "since", "until", "batch")}
    if all(value is None for value in conditions.values()):
        sys.stderr.write("nothing revoked: which labels? make revoke with SENDER=, SINCE=, UNTIL= or BATCH=\n")
        return 1
    settings = RegistrySettings()
    try:
        with retraining_lock(
            Layout(settings.state_dir), "a revocation", database_url=settings.database_url.get_secret_value()
        ):
            revoked = Store.of(settings).revoke_labels(
                user(), arguments.reason, **conditions, dry_run=arguments.dry_run
            )
    except (BusyError, StoreError) as error:
        sys.stderr.write(f"nothing revoked: {error}\n")
        return BUSY if isinstance(error, BusyError) else 1
    if not revoked.by_sender:
        sys.stderr.write("nothing revoked: no label meets these conditions, or all that do were revoked before\n")
        return 1
    sys.stdout.write(f"{'would revoke' if arguments.dry_run else 'revoked'} {describe(revoked)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
