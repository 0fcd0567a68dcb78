"""Training as people use it: `Session(model).trainer(options)`, or `Trainer.resume(folder)`.

    with Session("base.gguf") as session:
        trainer = session.trainer(data=["train.jsonl"], out="run")
        trainer.on_step(lambda info: print(info.step, info.loss))
        trainer.run()

What was trained is `run/adapter.gguf` (with `full`: `run/model.gguf`), which `llamakit serve` loads.
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from llamakit.errors import DataError, ModelFileError, UsageError
from llamakit.gguf.atomic import refuse_to_replace
from llamakit.options import build_options
from llamakit.passes.memory import plan
from llamakit.run_folder import ADAPTER, MODEL
from llamakit.session import Session
from llamakit.train import checkpoint
from llamakit.train.checkpoint import CHECKPOINTS, Checkpoint, Progress
from llamakit.train.cursor import CursorState
from llamakit.train.data.files import find_files
from llamakit.train.options import TrainOptions
from llamakit.train.report import LOG_NAME, LogWriter, read_log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from llamakit.backend import TensorSource
    from llamakit.graph.graph import Graph, Tensor
    from llamakit.models import LoadedModel
    from llamakit.optimizer import Optimizer
    from llamakit.passes.lora import AdapterShape
    from llamakit.train.data.dataset import Dataset
    from llamakit.train.evaluate import Score
    from llamakit.train.graphs import Graphs
    from llamakit.train.mask import Encoder
    from llamakit.train.pack import Windows
    from llamakit.train.plan import Advice, RunPlan
    from llamakit.train.report import OnStep
    from llamakit.train.run import Run, RunResult
    from llamakit.train.stepper import Stepper

FIRST = "init.gguf"  # what training from scratch begins with, in the folder of the run
CURVES = "curves.png"  # the picture of the run
SHARE_KEPT = 0.5  # of the free memory that values of a micro-step may take before they are computed again


def check_new(folder: Path, made: str, sources: Iterable[str | Path], command: str = "finetune") -> None:
    """UsageError if a new run in a folder would replace what is no run's: `made` is the file that it is to make.

    `sources`: what it learns from. LlamaKit cannot know whose a model or an adapter is that no checkpoint belongs to.
    """
    if checkpoint.numbered(folder / CHECKPOINTS):
        hint = f"llamakit {command} resume {folder}, or another --out"
        raise UsageError(f"{folder} holds a run already", hint=hint, param="out")
    sources = list(sources)
    for name in (made, LOG_NAME, CURVES):
        refuse_to_replace(folder / name, sources, "what the run learns from")
    for path in (folder / made, folder / LOG_NAME):
        if _size(path) and not (path.name == LOG_NAME and read_log(path)):
            raise UsageError(
                f"{path} is there already; the run would replace it", hint="another --out, or move it away", param="out"
            )


def _size(path: Path) -> int:
    """Bytes of what is there; 0 where nothing is, or where the system refuses, as it will when it is written."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def base_of(folder: Path, head: Checkpoint) -> str:
    """The base of a run: where it was, or in the run's folder if that has moved with it."""
    moved = folder / FIRST
    return str(moved) if not Path(head.base).exists() and moved.exists() else head.base


def one_device(path: str | Path, **settings: Any) -> tuple[Session, str]:
    """A session that runs on one device, as training must, and what to say of the choice ("": nothing).

    A model that the GPU cannot hold is trained on the CPU, unless the GPU's backend was asked for by name. `settings`
    are those of `Session` but `device`.
    """
    session, asked = Session(path, **settings), settings.get("backend", "auto")
    try:
        named = session.offload.device
        backend = session.registry.choose_backend(asked)[0].name
    except BaseException:
        session.close()
        raise
    if not session.offload.layers and (named != "cpu" or settings.get("gpu_layers") == 0):
        return session, ""  # no GPU, or all of the model is on it
    session.close()
    gpu = f"{backend}:{settings.get('main_gpu', 0)}"
    device = "cpu" if asked == "auto" else gpu
    told = f"training runs on one device, {device}: {gpu} may not hold all of the model"
    if device == "cpu":
        told += f"; --backend {backend} tries it"
    return Session(path, device=device, **settings), told


MAKE_SAMPLES = ("kind", "template", "train_on", "packing", "ctx", "val_split")  # options
MAKE_WINDOWS = (*MAKE_SAMPLES, "truncate", "seed", "shuffle")
MAKE_WEIGHTS = ("full", "rank", "alpha", "rslora", "targets", "rank_pattern", "alpha_pattern", "optimizer")


def changed(options: TrainOptions, head: Checkpoint, names: tuple[str, ...]) -> str:
    """Which of some options are not what the run began with, for people; "" if none."""
    pairs = {name: (getattr(head.options, name), getattr(options, name)) for name in names}
    return ", ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in pairs.items() if old != new)


def check_weights(options: TrainOptions, head: Checkpoint) -> None:
    """UsageError if other weights are to be trained, or in another way, than those of the checkpoint."""
    if found := changed(options, head, MAKE_WEIGHTS):
        hint = "the options that the run began with, or a new run"
        raise UsageError("what is trained cannot change within a run", found=found, hint=hint)


def check_same(dataset: Dataset, options: TrainOptions, head: Checkpoint) -> None:
    """DataError if the data, or what becomes of it, is not what the run began with."""
    if dataset.digest != head.data_digest:
        raise DataError(
            "the data is not what the run began with: its content has changed",
            found=", ".join(dataset.files), hint="the same files, or a new run", param="data",
        )  # fmt: skip
    if head.samples_digest and dataset.samples_digest() != head.samples_digest:
        raise DataError(
            "the samples are not what the run began with: tokenizer, chat template or options make others of the data",
            found=changed(options, head, MAKE_SAMPLES)
            or f"{len(dataset.train):,} samples to learn from, {len(dataset.validation):,} to validate on",
            hint="the LlamaKit and the options that the run began with, or a new run", param="data",
        )  # fmt: skip


def order_digest(windows: tuple[Windows, Windows], options: TrainOptions) -> str:
    """SHA-256 in hex of what is learned from and validated on in which order."""
    parts = [f"{options.seed} {options.shuffle}", *(each.digest() for each in windows)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def with_places(options: TrainOptions) -> TrainOptions:
    """The options with whole paths of the data, so that a run can go on from any folder."""
    data, val_data = ([os.path.abspath(Path(each).expanduser()) for each in names]  # noqa: PTH100 - patterns too
                      for names in (options.data, options.val_data))  # fmt: skip
    return msgspec.structs.replace(options, data=data, val_data=val_data)


class Trainer:
    """One training run of a session's model.

    Everything is opened on first use: `dataset`, `windows`, `graphs` and `run_state` may be looked at before `run`.
    """

    def __init__(self, session: Session, options: TrainOptions, resumed: tuple[Path, Checkpoint] | None = None) -> None:
        self.session, self.options, self._resumed = session, options, resumed
        if not options.out:
            raise UsageError("a training run needs a folder for what it makes", hint="--out run", param="out")
        session.check_one_device()
        self.folder = Path(options.out)
        self._callbacks: list[OnStep] = []

    @classmethod
    def resume(cls, folder: str | Path, *, session: Session | None = None, **changes: Any) -> Self:
        """The run of a folder, from its last checkpoint; `changes`: options that are to be other ones now.

        ModelFileError if there is no checkpoint, or if the base is another file than it was. What is trained and the
        windows cannot change: UsageError and DataError name the options.
        """
        path, head = checkpoint.latest(Path(folder) / CHECKPOINTS)
        values = {**msgspec.to_builtins(head.options), **changes, "out": str(folder)}
        options = build_options(TrainOptions, values, where="finetune")
        check_weights(options, head)
        if session is None:
            session, _ = one_device(base_of(Path(folder), head), threads=options.threads or None)
        elif "threads" in changes:
            session.check_threads(options.threads)
        return cls(session, options, (path, head))

    def on_step(self, callback: OnStep) -> Self:
        """Call this after every step with a `train.report.StepInfo`."""
        self._callbacks.append(callback)
        return self

    def check_folder(self) -> None:
        """UsageError if the folder of a new run holds another run, or what the run would replace."""
        if self._resumed is None:
            data = find_files([*self.options.data, *self.options.val_data])
            check_new(self.folder, MODEL if self.options.full else ADAPTER, [*self.session.file.paths, *data])

    def run(self) -> RunResult:
        """Train to the end, or until `stop`. Steps are logged in the folder, and for TensorBoard if it is wanted."""
        with self.held():
            self.check_folder()
            state, o = self.run_state, self.options
            if o.nice:
                _give_way(o.nice)
            after = state.progress.step
            with ExitStack() as stack:
                writers: list[OnStep] = [stack.enter_context(LogWriter(self.folder / LOG_NAME, after_step=after))]
                if o.tensorboard:
                    from llamakit.train.tensorboard import TensorBoardWriter

                    board = TensorBoardWriter(self.folder / "tensorboard", after_step=after)
                    stack.callback(board.close)
                    writers.append(board)
                state.callbacks = [*writers, *self._callbacks]
                return state.run()

    def held(self) -> AbstractContextManager[None]:
        """The folder of the run, for this thread alone, as `train.folder.held` says; `run` holds it anyway."""
        from llamakit.train.folder import held

        return held(self.folder)

    def stop(self) -> None:
        """End after the present step, with a checkpoint."""
        self.run_state.stop()

    # -- what a run is made of, in this order -------------------------------------------------------------------

    @cached_property
    def n_ctx(self) -> int:
        """Rows of a window."""
        from llamakit.train.data.dataset import window_size

        return window_size(self.options.ctx, self.session.model.hparams.n_ctx_train)

    @cached_property
    def encoder(self) -> Encoder:
        """From records to samples, by the model's tokenizer and chat template."""
        from llamakit.train.mask import Encoder

        o = self.options
        return Encoder(self.session.tokenizer, self.session.chat_template, how=o.template, train_on=o.train_on)

    @cached_property
    def dataset(self) -> Dataset:
        """All samples."""
        from llamakit.train.data.dataset import load_dataset

        found = load_dataset(self.options, self.encoder, self.n_ctx)
        if self._resumed is not None:
            check_same(found, self.options, self._resumed[1])
        return found

    @cached_property
    def windows(self) -> tuple[Windows, Windows]:
        """Windows to learn from, and to validate on."""
        windows = self.dataset.windows(self.options, self.n_ctx)
        if not len(windows):
            raise DataError("no sample has an answer that fits into a window", hint="a larger --ctx", param="data")
        found = windows, self.dataset.validation_windows(self.options, self.n_ctx)
        head = self._resumed[1] if self._resumed else None
        if head is not None and head.windows_digest not in ("", order_digest(found, self.options)):
            raise DataError(
                "the windows are not what the run began with",
                found=changed(self.options, head, MAKE_WINDOWS) or f"{len(found[0]):,} windows of other samples",
                hint="the LlamaKit and the options that the run began with, or a new run", param="data",
            )  # fmt: skip
        return found

    @cached_property
    def settled(self) -> TrainOptions:
        """The options with what follows from data and model where they say nothing."""
        from llamakit.train.defaults import settled

        return settled(self.options, len(self.windows[0]), self.session.model.hparams.n_embd)

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer that the options name."""
        o = self.options
        cls = self.session.registry.optimizer(o.optimizer)
        return cls(build_options(cls.Options, o.optimizer_options, where=f"optimizer.{cls.name}"))

    @cached_property
    def adapters(self) -> dict[str, AdapterShape]:
        """Shapes of the adapters, by tensor; none with `full`."""
        return self._adapters(self.session.model)

    @cached_property
    def recomputes(self) -> bool:
        """Whether values are computed again: as asked, or where they would take most of the memory that is free."""
        if self.options.checkpointing != "auto":
            return self.options.checkpointing == "on"
        return 4 * plan(self._kept.gradients).total > SHARE_KEPT * self.session.device.memory().free

    @cached_property
    def graphs(self) -> Graphs:
        """What the device will run."""
        return self._graphs(self.session.model, recomputes=True) if self.recomputes else self._kept

    @cached_property
    def stepper(self) -> Stepper:
        """The states on the device, with their first values or those of the checkpoint."""
        return self._stepper(self.graphs)

    def plan(self) -> RunPlan:
        """What the run will take; a step of the first layers is run for it, nothing is written."""
        from llamakit.train.plan import RunPlan, measure, values_of

        model, graphs, o = self.session.model, self.graphs, self.options
        micro, update = measure(
            lambda n: self._stepper(self._graphs(model.shallow(n), recomputes=self.recomputes)), model.hparams.n_layer,
            self._rows, self.n_ctx, model.hparams.n_vocab,
        )  # fmt: skip
        again = graphs if self.recomputes else self._graphs(model, recomputes=True)
        device, sources = self.session.device, self._sources(graphs)
        values, values_again = (
            values_of(device, each, sources, validates=self._validates) for each in (self._kept, again)
        )
        return RunPlan(
            rows=self._rows, weights=device.footprint(graphs.gradients, sources).weights, states=graphs.state_bytes,
            values=values, values_again=values_again, saving=self._saving, recomputes=self.recomputes,
            micro_step=micro, update=update, steps=self.total_steps, micro_steps=o.grad_accumulation,
        )  # fmt: skip

    def advice(self, limit: int) -> Advice:
        """Options with which the run would take at most `limit` bytes, as `train.plan.advice` finds them."""
        from llamakit.train.plan import advice

        return advice(self.settled, self.n_ctx, self._memory_with, limit)

    def _memory_with(self, changes: dict[str, Any]) -> int:
        """Bytes of this run with other options, as `RunPlan.memory` counts them.

        Where memory is to decide whether values are computed again, they are not: another machine may decide so.
        """
        from llamakit.train.plan import values_of

        if self.options.checkpointing == "auto":
            changes = {"checkpointing": "off", **changes}
        other = Trainer(self.session, msgspec.structs.replace(self.settled, **changes))
        if other.n_ctx == self.n_ctx:
            other.dataset = self.dataset
        graphs, device = other.graphs, self.session.device
        sources = other._sources(graphs)
        weights = device.footprint(graphs.gradients, sources).weights
        return (
            weights
            + graphs.state_bytes
            + values_of(device, graphs, sources, validates=other._validates)
            + other._saving
        )

    @property
    def _validates(self) -> bool:
        """Whether there is anything to validate on."""
        return len(self.windows[1]) > 0

    @property
    def _saving(self) -> int:
        """Bytes that a checkpoint takes while it is written."""
        return max(4 * math.prod(tensor.shape) for tensor in self.graphs.trained.values())

    @cached_property
    def run_state(self) -> Run:
        """The run, at its beginning or at the checkpoint that it goes on from."""
        from llamakit.train.run import Run

        base_digest = checkpoint.digest_of_files(self.session.file.paths)
        if self._resumed is not None and self._resumed[1].base_digest != base_digest:
            raise ModelFileError(f"{self.session.path} is not the base that the run began with: its content differs")
        progress = Progress(step=0, cursor=CursorState(self.options.seed, 0, 0))
        head = Checkpoint(
            base=str(self.session.path.resolve()), base_digest=base_digest,
            data_digest=self.dataset.digest, samples_digest=self.dataset.samples_digest(),
            windows_digest=order_digest(self.windows, self.options), options=with_places(self.settled),
            progress=self._resumed[1].progress if self._resumed else progress,
        )  # fmt: skip
        run = Run(self.stepper, *self.windows, head, self.folder, self.export, self.total_steps)
        if self._resumed is not None:
            run.restore(self._resumed[0])
        return run

    def scores(self, trained: Path) -> tuple[Score, Score]:
        """How good the base, and then a checkpoint, are at the samples to learn from."""
        from llamakit.train.evaluate import score

        windows, tokenizer, batch = self.windows[0], self.session.tokenizer, self.settled.batch
        base = score(self.stepper, windows, tokenizer, batch)
        checkpoint.restore(trained, {name: self.stepper.states[name] for name in self.graphs.trained})
        return base, score(self.stepper, windows, tokenizer, batch)

    def export(self) -> None:
        """Write what is trained now, for serving."""
        from llamakit.train.export import write_model, write_trained_adapter

        try:
            if self.options.full:
                trained = {name: self.stepper.states[name] for name in self.graphs.trained}
                write_model(self.folder / MODEL, self.session.file, trained)
            else:
                write_trained_adapter(self.folder / ADAPTER, self.session.file, self.adapters, self.stepper.trained())
        except OSError as error:
            raise checkpoint.write_error(self.folder, error) from None

    @cached_property
    def _kept(self) -> Graphs:
        """The graphs with which nothing is computed again."""
        return self._graphs(self.session.model, recomputes=False)

    def _adapters(self, model: LoadedModel) -> dict[str, AdapterShape]:
        from llamakit.train.targets import adapter_shapes

        return {} if self.options.full else adapter_shapes(self._loss(model), self.options)

    def _graphs(self, model: LoadedModel, *, recomputes: bool) -> Graphs:
        from llamakit.passes.lora import ONES, add_adapters
        from llamakit.train.graphs import build_graphs
        from llamakit.train.targets import check_full

        plain = self._loss(model)
        if self.options.full:
            check_full(plain, {name: self.session.file.tensors[name].type.name for name in plain.parameters})
            loss = self._loss(model, frozenset(plain.parameters))
        else:
            loss = add_adapters(plain, self._adapters(model))
        trained = {name: tensor for name, tensor in loss.states.items() if not name.endswith(ONES)}
        return build_graphs(loss, trained, self.optimizer, recomputes=recomputes)

    def _sources(self, graphs: Graphs) -> dict[str, TensorSource]:
        from llamakit.weights import tensor_sources

        return tensor_sources(graphs.uses(), self.session.file)

    def _stepper(self, graphs: Graphs) -> Stepper:
        from llamakit.train.stepper import Stepper
        from llamakit.weights import load_weights

        device = self.session.device
        weights = load_weights(device, self._sources(graphs), graphs.uses())
        stepper = Stepper(device, graphs, weights, self.optimizer, self.session.file_check)
        for name, tensor in graphs.loss.states.items():
            stepper.states[name].write(self._first(name, tensor))
            if self.options.full:  # the file's pages are read once
                self.session.file.release(name, 0, self.session.file.tensors[name].n_bytes)
        return stepper

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        from llamakit.train.cursor import total_steps

        o = self.settled
        return o.steps or total_steps(len(self.windows[0]), o.batch, o.grad_accumulation, o.epochs)

    @cached_property
    def _rows(self) -> int:
        """The most that a micro-step may have."""
        return max(each.most_rows(self.settled.batch) for each in self.windows if len(each))

    def _loss(self, model: LoadedModel, states: frozenset[str] = frozenset()) -> Graph:
        return model.build_loss(self._rows, states=states, activations=self.options.forward)

    def _first(self, name: str, tensor: Tensor) -> Any:
        from llamakit.train.init import first_adapter

        if self.options.full:
            return self.session.model.tensor(name)
        return first_adapter(name, tensor.shape, self.options.seed)


def _give_way(to: int) -> None:
    """Lower the priority of the process, for good; of one that is lower already, leave it."""
    nice = getattr(os, "nice", None)
    if nice is None:
        raise UsageError("this system has no priorities that --nice could set", param="nice")
    nice(max(0, to - nice(0)))
