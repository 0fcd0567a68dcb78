"""`/props`: what the server is, and what its model can do; for the page, and for clients of llama.cpp."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.llamacpp.answer import generation_settings
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import default_fields, sampling_of
from llamakit.plugins.frontends.rest.body import DEFAULT_LIMITS, Body, read, tell_ignored
from llamakit.plugins.frontends.rest.errors import NotSupportedError, not_loaded, unwell
from llamakit.plugins.frontends.rest.fields import LARGEST
from llamakit.plugins.frontends.rest.samplers import describe
from msgspec import Meta

from llamakit import __version__
from llamakit.chat.reasoning import find_markers
from llamakit.terminal import one_line

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.gguf import GGUFFile
    from llamakit.pool import ModelInfo
    from llamakit.tokenizer import Tokenizer


class Markers(msgspec.Struct, frozen=True):
    """What begins and ends a thought of the model, before its answer."""

    start: str
    end: str


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What no request goes beyond."""

    max_predict: Annotated[int, Meta(description="Tokens of an answer.")]
    parallel: Annotated[int, Meta(description="Sequences that are generated at once.")]
    queue: Annotated[int, Meta(description="Requests that may wait.")]


class Modalities(msgspec.Struct, frozen=True):
    """What else than text the model takes."""

    vision: bool = False
    audio: bool = False


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's file tells."""

    file_type: Annotated[str, Meta(description='How its numbers are stored, such as "Q4_K_M".')]
    architecture: str
    n_ctx_train: Annotated[int, Meta(description="Context that the model was trained with, in tokens.")]
    n_vocab: int
    chat: Annotated[bool, Meta(description="Whether it has a chat template; else it continues texts.")]
    chat_template: str
    reasoning: Annotated[Markers | None, Meta(description="Markers around thoughts, from the chat template.")]
    infill: Annotated[bool, Meta(description="Whether its vocabulary has marks for filling in the middle.")]
    bos_token: str
    eos_token: str


class PropsInfo(FileFacts, frozen=True, kw_only=True):
    """The server and one of its models."""

    model: Annotated[str, Meta(description="Name of the model.")]
    model_alias: Annotated[str, Meta(description="The same.")]
    model_path: Annotated[str, Meta(description="Name of its file, without the folder.")]
    size: Annotated[int, Meta(description="Bytes of the file.")]
    loaded: bool
    is_sleeping: Annotated[bool, Meta(description="Whether it was unloaded since it was not used (--idle-unload).")]
    n_ctx: Annotated[int, Meta(description="Context of each sequence, in tokens.")]
    grammar: Annotated[bool, Meta(description="Whether a sampler called `grammar` is installed.")]
    key_required: Annotated[bool, Meta(description="Whether requests need an API key.")]
    build: Annotated[str, Meta(description="Version of LlamaKit.")]
    build_info: Annotated[str, Meta(description="The same, with the name.")]
    limits: Limits
    default_generation_settings: Annotated[
        dict[str, Any], Meta(description="What a request to /completion gets that says nothing else.")
    ]
    models: Annotated[int, Meta(description="How many models there are.")]
    total_slots: Annotated[int, Meta(description="Sequences that are generated at once.")]
    modalities: Modalities = Modalities()


class PropsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /props` takes, beside the options of every sampler: what requests get that say nothing."""

    seed: (
        Annotated[int, Meta(ge=-1, le=(1 << 63) - 1, description="Seed of random numbers; -1 = a new one.")] | None
    ) = None
    n_predict: Annotated[int, Meta(ge=-1, le=LARGEST, description="Most tokens; -1 = no limit.")] | None = None
    context_shift: Annotated[bool, Meta(description="Drop old context when it is full.")] | None = None


class Changed(msgspec.Struct, frozen=True):
    """It was done."""

    success: bool = True


class Props:
    """`GET` and `POST /props`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Of the default model, or of `?model=`; 503 while it loads."""
        info = self.state.pool.info(req.get_param("model") or None)
        problem = not_loaded(info)
        if problem is not None:
            unwell(resp, *problem)
            return
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(properties(self.state, info))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Change the defaults of requests that come from now on, all or none of them."""
        if not self.state.options.props:
            raise NotSupportedError("this server does not let its defaults be changed", hint="start it with --props")
        body = read(req, PropsBody, self.state)
        tell_ignored(resp, body.ignored)
        changed = {name: getattr(body.fields, name) for name in body.given & set(PropsBody.__struct_fields__)}
        if "n_predict" in changed:
            changed |= dict.fromkeys(DEFAULT_LIMITS, changed["n_predict"])
        self.state.change_defaults(changed, body.sampling)
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(Changed())


def properties(state: ServerState, info: ModelInfo) -> PropsInfo:
    """Everything, from the loaded model or, if it would have to be loaded, from its file."""
    if not info.loaded:
        facts = file_facts(Path(info.path))
        return _properties(state, info, facts, facts.n_ctx_train, state.options.max_predict or 8 * facts.n_ctx_train)
    with state.pool.lease(info.name) as session:
        facts = facts_of(session.file, session.tokenizer)
        return _properties(state, info, facts, session.n_ctx, session.service.engine.max_predict)


def _properties(state: ServerState, info: ModelInfo, facts: FileFacts, n_ctx: int, max_predict: int) -> PropsInfo:
    options = state.options
    return PropsInfo(
        model=info.name, model_alias=info.name, model_path=one_line(Path(info.path).name),
        size=info.size, loaded=info.loaded,
        is_sleeping=not info.loaded and not info.loading and info.last_used > 0,
        n_ctx=n_ctx, grammar="grammar" in state.registry.samplers(), key_required=state.key_required,
        build=__version__, build_info=f"llamakit {__version__}",
        limits=Limits(max_predict=max_predict, parallel=options.parallel, queue=options.queue),
        default_generation_settings=defaults(state, info.name, n_ctx), models=len(state.pool.names()),
        total_slots=options.parallel, **msgspec.structs.asdict(facts),
    )  # fmt: skip


def defaults(state: ServerState, name: str, n_ctx: int) -> dict[str, Any]:
    """`generation_settings` of a request without any, and every sampler option; in `params` too, as in llama.cpp."""
    fields = default_fields(state)
    sampling = sampling_of(state, Body(fields=fields))
    samplers = describe(state.registry, sampling).samplers
    options = {key: value for sampler in samplers for key, value in sampler.defaults.items()}
    settings = options | generation_settings(state.registry, n_ctx, name, fields, sampling)
    return settings | {"params": {key: value for key, value in settings.items() if key not in ("n_ctx", "model")}}


def facts_of(file: GGUFFile, tokenizer: Tokenizer) -> FileFacts:
    """What an open file tells."""
    metadata = file.metadata
    architecture = str(metadata.get("general.architecture", ""))
    template = metadata.get("tokenizer.chat_template")
    source = template if isinstance(template, str) else ""
    markers = find_markers(source)
    n_ctx = metadata.get(f"{architecture}.context_length", 0)
    bos, eos = (tokenizer.token_text(i) if i is not None else "" for i in (tokenizer.bos_id, tokenizer.eos_id))
    return FileFacts(
        file_type=file_type(file), architecture=architecture, n_ctx_train=n_ctx if isinstance(n_ctx, int) else 0,
        n_vocab=tokenizer.n_vocab, chat=bool(source), chat_template=source,
        reasoning=None if markers is None else Markers(markers.begin, markers.end),
        infill=all(role in tokenizer.fim_ids for role in ("pre", "suf", "mid")), bos_token=bos, eos_token=eos,
    )  # fmt: skip


def file_facts(path: Path) -> FileFacts:
    """The same of a file that is not open; read once for each state of the file. ModelFileError if it is gone."""
    try:
        modified = path.stat().st_mtime_ns
    except OSError:
        modified = 0
    return _read_facts(path, modified)


@lru_cache(maxsize=32)
def _read_facts(path: Path, modified: int) -> FileFacts:
    from llamakit.gguf import open_gguf
    from llamakit.tokenizer import load_tokenizer

    with open_gguf(path) as file:
        return facts_of(file, load_tokenizer(file.metadata))


def file_type(file: GGUFFile) -> str:
    """The name of a file's mix of types; of a file that does not say, the type that most of it has."""
    from llamakit.gguf.quantize import RECIPES

    number = file.metadata.get("general.file_type")
    for name, recipe in RECIPES.items():
        if isinstance(number, int) and recipe.file_type == number:
            return name
    return file.main_type
