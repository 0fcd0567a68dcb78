"""Read this first: how everything is put together.

A `Session` opens a model file, chooses a backend through the registry, and makes the engine, each on first use:

    with Session("model.gguf") as session:
        print(session.generate("Once upon a time", max_tokens=64, temperature=0.8).text)

Only this module knows the registry and the engine at the same time.
"""

from __future__ import annotations

import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from llamakit.errors import UsageError
from llamakit.typed import convert

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import AdapterTable, Backend, Device, Footprint, KVCache, TensorSource, Weight
    from llamakit.chat.template import ChatTemplate
    from llamakit.devices.offload import Offload
    from llamakit.devices.split import Member
    from llamakit.engine.adapters import AdapterStore
    from llamakit.engine.engine import Engine
    from llamakit.engine.kv_plan import KVPlan
    from llamakit.engine.request import Piece, Request, Result
    from llamakit.engine.runner import Runner
    from llamakit.engine.service import Service
    from llamakit.engine.session_file import PrefixKey
    from llamakit.engine.speculation import Drafter
    from llamakit.gguf import GGUFFile
    from llamakit.graph.graph import Graph
    from llamakit.models import LoadedModel
    from llamakit.models.lora import LoadedAdapter
    from llamakit.registry import Registry
    from llamakit.tokenizer import Tokenizer
    from llamakit.train.options import TrainOptions
    from llamakit.training import Trainer

LEAST_OUTPUTS = 64  # rows of a step that may have logits: 64 x 128k x 4 bytes are 32 MB
DEFAULT_SLOTS = 4
LEAST_CTX = 4096  # positions that are counted on where no context was asked for, when layers are given to a GPU
POOLINGS = {1: "mean", 2: "cls", 3: "last"}  # of the key pooling_type; 0 is none, of models that generate


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is made from. Sizes count tokens; 0 means: decide from the model or the machine.

    `device`: the devices to use, such as "cpu" or "cuda:0,cuda:1" ("": the first of `backend`); several share the
    model's layers, in the proportions of `split`, such as "3,1" ("": by the memory that they have free);
    `backend_options`: options of backends, by backend as in {"cpu": {"isa": "avx2"}} or for the one used;
    `activations`: what meets quantised weights, "native" (rounded to eight bits, as the backend is quickest) or "f32";
    `gpu_layers`: how many of the last layers run on GPUs (-1: as many as fit), `main_gpu`, `tensor_split`: on which
    (see `devices.offload`; `device` settles all of it);
    `n_seq`: sequences in a step; `kv_memory`: bytes for keys and values (0: n_seq contexts, as far as memory goes),
    `kv_most`: bytes that they should not take more than where neither these nor a context are asked for (0: any);
    `max_predict`: most tokens of any answer (0: 8 contexts); `lora`: (file, scale) of adapters loaded at the start,
    `adapter_slots`: different selections of adapters in a step (0: 4 if `lora` names any); `lora_base`: a file with
    more exact values of the tensors that adapters change; `draft_model`: a small model that guesses ahead; `draft`:
    most tokens guessed ahead (-1: as many as pay, 0: none); `max_queue`, `per_client`, `per_client_tokens`,
    `stall_seconds`: see `ServiceOptions`; `chat_template`: in place of the file's, its source, a file of it, or a name
    (see `ChatTemplate.chosen`).
    """

    backend: str = "auto"
    backend_options: dict[str, object] = {}
    device: str = ""
    split: str = ""
    gpu_layers: int = -1
    main_gpu: int = 0
    tensor_split: str = ""
    ctx_size: int = 0
    batch_size: int = 512
    kv_type: str = "f16"
    activations: Literal["native", "f32"] = "native"
    n_seq: int = 1
    kv_memory: int = 0
    kv_most: int = 0
    max_predict: int = 0
    rope: Any = None  # RopeOverrides | None
    lora: list[tuple[str, float]] = []
    lora_base: str = ""
    adapter_slots: int = 0
    draft_model: str = ""
    draft: int = -1
    max_queue: int = 256
    per_client: int = 0
    per_client_tokens: int = 0
    stall_seconds: float = 300.0
    chat_template: str = ""


def make_backend(
    registry: Registry, wanted: str = "auto", options: Mapping[str, object] | None = None, threads: int | None = None
) -> tuple[Backend, str]:
    """The first usable backend of those wanted, with its options, and why it was chosen; nothing is opened."""
    from llamakit.devices import configured

    cls, reason = registry.choose_backend(wanted)
    return configured(cls, options or {}, threads), reason


class Session:
    """A model, a backend and an engine.

    Used by one thread, until `service` is asked for: from then on the engine has a thread of its own, and `generate`,
    `stream`, `embed` and `service` may be used by any number of threads.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        registry: Registry | None = None,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> None:
        """Nothing is opened yet but what is used. `settings` are the fields of `Settings`, and `threads`.

        `progress(bytes done, bytes in all)` is called while weights load.
        """
        self.path = Path(model)
        threads = settings.pop("threads", None)
        try:
            self.settings = convert(settings, Settings)
        except msgspec.ValidationError as error:
            raise UsageError(f"session settings: {error}") from None
        unknown = sorted(set(settings) - set(Settings.__struct_fields__))
        if unknown:
            raise UsageError(
                f"unknown session setting {unknown[0]!r}; there are: {', '.join(Settings.__struct_fields__)}"
            )
        self._threads = threads
        self._progress = progress
        self._registry = registry
        self._owns_device = True

    # -- what is opened on first use, in this order -------------------------------------------------------------

    @cached_property
    def file(self) -> GGUFFile:
        """The model file."""
        from llamakit.gguf import open_gguf

        return open_gguf(self.path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; works on files that hold only a vocabulary."""
        from llamakit.tokenizer import load_tokenizer

        loaded = load_tokenizer(self.file.metadata)
        self.file.check()
        return loaded

    @cached_property
    def model(self) -> LoadedModel:
        """The model: `hparams`, `parameters`, `tensor(name)`, and how to build its graph."""
        from llamakit.models import load_model

        return load_model(self.file, self.settings.rope, self.registry)

    @cached_property
    def registry(self) -> Registry:
        """The plugins there are."""
        from llamakit.registry import Registry

        return self._registry or Registry.discover()

    @cached_property
    def backend(self) -> tuple[Backend, str]:
        """The chosen backend, and why it was chosen; of several devices that of the first."""
        if self.settings.device:
            return self._members[0].backend, f"device {self.settings.device} was asked for"
        if self.offload.layers:
            return self._members[0].backend, self.offload.told
        return self._alone

    @cached_property
    def _alone(self) -> tuple[Backend, str]:
        """The backend that the settings choose, and why."""
        settings = self.settings
        name = "cpu" if self.offload.device == "cpu" else settings.backend
        return make_backend(self.registry, name, settings.backend_options, self._threads)

    @cached_property
    def offload(self) -> Offload:
        """Which layers run on which devices where no device was named."""
        from llamakit.devices.offload import Offload, is_gpu, offload, without_effect

        settings = self.settings
        cls, _ = self.registry.choose_backend(settings.backend)
        if settings.gpu_layers == 0 and is_gpu(cls):
            return Offload("cpu")
        if settings.device or not is_gpu(cls):
            return Offload("", told=without_effect(settings, cls.name, gpu=False))
        n_layer, n = len(self.model.cache_layers()), settings.gpu_layers
        n = self._layers_that_fit(cls) if n < 0 else n
        found = offload(cls.name, cls.probe(), n_layer, n, settings.main_gpu, settings.tensor_split)
        none = f"no layer fits onto {cls.name}:{settings.main_gpu}: all run on the CPU" if found.device == "cpu" else ""
        told = [text for text in (found.told or none, without_effect(settings, cls.name, gpu=True)) if text]
        return msgspec.structs.replace(found, told="; ".join(told))

    def _layers_that_fit(self, cls: type[Backend]) -> int:
        """How many layers fit on the main GPU; with several GPUs, by what all of them have free."""
        from llamakit.devices import smallest_graph
        from llamakit.devices.offload import layers_that_fit
        from llamakit.engine.runner import blocks_for, kv_spec

        settings, probe = self.settings, cls.probe()
        several = settings.tensor_split.replace("/", ",").count(",") + 1 if settings.tensor_split.strip() else 0
        device = make_backend(self.registry, cls.name, settings.backend_options)[0].open(settings.main_gpu)
        try:
            n_ctx = settings.ctx_size or min(self.model.hparams.n_ctx_train, LEAST_CTX)
            spec = kv_spec(self.model, settings.n_seq * blocks_for(n_ctx), settings.kv_type)
            graph = self._graph(LEAST_OUTPUTS, ("logits",), settings.n_seq, n_ctx)
            program = device.footprint(graph, self._sources).program
            free = device.memory().free * max(min(several, len(probe.devices)), 1)
            sizes = {name: device.weight_size(source) for name, source in self._sources.items()}
            per_layer = 0.0 if device.cache_on_host else device.kv_size(spec) / max(len(spec.layers), 1)
            return layers_that_fit(smallest_graph(self.model), sizes, per_layer, program, free)
        finally:
            device.close()

    @property
    def _named(self) -> str:
        """The devices that were named or are needed, as the setting `device`; "" for one of the backend's."""
        return self.settings.device or (self.offload.device if self.offload.layers else "")

    @cached_property
    def device(self) -> Device:
        """The backend's device, or those that were named or are needed."""
        if not self._named:
            _, _, number = self.offload.device.partition(":")
            return self.backend[0].open(int(number or 0))
        if len(self._members) == 1:
            return self._members[0].device
        from llamakit.devices import share_model

        layers = () if self.settings.device else self.offload.layers
        return share_model(self._members, self.settings.split, self.model, self.file, layers)

    @cached_property
    def _members(self) -> list[Member]:
        """The devices that were named or are needed, opened."""
        from llamakit.devices import open_members

        return open_members(self.registry, self._named, self.settings.backend_options, self._threads)

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """All tensors on the device: one store for every graph of the model."""
        from llamakit.weights import load_weights

        loaded = load_weights(self.device, self._sources, self.model.uses(), self._progress)
        self._check_files()
        return loaded

    @cached_property
    def footprint(self) -> Footprint:
        """What the model's weights and the program that generates take on the device; nothing is loaded for it."""
        from llamakit.engine.runner import kv_spec

        n_ctx = self.settings.ctx_size or self.model.hparams.n_ctx_train
        graph = self._graph(LEAST_OUTPUTS, ("logits",), self.settings.n_seq, n_ctx)
        return self.device.footprint(graph, self._sources, kv_spec(self.model, 0, self.settings.kv_type))

    @cached_property
    def n_ctx(self) -> int:
        """Positions a sequence may have: as asked, else the model's context as far as memory goes."""
        return self._kv_plan.n_ctx

    @cached_property
    def kv_bytes(self) -> int:
        """Size of the KV cache in bytes."""
        return self._kv_size(self._kv_plan.n_block)

    @cached_property
    def adapters(self) -> AdapterStore | None:
        """The LoRA adapters that requests may choose; None if the session was made without slots for them."""
        from llamakit.engine.adapters import AdapterStore

        table = self._adapter_table
        if table is None:
            return None
        store = AdapterStore(table, table.n_slot)
        for adapter, (_, scale) in zip(self._first_adapters, self.settings.lora, strict=True):
            store.add(adapter, scale)
        return store

    @cached_property
    def engine(self) -> Engine:
        """The engine, with its KV cache and its compiled program."""
        from llamakit.engine.embedder import Embedder
        from llamakit.engine.engine import Engine

        settings, kv = self.settings, self._kv
        return Engine(
            self._runner(LEAST_OUTPUTS, ("logits",)), kv, self.tokenizer, self.registry.samplers(), self.n_ctx,
            max_predict=settings.max_predict, adapters=self.adapters,
            embedder=Embedder(lambda: self._runner(settings.batch_size, ("embeddings",))), drafter=self._drafter(),
        )  # fmt: skip

    @cached_property
    def service(self) -> Service:
        """The engine's thread, started now: see `engine.service.Service`."""
        from llamakit.engine.service import Service, ServiceOptions

        settings = self.settings
        options = ServiceOptions(
            max_queue=settings.max_queue,
            per_client=settings.per_client,
            per_client_tokens=settings.per_client_tokens,
            stall_seconds=settings.stall_seconds,
        )
        self.tokenizer.context = self.n_ctx  # from now on texts come from many
        self.file.metadata.keep()  # while the file is what it was
        return Service(self.engine, options, check=self.file_check, reopen=self.reopen)

    def trainer(self, options: TrainOptions | None = None, **values: Any) -> Trainer:
        """A training run of this model: a `train.options.TrainOptions`, or its fields, `data` and `out` at least."""
        from llamakit.options import build_options
        from llamakit.train.options import TrainOptions
        from llamakit.training import Trainer

        self.check_one_device()
        options = options or build_options(TrainOptions, values, where="finetune")
        self.check_threads(options.threads)
        return Trainer(self, options)

    def check_one_device(self) -> None:
        """UsageError if several devices share the model: because they were named, or because no GPU can hold it all."""
        from llamakit.devices import parse_devices
        from llamakit.devices.split import refuse_training

        if self._named and len(parse_devices(self._named)) > 1:
            refuse_training(self._named)

    def check_threads(self, threads: int) -> None:
        """UsageError if a number of threads, 0 for any, is asked for that the session does not have."""
        if threads and threads != self._threads:
            has = "as many as there are cores" if self._threads is None else str(self._threads)
            hint = f"Session(PATH, threads={threads})"
            raise UsageError(f"the session does not run {threads} threads", found=has, hint=hint, param="threads")

    # -- what a person does with it -----------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """Text to token ids; with `add_bos`, BOS and EOS as the model's metadata asks."""
        return self.tokenizer.encode(text, add_special=add_bos, parse_special=parse_special)

    def detokenize(self, ids: Iterable[int]) -> str:
        """Token ids to text."""
        return self.tokenizer.decode(list(ids), special=True)

    def generate(self, prompt: str | Sequence[int], **params: Any) -> Result:
        """Generate and wait for all of it; parameters as for `stream`."""
        stream = self.stream(prompt, **params)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                result: Result = end.value
                return result

    def stream(self, prompt: str | Sequence[int], **params: Any) -> Generator[Piece, None, Result]:
        """Generate, yielding a `Piece` for each token; the generator's return value is the `Result`.

        `params`: every field of `engine.request.Request` (`max_tokens`, `stop`, `seed`, `samplers`, ...), and every
        sampler option by its flat name (`temperature`, `top_k`, ...). Only the first answer is streamed.
        Closing the generator cancels the request.
        """
        from llamakit.engine.job import Finished, Token, raise_error

        result: Result | None = None
        for event in self._events(self.request(prompt, **params)):
            if isinstance(event, Token) and event.choice == 0:
                yield event.piece
            elif isinstance(event, Finished) and event.choice == 0:
                result = event.result
        assert result is not None  # every answer ends with one
        raise_error(result)
        return result

    def answers(self, prompt: str | Sequence[int], **params: Any) -> list[Result]:
        """All answers (`n`) to a prompt; parameters as for `stream`."""
        from llamakit.engine.job import Finished, raise_error

        found = [event.result for event in self._events(self.request(prompt, **params)) if isinstance(event, Finished)]
        for result in found:
            raise_error(result)
        return sorted(found, key=lambda result: result.choice)

    def request(self, prompt: str | Sequence[int], **params: Any) -> Request:
        """The engine's `Request` for a prompt and flat parameters."""
        from llamakit.engine.request import Request

        tokens = self.tokenize(prompt, add_bos=True, parse_special=True) if isinstance(prompt, str) else list(prompt)
        names = set(Request.__struct_fields__) - {"prompt", "options"}
        fields = {name: params.pop(name) for name in list(params) if name in names}
        seed = fields.pop("seed", None)
        fields["seed"] = secrets.randbits(32) if seed is None or seed < 0 else seed
        for name in ("stop", "samplers"):
            if fields.get(name) is not None:
                value = fields[name]
                fields[name] = (value,) if isinstance(value, str) else tuple(value)
        return Request(prompt=tokens, options=params, **fields)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each token of one sequence, (n_tokens, n_vocab); at most a context long.

        With the adapters, and at the scales, that requests get by default.
        """
        return self._evaluate(list(tokens), "logits")

    def embed(self, text: str | Sequence[int], *, pooling: str = "", normalize: bool = True) -> npt.NDArray[np.float32]:
        """A vector (n_embd,) for a text. `pooling`: "mean", "last", "cls" (first token); "none": (n_tokens, n_embd); ""
        for the file's."""
        from llamakit.engine.request import Embed

        tokens = self.tokenizer.encode(text, add_special=True) if isinstance(text, str) else list(text)
        embed = Embed(prompts=[tokens], pooling=pooling or self.pooling or "mean", normalize=normalize)
        if "service" in self.__dict__:
            vectors = self.service.embed(embed)
        else:
            assert self.engine.embedder is not None  # a session's engine has one
            vectors = self.engine.embedder.wait(self.engine, embed)
        result: npt.NDArray[np.float32] = vectors.values[0]
        return result

    @cached_property
    def pooling(self) -> str:
        """How the model's file says that the vectors of tokens become one; "" where it does not."""
        architecture = self.file.metadata.get("general.architecture", "")
        kind = self.file.metadata.get(f"{architecture}.pooling_type")
        return POOLINGS.get(kind, "") if isinstance(kind, int) else ""

    def load_adapter(self, path: str | Path, name: str | None = None, scale: float = 1.0) -> LoadedAdapter:
        """Load a LoRA adapter while the engine runs; requests may choose it by name from now on."""
        from llamakit.models.lora import load_adapter

        if self.adapters is None:
            raise UsageError("this session has no slots for adapters", hint="adapter_slots=4", param="adapter_slots")
        adapter = load_adapter(path, self.model, name=name)
        self.adapters.add(adapter, scale)
        return adapter

    def save_prefix(self, path: str | Path, tokens: Sequence[int], key: PrefixKey = ((), "")) -> int:
        """Save the evaluated beginning of `tokens` to a file; returns how many tokens it has.

        `key`: that of the request which evaluated them (`prefix_key`), if it had adapters or a salt.
        """
        from llamakit.engine import session_file

        beginning = session_file.take(self.engine, tokens, key, self._on_engine)
        session_file.write(Path(path), beginning, self._session_key, self.engine.space.kv.spec.type)
        return len(beginning.tokens)

    def load_prefix(self, path: str | Path, salt: str = "") -> list[int]:
        """Load what `save_prefix` wrote into the cache, where requests that begin so find it; returns its tokens."""
        return self.load_keyed_prefix(path, salt)[0]

    def load_keyed_prefix(self, path: str | Path, salt: str = "") -> tuple[list[int], PrefixKey]:
        """The same, with the key under which it is kept."""
        from llamakit.engine import session_file

        file = Path(path)
        room = self._on_engine(lambda: session_file.room(self.engine))
        beginning = session_file.read(file, self._session_key, room)
        tokens = session_file.put(file, self.engine, beginning, salt, self._on_engine)
        return tokens, (beginning.adapters, salt)

    def drop_prefix(self, tokens: Sequence[int], key: PrefixKey = ((), "")) -> int:
        """Forget the evaluated beginning of `tokens`, but for what others share; returns how many tokens went."""
        n: int = self._on_engine(lambda: self.engine.space.tree.drop(key, list(tokens)))
        return n

    def prefix_key(self, request: Request) -> PrefixKey:
        """Under which key the beginning of a request's text is kept: its adapters and its salt."""
        from llamakit.engine.prepare import select

        return select(self.engine, request.adapters).key, request.cache_salt

    @property
    def _session_key(self) -> str:
        from llamakit.engine import session_file

        return session_file.model_key(self.file, self.engine.space.kv.spec)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template."""
        from llamakit.chat.template import ChatTemplate

        return ChatTemplate.chosen(self.settings.chat_template, self.file.metadata, self.tokenizer)

    def template(self, *, with_tools: bool = False) -> ChatTemplate:
        """The chat template; with tools the one that the file has for them, if there is one."""
        found: ChatTemplate = getattr(self, self._template_name(with_tools))
        return found

    def has_template(self, *, with_tools: bool = False) -> bool:
        """Whether `template` has it at once: a stranger's is compiled in another process, which may take seconds."""
        return self._template_name(with_tools) in vars(self)

    def _template_name(self, with_tools: bool) -> str:
        named = "tokenizer.chat_template.tool_use" in self.file.metadata and not self.settings.chat_template
        return "_tool_template" if with_tools and named else "chat_template"

    @cached_property
    def _tool_template(self) -> ChatTemplate:
        from llamakit.chat.template import TOOL_USE, ChatTemplate

        return ChatTemplate.from_metadata(self.file.metadata, self.tokenizer, TOOL_USE)

    def reopen(self) -> None:
        """Bring a lost device back: weights are read again and programs compiled; the cache is empty.

        The service does so by itself. Without it, call this after a `DeviceLostError`; BackendError while the device
        cannot be had, and then it may be called again.
        """
        for name in ("weights", "_kv", "_adapter_table", "_evaluators"):
            self.__dict__.pop(name, None)
        self.device.reopen()
        if "engine" in self.__dict__:
            if self.adapters is not None:
                self.adapters.move(self._adapter_table)
            self.engine.replace(self._runner(LEAST_OUTPUTS, ("logits",)), self._kv, self._drafter())

    def close(self) -> None:
        """End the engine's thread, if there is one; give memory and the file back."""
        if "service" in self.__dict__:
            self.__dict__.pop("service").close()
        self._close_draft()
        for name in ("engine", "weights", "adapters", "_adapter_table", "_kv", "_evaluators", "_sources"):
            self.__dict__.pop(name, None)
        if "device" in self.__dict__:
            device = self.__dict__.pop("device")
            if self._owns_device:
                device.close()
        elif "_members" in self.__dict__:  # the model that they were to share could not be read
            for member in self._members:
                member.device.close()
        self.__dict__.pop("_members", None)
        for name in ("file", "_base"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- how ----------------------------------------------------------------------------------------------------

    def _events(self, request: Request) -> Iterator[Any]:
        """The events of a request, whether the engine has a thread of its own or not; ending early cancels it."""
        from llamakit.engine.job import Job

        if "service" not in self.__dict__:
            yield from self.engine.run(Job(request))
            return
        job = self.service.submit(request)
        try:
            yield from job
        finally:
            job.cancel()

    def _on_engine(self, function: Callable[[], Any]) -> Any:
        return self.service.call(function) if "service" in self.__dict__ else function()

    @cached_property
    def _kv_plan(self) -> KVPlan:
        """How the memory for keys and values is shared out; nothing needs to be loaded for it."""
        from llamakit.engine.kv_plan import plan_kv

        model = self.footprint
        room = self.device.cache_room(model.program + (0 if "weights" in self.__dict__ else model.weights))
        return plan_kv(self.settings, self.model.hparams.n_ctx_train, self._kv_size, model, room)

    def _kv_size(self, n_block: int) -> int:
        from llamakit.engine.runner import kv_spec

        return self.device.kv_size(kv_spec(self.model, n_block, self.settings.kv_type))

    @cached_property
    def _kv(self) -> KVCache:
        from llamakit.engine.runner import kv_spec

        return self.device.kv_cache(kv_spec(self.model, self._kv_plan.n_block, self.settings.kv_type))

    @cached_property
    def _sources(self) -> dict[str, TensorSource]:
        """Where each tensor of the model is read from."""
        from llamakit.weights import tensor_sources

        return tensor_sources(self.model.uses(), self.file, self._overrides())

    def _graph(self, n_out: int, outputs: tuple[str, ...], n_seq: int, n_ctx: int) -> Graph:
        """The model's graph for steps of the session's sizes, with adapters if there are slots for them."""
        from llamakit.engine.runner import blocks_for
        from llamakit.models import GraphSizes
        from llamakit.passes.pipeline import prepare

        n_row = self.settings.batch_size
        sizes = GraphSizes(rows=n_row, out_rows=min(n_out, n_row), seqs=n_seq, blocks_per_seq=blocks_for(n_ctx) + 1)
        graph = self.model.build(
            sizes, outputs=outputs, adapters=self._n_slot > 0, activations=self.settings.activations
        )
        return prepare(graph)

    def _runner(self, n_out: int, outputs: tuple[str, ...], n_seq: int | None = None) -> Runner:
        """The model's graph, compiled to use the KV cache."""
        from llamakit.engine.runner import Runner

        n_seq = n_seq or self.settings.n_seq
        graph = self._graph(n_out, outputs, n_seq, self.n_ctx)
        program = self.device.compile(graph, self.weights, kv=self._kv, adapters=self._adapter_table)
        return Runner(program, self.settings.batch_size, min(n_out, self.settings.batch_size), n_seq, self.file_check)

    @property
    def file_check(self) -> Callable[[], None] | None:
        """What raises ModelChangedError once the files of the weights were changed; None if they are in memory."""
        return self._check_files if self.device.in_file else None

    def _check_files(self) -> None:
        self.file.check()
        if "_base" in self.__dict__:
            self._base.check()

    @property
    def _n_slot(self) -> int:
        return self.settings.adapter_slots or (DEFAULT_SLOTS if self.settings.lora else 0)

    @cached_property
    def _adapter_table(self) -> AdapterTable | None:
        from llamakit.models.lora import adapter_targets

        return self.device.adapter_table(adapter_targets(self.model), self._n_slot) if self._n_slot else None

    @cached_property
    def _first_adapters(self) -> list[LoadedAdapter]:
        from llamakit.models.lora import load_adapter

        return [load_adapter(path, self.model) for path, _ in self.settings.lora]

    @cached_property
    def _base(self) -> GGUFFile:
        """The `lora_base` file; it is read again when a lost device comes back."""
        from llamakit.gguf import open_gguf

        return open_gguf(self.settings.lora_base)

    def _overrides(self) -> dict[str, GGUFFile]:
        """Tensors that come from the `lora_base` file: those that adapters change."""
        from llamakit.models.lora import changed_tensors

        if not self.settings.lora_base:
            return {}
        base = self._base
        return {name: base for name in changed_tensors(self._first_adapters) if name in base.tensors}

    def _drafter(self) -> Drafter | None:
        from llamakit.engine.speculation import MOST_DRAFTED, NGramDrafter

        most = MOST_DRAFTED if self.settings.draft < 0 else self.settings.draft
        if not most:
            return None
        if not self.settings.draft_model:
            return NGramDrafter(most)
        from llamakit.engine.draft_model import ModelDrafter, check_vocabulary

        self._close_draft()
        draft = self._draft
        check_vocabulary(self.tokenizer, draft.tokenizer)
        return ModelDrafter(draft._runner(LEAST_OUTPUTS, ("logits",)), draft._kv, draft.n_ctx, most)

    @cached_property
    def _draft(self) -> Session:
        """The draft model, on this session's device, or the first of several; at most as many blocks of cache."""
        settings = self.settings
        draft = Session(
            settings.draft_model, registry=self.registry, ctx_size=self.n_ctx, batch_size=settings.batch_size,
            kv_type=settings.kv_type, n_seq=settings.n_seq, activations=settings.activations, threads=self._threads,
            draft=0,
        )  # fmt: skip
        several = "_members" in self.__dict__ and len(self._members) > 1
        draft.__dict__["backend"] = self.backend
        draft.__dict__["device"] = self._members[0].device if several else self.device
        draft._owns_device = False
        try:
            most = draft._kv_size(self._kv_plan.n_block)
        except BaseException:
            draft.close()
            raise
        draft.settings = msgspec.structs.replace(draft.settings, kv_most=most)
        return draft

    def _close_draft(self) -> None:
        """Give the draft model's memory and file back, if there is one."""
        if "_draft" in self.__dict__:
            self.__dict__.pop("_draft").close()

    def _evaluate(self, tokens: list[int], output: str) -> npt.NDArray[np.float32]:
        """One output for every token of one sequence."""
        from llamakit.engine.evaluate import evaluate

        result: npt.NDArray[np.float32] = evaluate(self.evaluator(output), tokens)
        return result

    def evaluator(self, output: str) -> Any:
        """The program that gives all rows of an output; kept, since it is compiled."""
        from llamakit.engine.evaluate import Evaluator

        if output not in self._evaluators:
            runner = self._runner(self.settings.batch_size, (output,), 1)
            self._evaluators[output] = Evaluator(runner, self.engine, output)
        return self._evaluators[output]

    @cached_property
    def _evaluators(self) -> dict[str, Any]:
        return {}
