"""How the senders of labels are called: by the name of their key, or by one of these names."""

from __future__ import annotations

from typing import Final

ADMINISTRATOR: Final = "administrator"  # who labels with the administrator's login
TRUSTED: Final = " (admin)"  # ends the name of a sender whose key is of scope admin; no name of a key has a space
NO_SENDER: Final = "before senders"  # of labels that came before senders were noted
