"""Prompts of llama.cpp's API: a text, or an array that mixes texts and token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.tokenizer import Tokenizer

Prompt = str | list[str | int]
Prompts = str | list[str | int | list[str | int] | dict[str, Any]] | dict[str, Any]
MOST_PROMPTS = 1024


def prompts_in(given: Prompts, *, several: bool) -> list[Prompt]:
    """The prompts of a body: one, or several where an array holds arrays or objects, or with `several` only texts."""
    if not isinstance(given, list):
        return [_one(given)]
    nested = any(isinstance(part, (list, dict)) for part in given)
    if not nested and not (several and len(given) > 1 and all(isinstance(part, str) for part in given)):
        return [given]  # type: ignore[list-item]
    if len(given) > MOST_PROMPTS:
        raise UsageError(f"prompt holds {len(given)} prompts", hint=f"possible: 1..{MOST_PROMPTS}", param="prompt")
    return [[part] if isinstance(part, int) else _one(part) for part in given]


def _one(given: Any) -> Prompt:
    """A prompt that may be llama.cpp's object; texts only."""
    if not isinstance(given, dict):
        return given  # type: ignore[no-any-return]
    text = given.get("prompt_string")
    if not isinstance(text, str) or given.get("multimodal_data"):
        raise UsageError(
            "prompt is an object that cannot be read", hint='{"prompt_string": text}, without multimodal_data',
            param="prompt",
        )  # fmt: skip
    return text


def prompt_tokens(
    tokenizer: Tokenizer, prompt: Prompt, *, param: str = "prompt", parse_special: bool = True
) -> list[int]:
    """Token ids of a prompt as the 2023 server made them.

    Each text is encoded on its own, with its own leading space where the vocabulary has one; ids pass as they are. The
    beginning token comes first if the prompt is a text or begins with one, and the model wants it, and the text did not
    spell it.
    """
    tokens = mixed_tokens(tokenizer, prompt, param=param, parse_special=parse_special)
    begins_with_text = isinstance(prompt, str) or isinstance(next(iter(prompt), None), str)
    bos = tokenizer.bos_id if tokenizer.add_bos else None
    if begins_with_text and bos is not None and tokens[:1] != [bos]:
        tokens.insert(0, bos)
    if not tokens:
        raise UsageError(
            f"{param} is empty", found="an array without tokens" if prompt == [] else "a text without tokens",
            hint="at least one token", param=param,
        )  # fmt: skip
    return tokens


def mixed_tokens(tokenizer: Tokenizer, content: Prompt, *, param: str, parse_special: bool) -> list[int]:
    """The same without a beginning token; nothing for nothing."""
    if isinstance(content, str):
        return tokenizer.encode(content, parse_special=parse_special)
    tokenizer.check_count(len(content))
    if all(type(part) is int for part in content):
        return checked_ids(tokenizer, content, param, param)  # type: ignore[arg-type]
    tokens: list[int] = []
    for place, part in enumerate(content):
        if isinstance(part, str):
            tokens += tokenizer.encode(part, parse_special=parse_special)
            tokenizer.check_count(len(tokens))
        else:
            tokens.append(checked_id(tokenizer, part, f"{param}[{place}]", param))
    return tokens


def checked_ids(tokenizer: Tokenizer, ids: list[int], place: str, param: str) -> list[int]:
    """Token ids of the vocabulary, no more of them than a text may have; looked at in one go, for there may be many."""
    tokenizer.check_count(len(ids))
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.n_vocab:
        for i, token in enumerate(ids):
            checked_id(tokenizer, token, f"{place}[{i}]", param)
    return ids


def checked_id(tokenizer: Tokenizer, token: int, place: str, param: str) -> int:
    """A token id of the vocabulary."""
    if not 0 <= token < tokenizer.n_vocab:
        raise UsageError(
            f"token {token} is outside the vocabulary", found=f"at {place}",
            hint=f"possible: 0..{tokenizer.n_vocab - 1}", param=param,
        )  # fmt: skip
    return token


def room_for_prompt(n_ctx: int, n_predict: int) -> int:
    """Tokens of the context that a prompt may take: what is asked for stays free, or a quarter; at most a half."""
    return n_ctx - min(n_predict if n_predict > 0 else n_ctx // 4, n_ctx // 2)
