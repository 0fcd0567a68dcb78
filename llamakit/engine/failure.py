"""Whose fault an error is: what a request's own parts raise ends that request, and no other.

Samplers, grammars, stop rules, adapters and the detokeniser run on the engine's thread, between steps that all requests
share. Whoever calls one of them catches everything it raises, `sys.exit` included, and hands it to `own_failure`.
"""

from __future__ import annotations

import threading
from typing import NoReturn

from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, PluginError, UsageError


def own_failure(error: BaseException, part: str, *, on_host: bool = False) -> LlamaKitError:
    """What ends a request of which `part` raised `error`.

    Limits of a grammar and candidates of which none is left are the request's fault (UsageError), logits that are no
    numbers the model's (BackendError), everything else that of the part (PluginError). Nobody's are Ctrl-C, which
    arrives in the main thread, and a device that is lost: they are raised again. A part that works `on_host` only
    loses no device, whatever it says.
    """
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error
    if isinstance(error, DeviceLostError) and not on_host:
        raise error
    if isinstance(error, LlamaKitError) and not isinstance(error, DeviceLostError):
        return error
    from llamakit import _sampling

    found: LlamaKitError
    if isinstance(error, _sampling.LogitsError):
        found = BackendError(str(error))
    elif isinstance(error, (_sampling.SamplingError, _sampling.GrammarLimitError)):
        found = no_token(str(error))
    else:
        found = PluginError(f"{part} failed: {type(error).__name__}: {_words(error)}")
    found.__cause__ = error
    return found


def _words(error: BaseException) -> str:
    """What an error says; one that raises when it is asked says nothing."""
    try:
        return str(error)[:500]
    except BaseException:
        return "it cannot be shown"


def blame(part: str, error: BaseException) -> NoReturn:
    """Raise `own_failure` of a part that works on the host, as samplers do."""
    failure = own_failure(error, part, on_host=True)
    raise failure from (failure.__cause__ if failure is error else error)


def no_token(message: str) -> UsageError:
    """A request that leaves no token to choose from, or whose grammar meets a limit."""
    if "grammar" in message:
        return UsageError(message, hint="a simpler grammar", param="grammar")
    return UsageError(message, hint="fewer banned tokens")


def check_forced(tokens: object, n_vocab: int, sampler: str) -> list[int]:
    """Tokens that a sampler wants to follow, if they are such; a PluginError says what they are else."""
    found: list[int] = []
    for token in tokens if isinstance(tokens, (list, tuple)) else [tokens]:
        if type(token) is not int or not 0 <= token < n_vocab:
            shown = repr(token)[:100]
            raise PluginError(f"sampler {sampler!r} wants {shown} to follow, which is not a token of the vocabulary")
        found.append(token)
    return found
