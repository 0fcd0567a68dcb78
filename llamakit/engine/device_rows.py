"""Logits that stay on the device: choosing from a row's likeliest tokens, and fetching rows only where these do not do.

What leads a chain and changes logits is done where they lie (`backend.LogitEdits`). The first sampler that cuts or
chooses says how many of the likeliest tokens settle what it does; the rest of the chain runs on these. Whatever they
leave open needs the row. Tokens are the same as with it, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamakit.engine.failure import own_failure
from llamakit.engine.pace import must_wait

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


@dataclass
class Pending:
    """A chain with samplers written in Python, and the likeliest tokens of its row: it chooses when it is its turn."""

    plan: _Plan
    handle: Any

    def choose(self) -> int | None:
        """The token; None if the row itself is needed."""
        token = _python(self.handle, self.plan.rest)
        return token if _permitted(self.plan, token) else None


def sample_on_device(
    logits: DeviceRows, rows: Sequence[int], chains: Sequence[SamplerChain], pace: Pace | None = None
) -> tuple[dict[int, int], dict[int, Pending]]:
    """Tokens for those chains, by number, whose rows need not be fetched, and who need not wait.

    Those with samplers written in Python are made ready only, since these may take long.
    """
    found: dict[int, int] = {}
    pending: dict[int, Pending] = {}
    left = list(range(len(chains)))
    for masks in (False, True):  # see `Sampler.masks`
        plans = {i: _plan(chains[i], logits.n_vocab, pace, masks=masks) for i in left}
        ready = {i: plan for i, plan in plans.items() if plan is not None}
        if not ready:
            break
        handles = dict(zip(ready, _handles(logits, [rows[i] for i in ready], list(ready.values())), strict=True))
        usable = {i: handle for i, handle in handles.items() if handle is not None}
        pending |= {i: Pending(ready[i], handle) for i, handle in usable.items() if chains[i].stages is None}
        native = [i for i in usable if i not in pending]
        tokens = _run([usable[i] for i in native], [ready[i] for i in native], again=masks)
        found |= {i: token for i, token in zip(native, tokens, strict=True) if _permitted(ready[i], token)}
        left = [i for i, token in zip(native, tokens, strict=True) if token >= 0 and i not in found]
    return found, pending


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
    """The parts of a chain; None if it needs its whole row, or waits. `masks`: with those that mask."""
    from llamakit import _sampling

    try:
        if must_wait(chain, pace, python=chain.stages is None):
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


def _handles(logits: DeviceRows, rows: list[int], plans: list[_Plan]) -> list[Any]:
    """The likeliest tokens of rows; None for those that are no logits."""
    import math

    from llamakit import _sampling

    top = logits.buffer.top(rows, max(plan.k for plan in plans), [_edits(plan.edits) for plan in plans])
    return [
        _sampling.Candidates.of_top(ids, values, log_sum, logits.n_vocab) if math.isfinite(log_sum) else None
        for ids, values, log_sum in zip(top.ids, top.values, top.log_sum_exp.tolist(), strict=True)
    ]


def _run(handles: list[Any], plans: list[_Plan], *, again: bool) -> list[int]:
    """What each native chain chooses from the likeliest tokens of its row; below 0 where these do not settle it."""
    from llamakit import _sampling

    if again:
        for handle in handles:
            handle.draw_again()
    stages = [_stages_of(plan.rest) for plan in plans]
    native = [i for i in range(len(plans)) if stages[i] is not None]
    tokens = [int(_sampling.ROW)] * len(plans)
    chosen = _sampling.sample_tops([handles[i] for i in native], [stages[i] for i in native])
    for i, token in zip(native, chosen, strict=True):
        tokens[i] = token
    return tokens


def _stages_of(samplers: list[Sampler]) -> list[Any] | None:
    """Their native stages; None where one gives none, though it did when the chain was made."""
    from llamakit import _sampling

    try:
        found = [sampler.native() for sampler in samplers]
    except BaseException as error:
        _leave_to_the_row(error)
        return None
    return found if all(isinstance(stage, _sampling.Stage) for stage in found) else None


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
