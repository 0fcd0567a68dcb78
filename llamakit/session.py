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
from typing import TYPE_CHECKING, Any, Self

import msgspec

from llamakit.errors import OutOfMemoryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import Backend, Device, Executable, KVCache, Weight
    from llamakit.engine.engine import Engine
    from llamakit.engine.request import Piece, Result
    from llamakit.engine.sequence import Past
    from llamakit.gguf import GGUFFile
    from llamakit.models import LoadedModel
    from llamakit.registry import Registry
    from llamakit.tokenizer import Tokenizer
    from llamakit.tokenizer.chat_template import ChatTemplate

REQUEST_FIELDS = ("max_tokens", "samplers", "stop", "ignore_eos", "keep", "shift", "logprobs")
MEMORY_SHARE = 0.8  # of the free memory that the KV cache may take when nobody asked for a context size


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is made from. Sizes count tokens; 0 means: decide from the model or the machine."""

    backend: str = "auto"
    backend_options: dict[str, object] = {}
    ctx_size: int = 0
    batch_size: int = 512
    kv_type: str = "f16"
    n_seq: int = 1
    rope: Any = None  # RopeOverrides | None


class Session:
    """A model, a backend and an engine. Not for use by several threads at once."""

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
            self.settings = msgspec.convert(settings, Settings, strict=True)
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

        return load_tokenizer(self.file.metadata)

    @cached_property
    def model(self) -> LoadedModel:
        """The model: `hparams`, `parameters`, `tensor(name)`, and how to build its graph."""
        from llamakit.models import load_model

        return load_model(self.file, self.settings.rope)

    @cached_property
    def registry(self) -> Registry:
        """The plugins there are."""
        from llamakit.registry import Registry

        return self._registry or Registry.discover()

    @cached_property
    def backend(self) -> tuple[Backend, str]:
        """The chosen backend, and why it was chosen."""
        from llamakit.options import build_options

        cls, reason = self.registry.choose_backend(self.settings.backend)
        values = dict(self.settings.backend_options)
        if self._threads is not None and "threads" in cls.Options.__struct_fields__:
            values.setdefault("threads", self._threads)
        return cls(build_options(cls.Options, values, where=f"backend.{cls.name}")), reason

    @cached_property
    def device(self) -> Device:
        """The backend's first device."""
        return self.backend[0].open()

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """All tensors on the device: one store for every graph of the model."""
        from llamakit.engine.runner import load_weights

        return load_weights(self.device, self.model, self.file, self._progress)

    @cached_property
    def n_ctx(self) -> int:
        """Positions a sequence may have: as asked, else the model's context as far as memory goes."""
        from llamakit.engine.runner import BLOCK_SIZE, kv_spec
        from llamakit.system import free_memory

        asked, trained = self.settings.ctx_size, self.model.hparams.n_ctx_train

        def size(n_ctx: int) -> int:
            return self.device.kv_size(kv_spec(self.model, n_ctx, self.settings.n_seq, self.settings.kv_type))

        weights = sum(weight.n_bytes for weight in self.weights.values())
        free = int(free_memory() * MEMORY_SHARE)
        if asked:
            if size(asked) > free:
                raise self._too_large(asked, size(asked), weights, free)
            return asked
        n_ctx = trained
        while n_ctx > BLOCK_SIZE and size(n_ctx) > free:
            n_ctx = max(BLOCK_SIZE, n_ctx * 3 // 4 // BLOCK_SIZE * BLOCK_SIZE)
        return n_ctx

    @cached_property
    def engine(self) -> Engine:
        """The engine, with its KV cache and its compiled program."""
        from llamakit.engine.engine import Engine
        from llamakit.engine.runner import Runner

        kv, program = self._program(self.n_ctx, self.settings.n_seq, min(64, self.settings.batch_size), ("logits",))
        n_out = min(64, self.settings.batch_size)
        runner = Runner(program, self.settings.batch_size, n_out, self.settings.n_seq)
        return Engine(runner, kv, self.tokenizer, self.registry.samplers(), self.n_ctx)

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

        `params`: `max_tokens`, `stop`, `seed`, `samplers`, `ignore_eos`, `keep`, `shift`, `logprobs`
        (see `engine.request.Request`), `past`, and every sampler option by its flat name (`temperature`, `top_k`, ...).
        """
        from llamakit.engine.engine import raise_error

        past: Past | None = params.pop("past", None)
        keep_past: Callable[[Past], None] = params.pop("keep_past", None) or (lambda past: past.release())
        engine = self.engine
        sequence = engine.submit(self.request(prompt, **params), past)
        try:
            yield from engine.stream(sequence)
        finally:
            keep_past(engine.retire(sequence))
        raise_error(sequence)
        assert sequence.result is not None  # the stream ends when there is a result
        return sequence.result

    def request(self, prompt: str | Sequence[int], **params: Any) -> Any:
        """The engine's `Request` for a prompt and flat parameters."""
        from llamakit.engine.request import Request

        tokens = self.tokenize(prompt, add_bos=True, parse_special=True) if isinstance(prompt, str) else list(prompt)
        fields = {name: params.pop(name) for name in REQUEST_FIELDS if name in params}
        seed = params.pop("seed", None)
        fields["seed"] = secrets.randbits(32) if seed is None or seed < 0 else seed
        for name in ("stop", "samplers"):
            if fields.get(name) is not None:
                value = fields[name]
                fields[name] = (value,) if isinstance(value, str) else tuple(value)
        return Request(prompt=tokens, options=params, **fields)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each token of one sequence, (n_tokens, n_vocab); at most a context long."""
        return self._evaluate(list(tokens), "logits")

    def embed(
        self, text: str | Sequence[int], *, pooling: str = "mean", normalize: bool = True
    ) -> npt.NDArray[np.float32]:
        """A vector (n_embd,) for a text. `pooling`: "mean", "last" or "cls" (first token)."""
        import numpy as np

        if pooling not in ("mean", "last", "cls"):
            raise UsageError(f"pooling {pooling!r}: use mean, last or cls")
        tokens = self.tokenize(text, add_bos=True) if isinstance(text, str) else list(text)
        if not tokens:
            raise UsageError("there is nothing to embed: the text gives no tokens")
        states = self._evaluate(tokens, "embeddings").astype(np.float64)
        vector = states.mean(axis=0) if pooling == "mean" else states[-1 if pooling == "last" else 0]
        norm = float(np.linalg.norm(vector)) if normalize else 1.0
        result: npt.NDArray[np.float32] = (vector / (norm or 1.0)).astype(np.float32)
        return result

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template."""
        from llamakit.tokenizer.chat_template import ChatTemplate

        return ChatTemplate.from_metadata(self.file.metadata, self.tokenizer)

    def close(self) -> None:
        """Give memory and the file back."""
        for name in ("engine", "weights"):
            self.__dict__.pop(name, None)
        if "device" in self.__dict__:
            self.__dict__.pop("device").close()
        if "file" in self.__dict__:
            self.__dict__.pop("file").close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- how ----------------------------------------------------------------------------------------------------

    def _too_large(self, n_ctx: int, kv: int, weights: int, free: int) -> OutOfMemoryError:
        """The error for a KV cache that does not fit; says what each setting would save."""
        half = f"-c {n_ctx // 2} saves {kv / 2 / 2**30:.1f} GiB"
        smaller = {"f32": ("f16", 0.5), "f16": ("q8_0", 0.47), "bf16": ("q8_0", 0.47)}.get(self.settings.kv_type)
        other = f"\n--kv-type {smaller[0]} saves {kv * smaller[1] / 2**30:.1f} GiB" if smaller else ""
        return OutOfMemoryError(
            f"not enough memory: a context of {n_ctx:,} tokens needs {kv / 2**30:.1f} GiB,"
            f" {free / 2**30:.1f} GiB may be taken",
            found=f"weights {weights / 2**30:.1f} GiB, KV {kv / 2**30:.1f} GiB ({self.settings.n_seq} x {n_ctx:,},"
            f" {self.settings.kv_type})",
            hint=half + other,
            param="ctx_size",
        )

    def _program(self, n_ctx: int, n_seq: int, n_out: int, outputs: tuple[str, ...]) -> tuple[KVCache, Executable]:
        """A KV cache, and the model's graph compiled to use it."""
        from llamakit.engine.runner import BLOCK_SIZE, kv_spec
        from llamakit.models import GraphSizes
        from llamakit.passes.pipeline import prepare

        kv = self.device.kv_cache(kv_spec(self.model, n_ctx, n_seq, self.settings.kv_type))
        sizes = GraphSizes(
            rows=self.settings.batch_size, out_rows=n_out, seqs=n_seq, blocks_per_seq=-(-n_ctx // BLOCK_SIZE) + 1
        )
        graph = prepare(self.model.build(sizes, outputs=outputs))
        return kv, self.device.compile(graph, self.weights, kv=kv)

    def _evaluate(self, tokens: list[int], output: str) -> npt.NDArray[np.float32]:
        """One output for every token of one sequence."""
        from llamakit.engine.evaluate import evaluate

        result: npt.NDArray[np.float32] = evaluate(self.evaluator(output), tokens)
        return result

    def evaluator(self, output: str) -> Any:
        """The program that gives all rows of an output; kept, since it is compiled."""
        from llamakit.engine.evaluate import Evaluator

        if output not in self._evaluators:
            kv, program = self._program(self.n_ctx, 1, self.settings.batch_size, (output,))
            self._evaluators[output] = Evaluator(program, kv, self.n_ctx, self.settings.batch_size, output)
        return self._evaluators[output]

    @cached_property
    def _evaluators(self) -> dict[str, Any]:
        return {}
