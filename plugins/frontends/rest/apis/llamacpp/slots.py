"""`POST /slots/{id}?action=save|restore|erase`: the text of a slot to a file, from one, or forgotten."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.llamacpp.answer import encode
from llamakit.plugins.frontends.rest.body import read, tell_ignored
from llamakit.plugins.frontends.rest.errors import NotSupportedError, refused_file
from llamakit.plugins.frontends.rest.fields import Name
from llamakit.plugins.frontends.rest.generation import Exchange
from msgspec import Meta

from llamakit.errors import ModelFileError, NotFoundError, UsageError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.slots import SlotTable
    from llamakit.plugins.frontends.rest.state import ServerState

ACTIONS = ("save", "restore", "erase")
LONGEST_NAME = 255  # bytes of a file's name, of most file systems
BAD_NAME = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|]|\.\.|^[. ]|[. ]$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows


class SlotBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /slots/{id}` takes."""

    filename: Annotated[str, Meta(max_length=1024, description="Name in the folder of --slot-save-path.")] = ""
    model: Name = ""


class SlotQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which slot, and what to do with it."""

    action: Annotated[str, Meta(description="save, restore or erase.")]


class SlotTimings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds."""

    save_ms: float = 0.0
    restore_ms: float = 0.0


class SlotAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done: tokens saved, restored or erased, and bytes of the file."""

    id_slot: int
    filename: str = ""
    n_saved: int | None = None
    n_written: int | None = None
    n_restored: int | None = None
    n_read: int | None = None
    n_erased: int | None = None
    timings: SlotTimings | None = None


class SlotAction:
    """Saves, restores and erases."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.folder = Path(state.options.slot_save_path)

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """By the parameter `action`."""
        table = self.state.slots
        if table is None:
            raise NotSupportedError(
                "this server does not support slot actions", hint="start it with --slot-save-path DIR"
            )
        action = req.get_param("action", default="")
        if action not in ACTIONS:
            raise UsageError(f"action is {action[:40]!r}", hint=f"possible: {', '.join(ACTIONS)}", param="action")
        number = _number(id, table.n)
        body = read(req, SlotBody, self.state, sampling=False, may_be_empty=action == "erase")
        tell_ignored(resp, body.ignored)
        make = {"save": self._save, "restore": self._restore, "erase": self._erase}[action]
        resp.content_type = "application/json"
        resp.data = encode(make(req, table, number, body.fields))

    def _save(self, req: falcon.Request, table: SlotTable, number: int, fields: SlotBody) -> Any:
        file = self._file(fields.filename)
        name = self.state.pool.resolve(fields.model)
        held, began = table.held(name, number), time.perf_counter()
        if held is None:
            raise UsageError(
                f"slot {number} holds no text", hint=f'a request with "id_slot": {number} gives it one', param="id"
            )
        _check_overwriting(file)
        with self.state.pool.lease(name) as session:
            n = session.save_prefix(file, held.tokens, held.key)
        timings = SlotTimings(save_ms=(time.perf_counter() - began) * 1e3)
        return SlotAnswer(
            id_slot=number, filename=file.name, n_saved=n, n_written=file.stat().st_size, timings=timings
        )  # fmt: skip

    def _restore(self, req: falcon.Request, table: SlotTable, number: int, fields: SlotBody) -> Any:
        file = self._file(fields.filename)
        name, began = self.state.pool.resolve(fields.model), time.perf_counter()
        salt = Exchange(self.state, req).salt("")
        if not file.is_file():
            raise NotFoundError(f"there is no file {file.name!r} of a saved slot", param="filename")
        with self.state.pool.lease(name) as session:
            try:
                tokens, key = session.load_keyed_prefix(file, salt)
            except ModelFileError as error:
                raise refused_file(error, file, "this file cannot be restored", "filename") from None
        table.hold(name, number, tokens, key)
        timings = SlotTimings(restore_ms=(time.perf_counter() - began) * 1e3)
        return SlotAnswer(
            id_slot=number, filename=file.name, n_restored=len(tokens), n_read=file.stat().st_size, timings=timings
        )  # fmt: skip

    def _erase(self, req: falcon.Request, table: SlotTable, number: int, fields: SlotBody) -> Any:
        name = self.state.pool.resolve(fields.model)
        held, n = table.held(name, number), 0
        if held is not None:
            with self.state.pool.lease(name) as session:
                n = session.drop_prefix(held.tokens, held.key)
            table.clear(name, number)
        return SlotAnswer(id_slot=number, n_erased=n)

    def _file(self, name: str) -> Path:
        """The file of a name, which is one and no way to anywhere else."""
        if not name or len(name.encode("utf-8", "replace")) > LONGEST_NAME or BAD_NAME.search(name):
            raise UsageError(
                f"filename is {name[:80]!r}", hint="a plain file name, without folders, such as slot0.bin",
                param="filename",
            )  # fmt: skip
        if RESERVED.fullmatch(name) or not name.isprintable():
            raise UsageError(
                f"filename is {name[:80]!r}", hint="a plain file name, such as slot0.bin", param="filename"
            )
        return self.folder / name


def _number(id: str, n: int) -> int:
    """The number of a slot."""
    if not re.fullmatch(r"\d{1,6}", id) or int(id) >= n:
        raise UsageError(f"there is no slot {id[:40]!r}", hint=f"0 to {n - 1} (--parallel {n})", param="id")
    return int(id)


def _check_overwriting(file: Path) -> None:
    """Refuse to write over what is there and is not a saved slot."""
    from llamakit.engine.session_file import is_saved

    if file.exists() and not is_saved(file):
        raise UsageError(
            f"{file.name!r} is there already, and is not a saved slot", hint="another name", param="filename"
        )
