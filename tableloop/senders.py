"""How the senders of labels are called, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Others have the name of their key.
ADMINISTRATOR: Final = "administrator"  # who labels with the administrator's login
TRUSTED: Final = " (admin)"  # ends the name of a sender whose key is of scope admin; no name of a key has a space
NO_SENDER: Final = "before senders"  # of labels that came before senders were noted


def is_trusted(sender: str) -> bool:
    """Return whether no share bounds a sender: the administrator, keys of scope admin, and who sent old labels."""
    return sender in {ADMINISTRATOR, NO_SENDER} or sender.endswith(TRUSTED)


def bounded(counts: Mapping[str, int], share: float, others: int = 0) -> dict[str, int]:
    """Return how many rows of each sender stay when none has more than a share of them and the others.

    Of those whom no share bounds, all stay.
    """
    trusted = {sender: count for sender, count in counts.items() if is_trusted(sender)}
    kept = {sender: count for sender, count in counts.items() if sender not in trusted}
    others += sum(trusted.values())
    while kept:  # each sender that shrinks makes the whole smaller, and the share with it
        most = int(share * (others + sum(kept.values())))
        if max(kept.values()) <= most:
            break
        kept = {sender: min(count, most) for sender, count in kept.items()}
    return trusted | kept
