"""API keys and what each of them may: `use` the models, `observe` the server, `admin` everything.

A line of a key file is a key, then its roles if it has others than `use`, and `weight=2` for one whose share is twice
that of others; `#` starts a comment. Keys of the command line and of settings are those of who runs the server: they
may do everything.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.rest.connections import client_of

from llamakit.errors import UsageError
from llamakit.text_file import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    import falcon
    from llamakit.plugins.frontends.rest.options import ServeOptions

MOST_WRONG = 20  # keys of one address that are not known, within `WRONG_SECONDS`
WRONG_SECONDS = 60.0
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0  # of a key's share
MOST_ADDRESSES = 4096  # that wrong keys are counted of


class Role(StrEnum):
    """What a key may."""

    USE = "use"  # ask models, and look at and end its own requests
    OBSERVE = "observe"  # measurements, and the requests of all
    ADMIN = "admin"  # all that, and load and unload models and adapters


class Key(msgspec.Struct, frozen=True):
    """A known key, without the key itself. `id` tells keys apart and cannot be turned back; `weight`: of its share."""

    id: str
    roles: frozenset[Role]
    weight: float = 1.0

    def may(self, role: Role) -> bool:
        """Whether it has a role."""
        return role in self.roles or Role.ADMIN in self.roles


EVERYBODY = Key("", frozenset(Role))  # where no key is needed


def owner_of(req: falcon.Request) -> str:
    """Whose a request is: the key's, else that of who has its address."""
    key: Key = getattr(req.context, "key", EVERYBODY)
    return key.id or client_of(req.remote_addr or "")


class Keys:
    """The API keys, kept as hashes only."""

    def __init__(self, keys: Iterable[str | tuple[str, frozenset[Role]] | tuple[str, frozenset[Role], float]]) -> None:
        self._keys: dict[bytes, Key] = {}
        for each in keys:
            key, *granted = each if isinstance(each, tuple) else (each, frozenset({Role.ADMIN}))
            digest = _digest(key)
            self._keys[digest] = Key(hashlib.sha256(b"llamakit key " + digest).hexdigest()[:16], *granted)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def several(self) -> bool:
        """Whether there is more than one: then what one asked is hidden from the others."""
        return len(self._keys) > 1

    def find(self, key: str) -> Key | None:
        """What a key may, None for one that is not known; takes the same time for each wrong key."""
        digest, found = _digest(key), None
        for each, known in self._keys.items():
            if hmac.compare_digest(digest, each):
                found = known
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(options: ServeOptions) -> Keys:
    """The keys of the settings and of the key file."""
    keys = [(key, frozenset({Role.ADMIN}), 1.0) for key in options.api_key]
    if options.api_key_file:
        keys += _lines(Path(options.api_key_file))
    for key, *_ in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError("an API key is empty or has spaces or unusual characters", param="api_key")
    return Keys(keys)


def _lines(file: Path) -> list[tuple[str, frozenset[Role], float]]:
    """The keys in a file; one that is named but holds none would leave the server open."""
    try:
        text = read_whole(file).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"the key file {file} cannot be read: {why}", param="api_key_file") from None
    found = []
    for number, line in enumerate(text.splitlines()):
        words = line.split("#")[0].split()
        if words:
            found.append((words[0], *_granted(words[1:], f"{file}, line {number + 1}")))
    if not found:
        raise UsageError(f"the key file {file} holds no key", param="api_key_file")
    return found


def _granted(words: list[str], where: str) -> tuple[frozenset[Role], float]:
    """The roles and the weight after a key."""
    names, weight = [name for word in words for name in word.split(",") if name], 1.0
    for name in [name for name in names if name.startswith("weight=")]:
        names.remove(name)
        weight = _weight(name.partition("=")[2], where)
    for name in names:
        if name not in tuple(Role):
            raise UsageError(
                f"{where}: no role {name[:40]!r}", hint=f"KEY ROLE ..., roles: {', '.join(Role)}", param="api_key_file"
            )
    return frozenset(map(Role, names)) or frozenset({Role.USE}), weight


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise UsageError(
            f"{where}: weight cannot be {text[:40]!r}", hint=f"a number from {LEAST_WEIGHT} to {MOST_WEIGHT:g}",
            param="api_key_file",
        )  # fmt: skip
    return weight


class WrongKeys:
    """Counts wrong keys by address, so that nobody can try many."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, address: str) -> int:
        """Note one more; seconds until the next is looked at, 0 if it may come at once."""
        now = time.monotonic()
        with self._lock:
            tries = [at for at in self._tries.pop(address, []) if now - at < WRONG_SECONDS][-MOST_WRONG:]
            tries.append(now)
            self._tries[address] = tries
            if len(self._tries) > MOST_ADDRESSES:
                self._tries.popitem(last=False)
        return int(WRONG_SECONDS - (now - tries[0])) + 1 if len(tries) > MOST_WRONG else 0
