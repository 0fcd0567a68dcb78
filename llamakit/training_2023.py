"""The training tools of 2023, `finetune` and `train-text-from-scratch`, on this trainer.

    run_2023("finetune", ["--model-base", "base.gguf", "--train-data", "text.txt", "--lora-out", "lora-ITERATION.gguf"])

Their command lines are taken as they were (`train.tools_2023.flags`), their checkpoints continued and written.
"""

from __future__ import annotations

import dataclasses
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.errors import ModelFileError, UsageError, shown
from llamakit.gguf import StringArray, ValueType, open_gguf
from llamakit.gguf.atomic import refuse_to_replace
from llamakit.gguf.reader import paths_of
from llamakit.models import RopeOverrides
from llamakit.options import build_options
from llamakit.session import Session
from llamakit.text_file import read_whole
from llamakit.train.tools_2023.checkpoint import Checkpoint2023, read_checkpoint, with_vocabulary, write_model
from llamakit.train.tools_2023.flags import KINDS, NORMS, Tool
from llamakit.train.tools_2023.plan import Plan2023, plan_2023

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.train.report import OnStep
    from llamakit.train.stepper import Stepper
    from llamakit.train.tools_2023.run import Run2023
    from llamakit.train.tools_2023.samples import SampleStream


MOST_CTX = 1 << 24  # as `TrainOptions.ctx` has it
MOST_DATA = 1 << 36  # bytes of a text to learn from, which is in memory as a whole


def run_2023(
    tool: Tool,
    args: Sequence[str],
    *,
    backend: str = "auto",
    on_step: OnStep | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Do what a command line of 2023 asks for; returns why it ended: "done", "written", or a rule that stopped it.

    `say` takes lines for people. Raises UsageError, ModelFileError, DataError.
    """
    with Tool2023(plan_2023(tool, args), backend=backend, say=say) as made:
        if made.plan.only_write:
            made.write_only()
            return "written"
        if on_step is not None:
            made.run_state.callbacks.append(on_step)
        return made.run_state.run()


class Tool2023:
    """One run of a tool. Everything is opened on first use; use it in a `with`."""

    def __init__(
        self, plan: Plan2023, *, backend: str = "auto", say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.plan, self.backend, self.say = plan, backend, say
        _check_outputs(plan)
        self.lora = plan.tool == "finetune"
        self._folder = tempfile.TemporaryDirectory(prefix="llamakit-")

    def __enter__(self) -> Tool2023:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if "session" in self.__dict__:
            self.session.close()
        self._folder.cleanup()

    @cached_property
    def read(self) -> Checkpoint2023 | None:
        """The checkpoint to go on from, if there is one."""
        path = self.plan.files.checkpoint_in
        if not path or not Path(path).exists():
            self.say(f"no checkpoint {path!r}: starting a new run")
            return None
        found = read_checkpoint(path)
        if (found.kind == "finetune_lora") != self.lora:
            raise UsageError(f"{path} is a checkpoint of {found.kind}, not of {self.plan.tool}", param="checkpoint_in")
        if found.optimizer.type != "adam":
            raise ModelFileError(f"{path} was trained with {found.optimizer.type}, which was broken; adam continues")
        return found

    @cached_property
    def n_ctx(self) -> int:
        """Tokens of a window: of the command line, else of the checkpoint."""
        if self.read is not None and not self.plan.n_ctx_given and "llama.context_length" in self.read.model:
            n_ctx = self.read.model["llama.context_length"][2]
            if not isinstance(n_ctx, int) or isinstance(n_ctx, bool) or not 0 < n_ctx <= MOST_CTX:
                told = f"{self.plan.files.checkpoint_in}: llama.context_length is {shown(n_ctx)}"
                raise ModelFileError(told, hint="--ctx N", found=f"1 to {MOST_CTX:,} are possible")
            return n_ctx
        return self.plan.options.ctx

    @cached_property
    def start(self) -> Checkpoint2023:
        """Where the run starts: the checkpoint, or first values."""
        if not self.lora:
            return self._first_model() if self.read is None else self._known_model(self.read)
        fresh = self._first_adapters()
        if self.read is None:
            return fresh
        wanted, found = ({n: x.shape for n, x in each.tensors.items()} for each in (fresh, self.read))
        if wanted != found:
            odd = next(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
            raise UsageError(
                f"{self.plan.files.checkpoint_in} does not fit: {odd} is {found.get(odd)}, not {wanted.get(odd)}",
                hint="the ranks and the base that it was trained with, or --checkpoint-in ''",
            )
        return self._with_alpha(self.read)

    def _with_alpha(self, found: Checkpoint2023) -> Checkpoint2023:
        """The checkpoint with r and alpha as the command line says them, if they are those that it was trained with."""
        r, alpha = self.plan.lora_r, self.plan.lora_alpha
        if self.plan.alpha_given:
            if alpha * found.lora_r != r * found.lora_alpha:
                raise UsageError(
                    f"{self.plan.files.checkpoint_in} was trained with alpha / r = {found.scale:g}",
                    found=f"--lora-alpha {alpha}, --lora-r {r}: {alpha / r:g}",
                    hint="leave --lora-alpha out", param="lora_alpha",
                )  # fmt: skip
            return dataclasses.replace(found, lora_r=r, lora_alpha=alpha)
        alpha, rest = divmod(found.lora_alpha * r, found.lora_r)  # both stay whole numbers, for ggla
        return found if rest else dataclasses.replace(found, lora_r=r, lora_alpha=alpha)

    @cached_property
    def session(self) -> Session:
        """The base; of a model from scratch, the model as it starts."""
        path = Path(self.plan.model)
        if not self.lora:
            path = Path(self._folder.name) / "start.gguf"
            write_model(path, self.start)
        base, scale, epsilon = (
            self.plan.overrides.get(key) for key in ("rope_freq_base", "rope_freq_scale", "norm_rms_eps")
        )
        linear = None if scale is None else "linear"
        rope = RopeOverrides(freq_base=base, freq_scale=scale, scaling=linear) if base or scale else None
        session = Session(path, backend=self.backend, threads=self.plan.options.threads or None, rope=rope)
        if epsilon is not None:
            session.model.hparams = msgspec.structs.replace(session.model.hparams, norm_epsilon=epsilon)
        return session

    # -- first values --------------------------------------------------------------------------------------------

    def _first_adapters(self) -> Checkpoint2023:
        """New adapters for the base, B zero, in the form of a checkpoint."""
        from llamakit.train.init import first_adapter

        model, seed = self.session.model, self.plan.options.seed
        h = model.hparams
        if h.architecture != "llama":
            raise UsageError(
                f"the tools of 2023 know the architecture llama; {self.plan.model} is {h.architecture}",
                hint="llamakit finetune -m FILE --data FILE --out FOLDER",
            )
        tensors: dict[str, Any] = {}
        for name in parameter_names(h.n_layer):
            rank = self.plan.ranks[name.removesuffix(".weight").rpartition(".")[2]]
            if not rank or name not in self.session.file.tensors:
                continue
            *outer, n_in = self.session.file.tensors[name].shape
            if rank > min((*outer, n_in)):
                raise self._too_high(name, rank, min((*outer, n_in)))
            a = first_adapter(f"{name}.lora_a", (rank, n_in), seed)
            tensors[f"{name}.lora_a"] = np.ascontiguousarray(a.T)
            tensors[f"{name}.lora_b"] = np.zeros((outer[0] if outer else 1, rank), np.float32)
        if not tensors:
            raise UsageError("there is nothing to train: all ranks are 0")
        sizes = {
            "context_length": self.n_ctx, "embedding_length": h.n_embd, "feed_forward_length": h.n_ff,
            "attention.head_count": h.n_head, "attention.head_count_kv": h.n_head_kv, "block_count": h.n_layer,
            "rope.dimension_count": h.rope.n_rot,
        }  # fmt: skip
        return Checkpoint2023(
            "finetune_lora", _metadata(sizes, h.norm_epsilon, h.rope.freq_base, h.rope.factor), tensors,
            lora_r=self.plan.lora_r, lora_alpha=self.plan.lora_alpha,
        )  # fmt: skip

    def _too_high(self, name: str, rank: int, most: int) -> UsageError:
        """2023 trained such an adapter, which no reader takes."""
        kind = name.removesuffix(".weight").rpartition(".")[2]
        flag = f"rank-{KINDS[kind]}" if kind in NORMS or rank != self.plan.lora_r else "lora-r"
        text = f"--{flag} {rank} is more than the smaller side of {name!r}"
        return UsageError(text, hint=f"at most {most}", param=flag.replace("-", "_"))

    def _first_model(self) -> Checkpoint2023:
        """A new model of the shape and with the vocabulary that the command line names."""
        from llamakit.train.init import first_weight
        from llamakit.train.scratch import Shape

        s = self.plan.shape
        assert s is not None  # of this tool
        with open_gguf(self.plan.model) as file:
            n_vocab = len(_tokens(file))
        sizes = {
            "context_length": self.n_ctx, "embedding_length": s.n_embd, "feed_forward_length": s.n_ff,
            "attention.head_count": s.n_head, "block_count": s.n_layer, "rope.dimension_count": s.n_embd // s.n_head,
        }  # fmt: skip
        model = _metadata(sizes, s.norm_rms_eps, s.rope_freq_base, 1 / s.rope_freq_scale)
        shapes = Shape(
            n_vocab=n_vocab, n_ctx=self.n_ctx, n_embd=s.n_embd, n_layer=s.n_layer, n_head=s.n_head, n_head_kv=s.n_head,
            n_ff=s.n_ff, tied=False, rope_base=s.rope_freq_base, norm_eps=s.norm_rms_eps,
        ).tensors  # fmt: skip
        seed = self.plan.options.seed
        tensors = {name: first_weight(name, shapes[name], s.n_layer, seed) for name in parameter_names(s.n_layer)}
        return with_vocabulary(Checkpoint2023("train_model", model, tensors), self.plan.model)

    def _known_model(self, found: Checkpoint2023) -> Checkpoint2023:
        """A checkpoint with a vocabulary, which those of before GGUF lack, and the context of this run."""
        if "tokenizer.ggml.tokens" not in found.model:
            found = with_vocabulary(found, self.plan.model)
        odd = found.tensors.keys() - set(parameter_names(found.n_layer))
        if odd:
            raise ModelFileError(
                f"{self.plan.files.checkpoint_in} has tensors that checkpoints of 2023 cannot hold",
                found=", ".join(sorted(odd)[:4]),
                hint="llamakit finetune -m FILE --full",
            )
        context = {"llama.context_length": (ValueType.UINT32, None, self.n_ctx)}
        return dataclasses.replace(found, model={**found.model, **context})

    # -- what is run ---------------------------------------------------------------------------------------------

    @cached_property
    def stream(self) -> SampleStream:
        """The samples, where the checkpoint was if they are its own."""
        from llamakit.train.tools_2023.samples import SampleStream, cut_samples

        path, session = Path(self.plan.files.train_data), self.session
        try:
            data = read_whole(path, MOST_DATA)
        except OSError as error:
            raise UsageError(f"the training data {path} cannot be read: {error.strerror}", param="train_data") from None
        tokens = _tokens(session.file)
        longest = max(len(tokens.bytes(i)) for i in range(len(tokens)))
        cut = cut_samples(data, session.tokenize, self.n_ctx, self.plan.samples, longest_token=longest)
        for text in cut.warnings:
            self.say(text)
        tokenizer = session.tokenizer
        stream = SampleStream(
            cut, self.n_ctx, self.plan.samples, bos=tokenizer.bos_id or 0, eos=tokenizer.eos_id or 0,
            n_vocab=session.model.hparams.n_vocab, seed=self.plan.options.seed, filename=self.plan.files.train_data,
            shuffle=self.start.shuffle, force_reshuffle=self.plan.force_reshuffle,
        )  # fmt: skip
        if self.start.shuffle is not None and not stream.resumed:
            self.say("the epoch begins again: the data is not the checkpoint's, or --force-reshuffle")
        self.say(f"{len(cut.begins)} samples, {len(cut.tokens)} tokens, {len(np.unique(cut.tokens))} different ones")
        return stream

    @cached_property
    def stepper(self) -> Stepper:
        """The states on the device, as the run starts."""
        from llamakit.passes.lora import ONES, AdapterShape, add_adapters
        from llamakit.train.graphs import build_graphs
        from llamakit.train.stepper import Stepper
        from llamakit.train.tools_2023.run import write_states
        from llamakit.weights import load_weights, tensor_sources

        session, options = self.session, self.plan.options
        states = frozenset() if self.lora else frozenset(self.start.tensors)
        loss = session.model.build_loss(options.batch * self.n_ctx, states=states, activations="f32")
        if self.lora:
            shapes = {name: AdapterShape(each.A.shape[0], each.scale) for name, each in self.start.adapters().items()}
            loss = add_adapters(loss, shapes)
        trained = {name: tensor for name, tensor in loss.states.items() if not name.endswith(ONES)}
        cls = session.registry.optimizer("adamw")
        optimizer = cls(build_options(cls.Options, options.optimizer_options, where="adamw"))
        graphs = build_graphs(loss, trained, optimizer, recomputes=options.checkpointing == "on")
        weights = load_weights(session.device, tensor_sources(graphs.uses(), session.file), graphs.uses())
        stepper = Stepper(session.device, graphs, weights, optimizer)
        for name in loss.states.keys() - trained.keys():
            stepper.states[name].write(np.ones(stepper.states[name].shape, np.float32))
        write_states(stepper, self.start)
        return stepper

    @cached_property
    def run_state(self) -> Run2023:
        """The run."""
        from llamakit.train.tools_2023.run import Run2023

        self.stream, self.stepper  # noqa: B018 - in this order: faults of the data come first
        return Run2023(self.plan, self.stepper, self.stream, self.start, self.session.file, self.say)

    def write_only(self) -> None:
        """--only-write-lora and --only-write-model."""
        from llamakit.train.tools_2023.run import write_output

        if self.read is None:
            raise UsageError(f"no checkpoint {self.plan.files.checkpoint_in!r} to write", param="checkpoint_in")
        write_output(self.plan, self.start, self.session.file if self.lora else None)


def _check_outputs(plan: Plan2023) -> None:
    """Refuse to write over what is learned from. Only the next checkpoint may take the place of the last."""
    files = plan.files
    sources: list[str | Path] = [*paths_of(plan.model)]
    sources += [files.train_data] if files.train_data else []
    for name in (files.checkpoint_out, files.output):
        for path in files.outputs(name, 0):
            refuse_to_replace(path, sources, "what is learned from")
    for path in files.outputs(files.output, 0) if files.checkpoint_in else ():
        refuse_to_replace(path, [files.checkpoint_in], "the checkpoint")


def parameter_names(n_layer: int) -> list[str]:
    """Names of the tensors in the order of the files of 2023."""
    top = ["token_embd", "output_norm", "output"]
    layer = [kind for kind in KINDS if kind not in top]
    return [f"{name}.weight" for name in [*top, *(f"blk.{i}.{kind}" for i in range(n_layer) for kind in layer)]]


def _metadata(sizes: dict[str, int], epsilon: float, freq_base: float, factor: float) -> dict[str, Any]:
    """The metadata of a llama model of 2023; `factor`: how far positions are stretched."""
    made: dict[str, Any] = {"general.architecture": (ValueType.STRING, None, b"llama")}
    made["general.file_type"] = (ValueType.UINT32, None, 0)
    made |= {f"llama.{key}": (ValueType.UINT32, None, value) for key, value in sizes.items()}
    floats = {"attention.layer_norm_rms_epsilon": epsilon, "rope.freq_base": freq_base, "rope.scale_linear": factor}
    return made | {f"llama.{key}": (ValueType.FLOAT32, None, value) for key, value in floats.items()}


def _tokens(file: Any) -> Any:
    """The texts of a vocabulary."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        raise ModelFileError(f"{file.path} has no vocabulary")
    return tokens
