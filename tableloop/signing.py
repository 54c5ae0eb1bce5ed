"""The signature of a version, which proves that this appliance has registered these files for this run.

It is an HMAC-SHA256 (RFC 2104) of the version's manifest, which has the digest of every other file, and of the run
that the registry names for the version. The key lies in ``STATE_DIR/secrets`` and is in no backup and no registry. So
whoever can write to the registry can neither change a version nor register one that anybody here would use.

Who verifies can also sign: all processes of an appliance run as one user and read the same directory, where a key
pair would protect nothing more. The package ``model-signing`` was considered: it needs 27 further packages, most of
them for a public ledger of signatures that a machine without a network cannot ask.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from tableloop.credentials import write_secret
from tableloop.model.manifest import MANIFEST, SIGNATURE
from tableloop.settings import RegistrySettings
from tableloop.state.layout import Layout

FORM = "tableloop version 1"
SECRET_BYTES = 32


class SignatureError(ValueError):
    """A version is not signed as it must be, or there is no key to tell; the message says which, and the remedy."""


class SigningKey:
    """The secret that signs the versions of one appliance."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = hashlib.sha256(secret).hexdigest()[:16]

    @classmethod
    def load(cls, settings: RegistrySettings) -> SigningKey:
        """Return the key of `settings`.

        Raises
        ------
        SignatureError
            There is none, or it cannot be read.
        """
        file = key_file(settings)
        try:
            secret = bytes.fromhex(file.read_text().strip())
        except FileNotFoundError:
            raise SignatureError(f"there is no signing key {file}: the next start makes one") from None
        except (OSError, ValueError) as error:
            raise SignatureError(f"the signing key {file} cannot be read: {error}") from None
        if len(secret) < SECRET_BYTES:
            raise SignatureError(f"the signing key {file} is shorter than {SECRET_BYTES} bytes in hexadecimal")
        return cls(secret)

    @classmethod
    def new(cls) -> SigningKey:
        """Return a random key."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    def keep(self, file: Path) -> None:
        """Write the key where only this user can read it."""
        write_secret(file, self._secret.hex())

    def sign(self, directory: Path, run_id: str) -> None:
        """Sign the version in ``directory``, whose manifest is written, for a run.

        Raises
        ------
        OSError
            The manifest cannot be read, or the signature not be written.
        """
        (directory / SIGNATURE).write_text(self.signature(_message(directory, run_id)))

    def check(self, directory: Path, run_id: str) -> None:
        """Return when the manifest in ``directory`` is signed with this key for this run.

        Raises
        ------
        SignatureError
            It is not.
        """
        try:
            signature, message = (directory / SIGNATURE).read_text(), _message(directory, run_id)
        except FileNotFoundError:
            raise SignatureError("it is not signed, so it was not registered by this appliance") from None
        except (OSError, ValueError) as error:
            raise SignatureError(f"its signature cannot be read: {error}") from None
        self.verify(message, signature)

    def signature(self, message: bytes) -> str:
        """Return the signature of a message, one line."""
        return f"{self.id} {hmac.new(self._secret, message, hashlib.sha256).hexdigest()}\n"

    def verify(self, message: bytes, signature: str) -> None:
        """Return when it is the signature of the message.

        Raises
        ------
        SignatureError
            It is not.
        """
        key_id, _, _ = signature.partition(" ")
        if key_id != self.id:
            raise SignatureError(f"it was signed with the key {key_id[:16]!r}; this appliance has the key {self.id}")
        if not hmac.compare_digest(signature.encode(), self.signature(message).encode()):
            raise SignatureError("it was changed after it was signed, or was signed for something else")


def _message(directory: Path, run_id: str) -> bytes:
    return b"\0".join([FORM.encode(), run_id.encode(), (directory / MANIFEST).read_bytes()])


def key_file(settings: RegistrySettings) -> Path:
    """Return where the signing key lies, or is to lie."""
    return settings.signing_key_file or Layout(settings.state_dir).signing_key
