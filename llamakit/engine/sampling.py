"""Chains of samplers: composing them from options, and running them over a step's logits.

The default order is that of the 2023 server. A chain of built-in samplers runs natively, for all rows in one call;
one with a Python sampler runs stage by stage, and only pays for a copy of its row if that sampler asks for one.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from llamakit.engine.device_rows import DeviceRows, sample_on_device
from llamakit.engine.failure import blame, check_forced, no_token, own_failure
from llamakit.engine.pace import by_time, must_wait
from llamakit.engine.request import NONE_LIKELY, Likely
from llamakit.errors import LONGEST_NAME, BackendError, LlamaKitError, PluginError, UsageError
from llamakit.options import build_options, near
from llamakit.sampler import EndOfAnswer, NativeSampler, Sampler, SequenceContext, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.engine.device_rows import Pending
    from llamakit.engine.pace import Pace
    from llamakit.engine.request import Request
    from llamakit.engine.sequence import Details
    from llamakit.engine.sequence import Sequence as Sequence_

    Rows: TypeAlias = npt.NDArray[np.float32] | DeviceRows

FIRST = ("logit_bias", "grammar", "penalties")  # run before all others unless the order names them
TRUNCATION = ("top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature")
DEFAULT_CHAIN = (*FIRST, *TRUNCATION, "dist")
FETCHED_AT_ONCE = 8  # rows of a device, so that few are fetched for chains that wait in the end
CHOOSERS = ("greedy", "dist", "mirostat")


class Choice(msgspec.Struct, frozen=True):
    """What a chain chose for a row; with an `error`, or if it `ends`, the row's answer ends."""

    token_id: int
    error: LlamaKitError | None = None
    ends: bool = False  # a sampler left no token on purpose
    waits: bool = False  # for the next step, since enough was done in this one


class SamplerChain:
    """The samplers of one sequence, in order; the last one chooses."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self.samplers = list(samplers)
        stages = [_native_stage(sampler) for sampler in self.samplers]
        self.stages: list[Any] | None = None if any(stage is None for stage in stages) else stages
        self._forcing = [sampler for sampler in self.samplers if type(sampler).forced is not Sampler.forced]

    @property
    def names(self) -> list[str]:
        """Names of the samplers, in order."""
        return [sampler.name for sampler in self.samplers]

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose a token from one row, (n_vocab,). State does not change until `accept`."""
        choice = sample_rows(logits.reshape(1, -1), [0], [self])[0]
        if choice.error is not None:
            raise choice.error
        return choice.token_id

    def accept(self, token_id: int) -> None:
        """Tell every sampler that `token_id` follows."""
        sampler = None
        try:
            for sampler in self.samplers:
                sampler.accept(token_id)
        except BaseException as error:
            blame(_part(sampler), error)

    def accept_many(self, token_ids: Sequence[int]) -> None:
        """Tell every sampler several tokens; native ones as an array, since to read a list takes ten times as long."""
        import numpy as np

        sampler = None
        try:
            packed: Any = np.asarray(token_ids, np.int32)
            for sampler in self.samplers:
                native = type(sampler).accept_many is NativeSampler.accept_many
                sampler.accept_many(packed if native else token_ids)
        except BaseException as error:
            blame(_part(sampler), error)

    def start(self) -> None:
        """Tell every sampler that the prompt is complete."""
        sampler = None
        try:
            for sampler in self.samplers:
                sampler.start()
        except BaseException as error:
            blame(_part(sampler), error)

    def forced(self, n: int) -> list[int]:
        """Tokens that must follow, at most `n`."""
        sampler = None
        try:
            for sampler in self._forcing:
                tokens = sampler.forced(n)
                if tokens:
                    return check_forced(tokens, sampler.context.n_vocab, sampler.name)[:n]
        except BaseException as error:
            blame(_part(sampler), error)
        return []

    def reset(self) -> None:
        """Forget the sequence."""
        for sampler in self.samplers:
            sampler.reset()

    def clone(self) -> SamplerChain:
        """An independent copy with the same state."""
        try:
            return SamplerChain([sampler.clone() for sampler in self.samplers])
        except BaseException as error:
            blame(_part(None), error)


def make_chain(
    classes: Mapping[str, type[Sampler]],
    values: Mapping[str, object],
    order: Sequence[str] | None,
    context: SequenceContext,
) -> SamplerChain:
    """The chain for flat option `values`.

    `order` names samplers; those of `FIRST` go first unless named, and a chooser is added where it names
    none. Temperature 0 makes the chain greedy; `mirostat` takes the place of what truncates.
    """
    return plan_chain(classes, values, order).chain(context)


class ChainPlan(msgspec.Struct, frozen=True):
    """Samplers in order with their options, which all chains that are made of it share, as they do `stateless` ones."""

    samplers: list[tuple[type[Sampler], Any]]
    shared: dict[str, Sampler | None] = {}

    def chain(self, context: SequenceContext) -> SamplerChain:
        """A chain for a sequence."""
        made = [self._sampler(cls, options, context) for cls, options in self.samplers]
        return SamplerChain([sampler for sampler in made if sampler is not None])

    def _sampler(self, cls: type[Sampler], options: Any, context: SequenceContext) -> Sampler | None:
        if not cls.stateless:
            return _made(cls, options, context)
        if cls.name not in self.shared:
            self.shared[cls.name] = _made(cls, options, context)
        return self.shared[cls.name]


def plan_chain(
    classes: Mapping[str, type[Sampler]], values: Mapping[str, object], order: Sequence[str] | None
) -> ChainPlan:
    """What `make_chain` makes chains of, checked."""
    options = _options(classes, values)
    return ChainPlan([(classes[name], options[name]) for name in _names(classes, order, options)])


def _made(cls: type[Sampler], options: Any, context: SequenceContext) -> Sampler | None:
    """A sampler of a chain, unless it would do nothing."""
    try:
        sampler = cls(options, context)
        return sampler if sampler.active() or sampler.stage is Stage.CHOOSE else None
    except BaseException as error:
        blame(f"sampler {cls.name!r}", error)


def _names(classes: Mapping[str, type[Sampler]], order: Sequence[str] | None, options: Mapping[str, Any]) -> list[str]:
    named = list(TRUNCATION if order is None else order)
    for i, name in enumerate(named):
        if name not in classes:
            raise UsageError(
                f"no sampler named {name[:LONGEST_NAME]!r} (number {i + 1} of samplers)",
                found=near(name, classes),
                param="samplers",
            )
    if len(set(named)) < len(named):
        raise UsageError(f"a sampler is named twice: {'; '.join(named)}", param="samplers")
    named = [name for name in FIRST if name not in named and name in classes] + named
    if getattr(options.get("mirostat"), "mirostat", 0):
        keep = [n for n in named if n not in TRUNCATION and n not in CHOOSERS]
        return [*keep, "temperature", "mirostat"]
    choosers = [name for name in named if classes[name].stage is Stage.CHOOSE]
    if choosers and named[-1] != choosers[0]:
        raise UsageError(
            f"sampler {choosers[0]!r} chooses the token, so it must be the only chooser and the last sampler",
            param="samplers",
        )
    if choosers:
        return named
    if getattr(options.get("temperature"), "temperature", 1.0) == 0:
        return [*(n for n in named if n not in TRUNCATION), "greedy"]
    return [*named, "dist"]


def _options(classes: Mapping[str, type[Sampler]], values: Mapping[str, object]) -> dict[str, Any]:
    """Each sampler's options from flat values: built-ins by field, others as `<sampler>.<field>` or by field."""
    parts: dict[str, dict[str, object]] = {name: {} for name in classes}
    owners = {field: name for name in reversed(list(classes)) for field in classes[name].Options.__struct_fields__}
    for key, value in values.items():
        name, _, field = key.partition(".")
        if field and name in classes:
            parts[name][field] = value
        elif key in owners:
            parts[owners[key]][key] = value
        else:
            raise UsageError(f"no sampler option {key!r}", found=near(key, sorted(owners)), param=key)
    return {name: build_options(cls.Options, parts[name]) for name, cls in classes.items()}


def sample_rows(
    logits: Rows, rows: Sequence[int], chains: Sequence[SamplerChain], pace: Pace | None = None
) -> list[Choice]:
    """Choose a token for `rows` of `logits` (n_rows, n_vocab), each with its chain; at a `pace`, some wait."""
    if isinstance(logits, DeviceRows):
        return _sample_device_rows(logits, rows, chains, pace)
    choices: list[Choice] = []
    for native, numbers in groupby(range(len(chains)), lambda i: chains[i].stages is not None):  # in order: see `Pace`
        part = list(numbers)
        if native:
            choices += _sample_native(logits, [rows[i] for i in part], [chains[i].stages for i in part], pace)
        else:
            choices += [_sample_row(logits[rows[i]], chains[i], pace) for i in part]
    return choices


def _sample_native(
    logits: npt.NDArray[np.float32], rows: list[int], chains: list[list[Any] | None], pace: Pace | None
) -> list[Choice]:
    """Chains of native stages, in one call."""
    from llamakit import _sampling

    most = () if pace is None else (pace.until, pace.rows_until)
    results = _sampling.sample_rows(logits, rows, chains, *most)
    return [_choice(token, message, logits[row]) for row, (token, message) in zip(rows, results, strict=True)]


def _sample_device_rows(
    logits: DeviceRows, rows: Sequence[int], chains: Sequence[SamplerChain], pace: Pace | None
) -> list[Choice]:
    """From the likeliest tokens where these settle it; from fetched rows where not, in order: see `Pace`."""
    found, pending = sample_on_device(logits, rows, chains, pace)
    choices = {i: Choice(token) for i, token in found.items()}
    left = (i for i in range(len(chains)) if i not in choices)
    for native, numbers in groupby(left, lambda i: chains[i].stages is not None):
        part = list(numbers)
        if native:
            for start in range(0, len(part), FETCHED_AT_ONCE):
                choices |= _fetch_and_sample(logits, rows, chains, part[start : start + FETCHED_AT_ONCE], pace)
        else:
            choices |= {i: _sample_pending(logits, rows[i], chains[i], pending.get(i), pace) for i in part}
    return [choices[i] for i in range(len(chains))]


def _fetch_and_sample(
    logits: DeviceRows, rows: Sequence[int], chains: Sequence[SamplerChain], part: list[int], pace: Pace | None
) -> dict[int, Choice]:
    """Some chains of native stages that need their rows. No row is fetched for those that wait."""
    import numpy as np

    going = [i for i in part if not _waits_for_row(chains[i], pace)]
    choices = {i: Choice(-1, waits=True) for i in part}
    if going:
        logits.fetch([rows[i] for i in going])
        fetched = np.stack([logits[rows[i]] for i in going])
        found = _sample_native(fetched, list(range(len(going))), [chains[i].stages for i in going], pace)
        choices |= zip(going, found, strict=True)
    return choices


def _waits_for_row(chain: SamplerChain, pace: Pace | None) -> bool:
    """Whether a chain of native stages that needs its whole row waits; one with a grammar waits for grammars only."""
    if pace is None:
        return False
    masks = any(stage.masks() for stage in chain.stages or [])
    return pace.is_over if masks else pace.rows_are_over


def _sample_pending(
    logits: DeviceRows, row: int, chain: SamplerChain, pending: Pending | None, pace: Pace | None
) -> Choice:
    """A chain with samplers written in Python: by the likeliest tokens if they do, or else by its row."""
    try:
        if must_wait(chain, pace, python=True):
            return Choice(-1, waits=True)
        if pending is not None:
            with by_time():
                token = pending.choose()
            if token is not None:
                return Choice(token)
    except BaseException as error:
        return Choice(-1, own_failure(error, _part(None), on_host=True))
    return _sample_row(logits[row], chain, None)  # it has begun


def _part(sampler: Sampler | None) -> str:
    """How an error names the sampler that raised it."""
    return "a chain of samplers" if sampler is None else f"sampler {sampler.name!r}"


def _native_stage(sampler: Sampler) -> Any | None:
    """What does a sampler's work natively; a PluginError where it gives something else."""
    from llamakit import _sampling

    try:
        stage = sampler.native()
    except BaseException as error:
        blame(_part(sampler), error)
    if stage is not None and not isinstance(stage, _sampling.Stage):
        raise PluginError(f"sampler {sampler.name!r} gives {type(stage).__name__} as its native stage")
    return stage


def _choice(token: int, message: str, row: npt.NDArray[np.float32]) -> Choice:
    """What a native chain gave: a token, or what else became of its row."""
    import numpy as np

    from llamakit import _sampling

    if token >= 0:
        return Choice(token)
    if token == _sampling.END:
        return Choice(-1, ends=True)
    if token == _sampling.WAITS:
        return Choice(-1, waits=True)
    if token == _sampling.NO_TOKEN:
        return Choice(-1, no_token(message))
    if token == _sampling.BAD_LOGITS and row.max() < np.inf:  # neither NaN nor infinity came from the model
        return Choice(-1, UsageError(f"after the samplers {message}", hint="options of smaller values"))
    return Choice(-1, BackendError(message))


def _sample_row(row: npt.NDArray[np.float32], chain: SamplerChain, pace: Pace | None) -> Choice:
    """Stage by stage, counted by its time; a sampler that raises ends this row only."""
    try:
        if must_wait(chain, pace, python=True):
            return Choice(-1, waits=True)
        with by_time():
            return _choose(row, chain)
    except BaseException as error:
        return Choice(-1, own_failure(error, _part(None), on_host=True))


def _choose(row: npt.NDArray[np.float32], chain: SamplerChain) -> Choice:
    """The whole chain; those that mask may be left out at first: `Sampler.masks`."""
    masking = [sampler for sampler in chain.samplers if sampler.masks()]
    if masking:
        choice = _run(row, [sampler for sampler in chain.samplers if sampler not in masking], again=False)
        if choice.token_id >= 0 and all(sampler.permits(choice.token_id) for sampler in masking):
            return choice
    return _run(row, chain.samplers, again=bool(masking))


def _run(row: npt.NDArray[np.float32], samplers: Sequence[Sampler], *, again: bool) -> Choice:
    """One pass; `again`: what was drawn first was not permitted."""
    from llamakit import _sampling

    candidates = NativeCandidates(row)
    if again:
        candidates.handle.draw_again()
    for sampler in samplers:
        try:
            apply(sampler, candidates)
        except (EndOfAnswer, _sampling.SamplingEnd):
            return Choice(-1, ends=True)
        except LlamaKitError as error:
            return Choice(-1, error)
    if candidates.chosen is None:
        return Choice(-1, PluginError(f"the last sampler, {samplers[-1].name!r}, chose no token"))
    return Choice(candidates.chosen)


def apply(sampler: Sampler, candidates: NativeCandidates) -> None:
    """Have a sampler change candidates. What it raises comes as one of our errors, but for the end of an answer."""
    from llamakit import _sampling

    try:
        stage = sampler.native()
        if stage is None:
            sampler.apply(candidates)
        else:
            stage.apply(candidates.handle)
    except (EndOfAnswer, _sampling.SamplingEnd):
        raise
    except BaseException as error:
        blame(_part(sampler), error)


def probabilities(logits: npt.NDArray[np.float32], token_id: int, n: int) -> tuple[float, Likely]:
    """Log-probability of a token before any sampler, and the `n` likeliest tokens with theirs."""
    from llamakit import _sampling

    ids, values, log_sum = _sampling.Candidates(logits).log_probabilities(n)
    return float(logits[token_id]) - log_sum, Likely(ids, values)


def probabilities_after(
    logits: npt.NDArray[np.float32], chain: SamplerChain, token_id: int, n: int
) -> tuple[float, Likely]:
    """Of the tokens that the chain leaves to its last sampler: the probability of one, and the `n` likeliest."""
    candidates = NativeCandidates(logits)
    for sampler in chain.samplers[:-1]:
        apply(sampler, candidates)
    ids, values, log_sum = candidates.handle.probabilities(n)
    likely = Likely(ids, values)
    prob = likely.number_of(token_id)
    if prob is None:
        left, logits = candidates.array()
        prob = next((math.exp(logit - log_sum) for logit in logits[left == token_id].tolist()), 0.0)
    return prob, likely


def wants_details(sequence: Sequence_) -> bool:
    """Whether it has to be found out how likely tokens of an answer were."""
    group = sequence.group
    return group.request.logprobs is not None or group.scored or bool(group.request.probs_after)


def details(rows: Rows, row: int, token_id: int, request: Request, sequence: Sequence_) -> Details | None:
    """What the request wants to know of a token chosen from a row, before the chain accepts it; adds to the score."""
    if not wants_details(sequence):
        return None
    scored = sequence.group.scored
    logits = rows[row]
    logprob = prob = 0.0
    top = after = NONE_LIKELY
    if request.logprobs is not None or scored:
        logprob, top = probabilities(logits, token_id, request.logprobs or 0)
        sequence.score += logprob
    if request.probs_after:
        prob, after = probabilities_after(logits, sequence.chain, token_id, request.probs_after)
    return (None if request.logprobs is None else logprob), top, prob, after


class NativeCandidates:
    """`sampler.Candidates` for samplers written in Python, over a row on the host or another native handle."""

    def __init__(self, row: Any) -> None:
        from llamakit import _sampling

        self.handle = row if isinstance(row, _sampling.Candidates) else _sampling.Candidates(row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)

    def __len__(self) -> int:
        return len(self.handle)

    def top(self, k: int) -> Any:
        """The `k` likeliest, with the maximum and log-sum-exp over all candidates."""
        from llamakit.sampler import TopResult

        return TopResult(*self.handle.top_parts(k))
