"""Logits that stay on the device: choosing from a row's likeliest tokens, and fetching rows only where these do not do.

What leads a chain and changes logits is done where they lie (`backend.LogitEdits`). The first sampler that cuts or
chooses says how many of the likeliest tokens settle what it does; the rest of the chain runs on these. Whatever they
leave open needs the row. Tokens are the same as with it, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamakit.engine.failure import own_failure
from llamakit.engine.pace import has_grammar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import Buffer, LogitEdits
    from llamakit.engine.pace import Pace
    from llamakit.engine.sampling import Rows, SamplerChain
    from llamakit.sampler import Sampler

MOST_TOP = 8192  # likeliest tokens that one chain may ask of every row of a step; with more it is given its row


class DeviceRows:
    """The rows of a buffer on a device; those that were fetched are kept."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer, self.n_vocab = buffer, buffer.shape[-1]
        self._fetched: dict[int, npt.NDArray[np.float32]] = {}

    def __getitem__(self, row: int) -> npt.NDArray[np.float32]:
        self.fetch([row])
        return self._fetched[row]

    def fetch(self, rows: Iterable[int]) -> None:
        """Bring rows to the host, in one go."""
        missing = sorted({row for row in rows if row not in self._fetched})
        if missing:
            self._fetched.update(zip(missing, self.buffer.rows(missing), strict=True))


def rows_of(buffer: Buffer) -> Rows:
    """An output's rows: all of them where that costs nothing."""
    return buffer.numpy() if buffer.on_host else DeviceRows(buffer)


@dataclass
class _Plan:
    """A chain in two parts: `edits`, done on the device, and the samplers that need the `k` likeliest."""

    edits: Any
    rest: list[Sampler]
    k: int
    asked: list[Sampler]  # those that mask and were left out: they are asked whether they permit what was chosen


def sample_on_device(
    logits: DeviceRows, rows: Sequence[int], chains: Sequence[SamplerChain], pace: Pace | None = None
) -> dict[int, int]:
    """Tokens for those chains, by number, whose rows need not be fetched, and who need not wait."""
    found: dict[int, int] = {}
    left = list(range(len(chains)))
    for masks in (False, True):  # see `Sampler.masks`
        plans = {i: _plan(chains[i], logits.n_vocab, pace, masks=masks) for i in left}
        ready = {i: plan for i, plan in plans.items() if plan is not None}
        if not ready:
            break
        tokens = _run(logits, [rows[i] for i in ready], list(ready.values()), again=masks)
        found |= {i: token for i, token in zip(ready, tokens, strict=True) if _permitted(ready[i], token)}
        left = [i for i, token in zip(ready, tokens, strict=True) if token >= 0 and i not in found]
    return found


def _permitted(plan: _Plan, token: int) -> bool:
    try:
        return token >= 0 and all(sampler.permits(token) for sampler in plan.asked)
    except BaseException as error:
        _leave_to_the_row(error)
        return False


def _leave_to_the_row(error: BaseException) -> None:
    """Whatever is wrong with a chain shows again with its row, where it ends that chain's answer and no other."""
    own_failure(error, "a sampler", on_host=True)  # raises what is nobody's fault


def _plan(chain: SamplerChain, n_vocab: int, pace: Pace | None, *, masks: bool) -> _Plan | None:
    """The parts of a chain; None if it needs whole rows, or waits. `masks`: with those that mask."""
    from llamakit import _sampling

    try:
        if pace is not None and pace.is_over and has_grammar(chain):
            return None
        asked = [] if masks else [sampler for sampler in chain.samplers if sampler.masks()]
        rest = [sampler for sampler in chain.samplers if sampler not in asked]
        edits = _sampling.Edits(n_vocab)
        while rest and (stage := rest[0].native()) is not None and stage.edit(edits):
            rest.pop(0)
        k = min(int(rest[0].enough()), n_vocab) if rest else 0
    except BaseException as error:
        _leave_to_the_row(error)
        return None
    return _Plan(edits, rest, k, asked) if 0 < k <= MOST_TOP else None


def _run(logits: DeviceRows, rows: list[int], plans: list[_Plan], *, again: bool) -> list[int]:
    """What each chain chooses from the likeliest tokens of its row; below 0 where these do not settle it."""
    import math

    from llamakit import _sampling

    top = logits.buffer.top(rows, max(plan.k for plan in plans), [_edits(plan.edits) for plan in plans])
    handles: list[Any] = []
    for ids, values, log_sum in zip(top.ids, top.values, top.log_sum_exp.tolist(), strict=True):
        handles.append(_sampling.Candidates.of_top(ids, values, log_sum, logits.n_vocab))
        if again:
            handles[-1].draw_again()
    usable = [i for i, log_sum in enumerate(top.log_sum_exp.tolist()) if math.isfinite(log_sum)]
    stages = {i: _stages_of(plans[i].rest) for i in usable}
    native = [i for i in usable if None not in stages[i]]
    tokens = [int(_sampling.ROW)] * len(plans)
    chosen = _sampling.sample_tops([handles[i] for i in native], [stages[i] for i in native])
    for i, token in zip(native, chosen, strict=True):
        tokens[i] = token
    for i in usable:
        if None in stages[i]:
            tokens[i] = _python(handles[i], plans[i].rest)
    return tokens


def _stages_of(samplers: list[Sampler]) -> list[Any]:
    """Their native stages; None for those of Python, and for all of a chain in which one gives neither."""
    from llamakit import _sampling

    try:
        found = [sampler.native() for sampler in samplers]
    except BaseException as error:
        _leave_to_the_row(error)
        return [None]
    return found if all(isinstance(stage, _sampling.Stage) for stage in found if stage is not None) else [None]


def _python(handle: Any, samplers: list[Sampler]) -> int:
    """A chain with samplers of Python."""
    from llamakit import _sampling
    from llamakit.engine.sampling import NativeCandidates

    candidates = NativeCandidates(handle)
    try:
        for sampler in samplers:
            stage = sampler.native()
            if stage is None:
                sampler.apply(candidates)
            else:
                stage.apply(handle)
    except BaseException as error:  # RowNeeded among them
        _leave_to_the_row(error)
        return int(_sampling.ROW)
    return int(_sampling.ROW) if candidates.chosen is None else int(candidates.chosen)


def _edits(edits: Any) -> LogitEdits | None:
    """For a device; None where there are none."""
    from llamakit.backend import LogitEdits

    ids, mask = edits.ids, edits.mask
    if not ids.size and not mask.size and edits.scale == 1:
        return None
    return LogitEdits(ids, edits.repeats, edits.values, edits.scale, mask if mask.size else None)
