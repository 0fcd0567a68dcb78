"""From a request to what the engine can run: checks, limits, the samplers' chains. Needs no device; any thread may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.beams import BeamGroup
from llamakit.engine.group import Group, Prepared
from llamakit.engine.guided import GuidedGroup
from llamakit.engine.request import UNTIL_CONTEXT_FULL, Request
from llamakit.engine.sampling import plan_chain
from llamakit.errors import ContextLengthError, UsageError
from llamakit.sampler import SequenceContext
from llamakit.serialized import serialized

if TYPE_CHECKING:
    from typing import Any

    from llamakit.engine.engine import Engine
    from llamakit.engine.job import Job
    from llamakit.tokenizer import Tokenizer


TOKEN_BYTES = 4  # that a token of a prompt counts as, where it is asked whether much is to be done


class _NoSelection(msgspec.Struct, frozen=True):
    """No adapters."""

    key: tuple[()] = ()
    names: tuple[()] = ()


def make_group(job: Job, prepared: Prepared, tokenizer: Tokenizer, number: int) -> Group:
    """The group that a request asks for."""
    kind = BeamGroup if job.request.beams > 1 else GuidedGroup if job.request.guidance is not None else Group
    return kind(job, prepared, tokenizer, number)


def prepare(engine: Engine, request: Request) -> Prepared:
    """Check a request against an engine; `UsageError` and `ContextLengthError` say what is wrong with it."""
    n_answer = max(request.n, request.best_of)
    _check_shape(request, n_answer)
    _check_tokens(engine, request.prompt, "prompt")
    tokens = _fit(engine, request)
    width = max(n_answer, request.beams)
    if request.guidance is not None:
        _check_tokens(engine, request.guidance.negative, "negative_prompt")
        _check_length(engine, len(request.guidance.negative), "negative_prompt")
        width *= 2
    if width > engine.runner.n_seq:
        raise UsageError(
            f"the request needs {width} sequences at once, {engine.runner.n_seq} are possible",
            hint="fewer answers or beams, or more sequences in a step (--parallel)", param="n",
        )  # fmt: skip
    return Prepared(
        tokens=tokens,
        last_shown=engine.tokenizer.last_shown(tokens),
        n_truncated=len(request.prompt) - len(tokens),
        chains=_chains(engine, request, tokens, n_answer),
        max_tokens=_max_tokens(engine, request),
        width=width,
        selection=select(engine, request.adapters),
    )


def _chains(engine: Engine, request: Request, tokens: list[int], n: int) -> list[Any]:
    options = dict(request.options)
    if request.ignore_eos:
        options["ignore_eos"] = True
    tokenizer, chains = engine.tokenizer, []
    plan = plan_chain(engine.samplers, options, request.samplers)
    for choice in range(n):
        context = SequenceContext(
            n_vocab=tokenizer.n_vocab, n_ctx=engine.n_ctx, seed=request.seed, choice=choice,
            newline_id=tokenizer.nl_id, eog_ids=tokenizer.eog_ids, tokenizer=tokenizer,
        )  # fmt: skip
        chain = plan.chain(context)
        with serialized(TOKEN_BYTES * len(tokens)):  # tens of thousands for each of 64 answers
            chain.accept_many(tokens)
        chain.start()
        chains.append(chain)
    return chains


def select(engine: Engine, adapters: tuple[tuple[str, float], ...] | None) -> Any:
    """The adapters that are meant: those named, or the default ones."""
    if engine.adapters is None:
        if adapters:
            raise UsageError(f"no adapter named {adapters[0][0]!r}: none is loaded", param="lora")
        return _NoSelection()
    return engine.adapters.resolve(adapters)


def _max_tokens(engine: Engine, request: Request) -> int:
    """The most tokens that will be generated: every request has a limit."""
    if request.max_tokens == 0:
        return 0
    most = engine.max_predict
    if request.max_tokens == UNTIL_CONTEXT_FULL:
        return max(1, min(most, engine.n_ctx))
    return most if request.max_tokens < 0 else min(request.max_tokens, most)


def _check_shape(request: Request, n_answer: int) -> None:
    if request.max_tokens < UNTIL_CONTEXT_FULL:
        raise UsageError(
            f"max_tokens is {request.max_tokens}: use a count, -1 (until the end) or -2 (context full)",
            param="max_tokens",
        )
    if request.n < 1 or request.beams < 1:
        raise UsageError(f"n is {request.n} and beams {request.beams}; possible: 1 or more", param="n")
    if request.best_of > 1 and request.best_of < request.n:
        raise UsageError(f"best_of is {request.best_of}, below n, {request.n}", param="best_of")
    if request.beams > 1 and (request.guidance is not None or n_answer > request.beams):
        raise UsageError(
            f"a search with {request.beams} beams gives at most {request.beams} answers, without guidance",
            param="beams",
        )
    if request.deadline is not None and not request.deadline > 0:
        raise UsageError(f"deadline is {request.deadline}; possible: above 0 seconds", param="deadline")


def _check_tokens(engine: Engine, tokens: list[int], param: str) -> None:
    if not tokens:
        raise UsageError(
            "the prompt is empty and the model adds no BOS token: give at least one token", param=param
        )  # fmt: skip
    n_vocab = engine.tokenizer.n_vocab
    if min(tokens) < 0 or max(tokens) >= n_vocab:
        bad = next(token for token in tokens if not 0 <= token < n_vocab)
        raise UsageError(f"token {bad} is outside the vocabulary, 0..{n_vocab - 1}", param=param)


def _fit(engine: Engine, request: Request) -> list[int]:
    """The prompt, cut as the 2023 server did if that was asked for: keep the start, drop halves of the rest."""
    tokens, n_ctx = request.prompt, engine.n_ctx
    if not request.truncate or len(tokens) < n_ctx:
        _check_length(engine, len(tokens), "prompt")
        return list(tokens)
    keep = len(tokens) if request.keep < 0 else request.keep
    keep = max(0, min(keep, n_ctx - 4))
    half = max(1, (n_ctx - keep) // 2)
    n_block = (len(tokens) - keep - half) // half
    return tokens[:keep] + tokens[keep + n_block * half :]


def _check_length(engine: Engine, n: int, param: str) -> None:
    if n > engine.n_ctx:
        error = ContextLengthError(
            f"the prompt exceeds the available context size: it has {n:,} tokens, the context holds {engine.n_ctx:,}",
            found=f"{n - engine.n_ctx:,} tokens too many",
            hint="a shorter text, or a larger context (-c)",
            param=param,
        )
        error.n_prompt_tokens, error.n_ctx = n, engine.n_ctx
        raise error
