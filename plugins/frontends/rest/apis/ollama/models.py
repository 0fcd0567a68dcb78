"""What Ollama's API tells of models: `/api/tags`, `/api/show`, `/api/ps`."""

from __future__ import annotations

import hashlib
import math
import threading
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from llamakit.plugins.frontends.rest.apis.ollama.generate import Resource
from llamakit.plugins.frontends.rest.body import read
from llamakit.plugins.frontends.rest.chat import template_of
from llamakit.plugins.frontends.rest.fields import Name
from llamakit.plugins.frontends.rest.long_json import LongJson, send

from llamakit.chat.reasoning import find_markers
from llamakit.errors import LlamaKitError, ModelFileError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.gguf import GGUFFile
    from llamakit.pool import ModelInfo
    from llamakit.session import Session

AT_ONCE = 4096  # items of an array that become JSON at a time
LONGEST_LIST = 16  # items of an array in the metadata that are shown without `verbose`
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
NEVER = "0001-01-01T00:00:00Z"


class ShowBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /api/show` takes."""

    model: Name = ""
    name: Name = ""
    verbose: bool = False


class Tags(Resource):
    """All models."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list."""
        self.answer(resp, {"models": [_listed(self.state, info) for info in self.state.pool.infos()]})


class Running(Resource):
    """Models that are loaded."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list."""
        loaded = [info for info in self.state.pool.infos() if info.loaded]
        self.answer(resp, {"models": [_running(self.state, info) for info in loaded]})


class Show(Resource):
    """One model."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Its metadata, its template, and what it can do."""
        fields = read(req, ShowBody, self.state, sampling=False).fields
        info = self.state.pool.info(fields.model or fields.name)
        with self.state.pool.lease(info.name) as session:
            metadata, source = session.file.metadata, _source(self.state, session)
            send(
                resp,
                {
                    "license": str(metadata.get("general.license", "")),
                    "modelfile": f"FROM {info.name}\n",
                    "parameters": f"num_ctx {session.n_ctx}",
                    "template": source,
                    "details": details(session.file),
                    "model_info": _shown(session.file, verbose=fields.verbose),
                    "capabilities": _capabilities(session, source),
                    "modified_at": _modified(info),
                },
            )


def _source(state: ServerState, session: Session) -> str:
    """The template's source, also of one that does not compile."""
    try:
        return template_of(state.options, session)[0].source
    except ModelFileError:
        return str(session.file.metadata.get("tokenizer.chat_template", ""))


def details(file: GGUFFile) -> dict[str, Any]:
    """Family, size and kind of a model."""
    family = str(file.metadata.get("general.architecture", ""))
    n = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    return {
        "parent_model": "", "format": "gguf", "family": family, "families": [family], "parameter_size": short(n),
        "quantization_level": file.main_type,
    }  # fmt: skip


def short(n: int) -> str:
    """A count such as 7.2B."""
    return next((f"{n / size:.1f}{unit}" for size, unit in UNITS if n >= size), str(n))


def _capabilities(session: Session, template: str) -> list[str]:
    found = ["completion", "embedding"]
    if {"pre", "suf", "mid"} <= set(session.tokenizer.fim_ids):
        found.append("insert")
    if "tools" in template:
        found.append("tools")
    if find_markers(template) is not None:
        found.append("thinking")
    return found


def _shown(file: GGUFFile, *, verbose: bool) -> dict[str, Any]:
    """Metadata as JSON; long lists are null unless all is wanted."""
    found: dict[str, Any] = {}
    for key, value in file.metadata.items():
        if isinstance(value, (str, int, float, bool)):
            found[key] = value
        elif not verbose and len(value) > LONGEST_LIST:  # type: ignore[arg-type]
            found[key] = None
        else:
            found[key] = _list_of(file, key)
    return found


_lists: WeakKeyDictionary[GGUFFile, dict[str, LongJson]] = WeakKeyDictionary()
_lock = threading.Lock()


def _list_of(file: GGUFFile, key: str) -> LongJson:
    """An array of the metadata. It is made once, by one thread: a vocabulary takes a second, and those who ask have
    only to ask again and again."""
    with _lock:
        known = _lists.setdefault(file, {})
        if key not in known:
            value: Any = file.metadata[key]
            parts = (value[start : start + AT_ONCE] for start in range(0, len(value), AT_ONCE))
            texts = (msgspec.json.encode(part if isinstance(part, list) else part.tolist()) for part in parts)
            known[key] = LongJson.array(text[1:-1] for text in texts)
        return known[key]


def _listed(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    return {
        "name": tagged(info.name), "model": tagged(info.name), "modified_at": _modified(info), "size": info.size,
        "digest": _digest(info), "details": _details_of(state, info),
    }  # fmt: skip


def tagged(name: str) -> str:
    """A name as Ollama has it, with a tag: clients look models up by it."""
    return name if ":" in name else f"{name}:latest"


def _running(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    listed = _listed(state, info)
    del listed["modified_at"]
    seconds = state.options.idle_unload
    until = datetime.fromtimestamp(info.last_used + seconds, UTC).isoformat() if seconds else NEVER
    return {**listed, "expires_at": until, "size_vram": 0, "context_length": info.n_ctx}


def _details_of(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    """Details of a model, loaded or not; empty where its file cannot be read."""
    session = state.pool.loaded(info.name)
    try:
        return _read_details(info.path, info.size, _modified(info)) if session is None else details(session.file)
    except (LlamaKitError, OSError):
        return {
            "parent_model": "", "format": "gguf", "family": "", "families": [], "parameter_size": "",
            "quantization_level": "",
        }  # fmt: skip


@lru_cache(maxsize=256)
def _read_details(path: str, size: int, modified: str) -> dict[str, Any]:
    """Details of a file that is not open, read once for each state of it: anybody may ask, for all files together."""
    from llamakit.gguf import open_gguf

    with open_gguf(Path(path)) as file:
        return details(file)


def _digest(info: ModelInfo) -> str:
    """Tells files apart by name, size and time; reading gigabytes for a list would take minutes."""
    return hashlib.sha256(f"{info.name}\0{info.size}\0{_modified(info)}".encode()).hexdigest()


def _modified(info: ModelInfo) -> str:
    try:
        seconds = Path(info.path).stat().st_mtime
    except OSError:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat()
