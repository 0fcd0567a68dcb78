"""Records to samples: the prompts that the model will be given, with loss on what it is to answer.

Which tokens are an answer's is found by rendering a conversation twice, up to before it (with the generation prompt)
and up to behind it: where the two part, the answer begins. So any chat template will do. Where a template writes what
was said before differently later on (thoughts that are dropped, tools before the last question), each answer that
this concerns becomes a sample of its own, behind the very prompt that would be answered.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from llamakit.chat.fit import fit_messages
from llamakit.chat.prompt import ChatPrompt, chat_prompt
from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.errors import DataError, LlamaKitError, UnavailableError, UsageError
from llamakit.train.samples import Sample, sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamakit.tokenizer import Tokenizer
    from llamakit.train.data.records import Record

Message = dict[str, Any]

MOST_WRITTEN = 1 << 27  # characters before all answers of one conversation
PER_MESSAGE = 64  # characters that a message counts as beside its own: writing it takes so much longer
DAY = date(2024, 7, 26)  # "today" for templates that tell it: the same tokens on every day


class Turn(NamedTuple):
    """One answer. `prompt`: the tokens before it; `text` and `tokens`: the conversation up to and with it; `ended`:
    whether the template ends it; `weight`: in the loss.
    """

    prompt: NDArray[np.int32]
    text: str
    tokens: NDArray[np.int32]
    ended: bool
    weight: float


class Encoder:
    """Makes samples for one model.

    `how`: "chat" writes prompts by the chat template, "plain" as they are, "auto" by the template if the model has
    one. `train_on`: "answers", or "all" tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, *, how: str = "auto", train_on: str = "answers"
    ) -> None:
        self.tokenizer, self.train_on = tokenizer, train_on
        self.plain = how == "plain" or (how == "auto" and template.is_fallback)
        self.template = ChatTemplate(FALLBACK) if self.plain else template

    def encode(self, record: Record) -> list[Sample]:
        """The samples of a record: one, or several where not all answers fit into one; none if there is nothing in it.

        DataError, with the record's place, if the template refuses the messages.
        """
        if record.kind == "text":
            return [self._text(record.text)] if record.text.strip() else []
        if self.plain and record.kind != "messages":
            return self._prompt_and_answer(record)
        try:
            return self._conversation(record)
        except UnavailableError:
            raise
        except RecursionError:
            found = "tools, or arguments of calls, within one another"
            raise DataError(f"{record.place}: the record is nested too deeply", found=found, param="data") from None
        except LlamaKitError as error:
            hint = error.hint or "messages in the order that the model's template wants, or --template plain"
            raise DataError(f"{record.place}: {error.message}", found=error.found, hint=hint, param="data") from None

    def _text(self, text: str) -> Sample:
        tokens = self._ended(self.tokenizer.encode(text, add_special=True))
        return _masked(tokens, [(0, len(tokens), 1.0)])

    def _prompt_and_answer(self, record: Record) -> list[Sample]:
        """Prompt, answer and end token, as they are; a blank line between a question and its answer."""
        if not record.answer:
            return []
        head = f"{record.system}\n\n" if record.system else ""
        prompt = head + record.prompt + ("\n\n" if record.kind == "instruct" else "")
        tokens = self._ended(self._plain(prompt + record.answer))
        start = common(self._plain(prompt), tokens) if self.train_on == "answers" else 0
        return [_masked(tokens, [(start, len(tokens), 1.0)])]

    def _plain(self, text: str) -> list[int]:
        """Tokens of a prompt as `llamakit generate -p` reads it."""
        tokens = self.tokenizer.encode(text, add_special=True, parse_special=True)
        return tokens[:-1] if self.tokenizer.add_eos else tokens

    def _ended(self, tokens: list[int]) -> list[int]:
        """The tokens with the end token behind them, once."""
        end = self.tokenizer.eos_id
        return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]

    # -- conversations ------------------------------------------------------------------------------------------

    def _conversation(self, record: Record) -> list[Sample]:
        messages, tools = fit_messages(record.conversation, record.tools, self.template.source)
        weights = [float(message.get("weight", 1.0)) for message in messages]
        messages = [{name: value for name, value in each.items() if name != "weight"} for each in messages]
        if self.train_on == "all":
            tokens = self._render(messages, tools, generation_prompt=False).tokens
            tokens = tokens if self._end(tokens, 0) else self._ended(tokens)
            return [_masked(tokens, [(0, len(tokens), 1.0)])]
        answers = [
            number
            for number, message in enumerate(messages)
            if message["role"] == "assistant" and weights[number] and (message["content"] or "tool_calls" in message)
        ]
        _check_length(messages, tools, answers)
        turns = [self._turn(messages[:number], messages[number], tools, weights[number]) for number in answers]
        return [self._sample(group) for group in _grouped(turns)]

    def _turn(self, before: list[Message], answer: Message, tools: Any, weight: float) -> Turn:
        """An answer behind its prompt; behind nothing where it comes first."""
        prompt = self._render(before, tools) if before else ChatPrompt("", [])
        whole = self._render([*before, answer], tools, generation_prompt=False)
        if not whole.text.startswith(prompt.text):
            self._check_prompt(before, tools, prompt, whole)
        ended = self._end(whole.tokens, _common_tokens(prompt.tokens, whole.tokens)) is not None
        if not ended and "tool_calls" not in answer:
            whole = self._render([*before, answer], tools, continue_last=True)  # without what is written behind it
        return Turn(np.array(prompt.tokens, np.int32), whole.text, np.array(whole.tokens, np.int32), ended, weight)

    def _check_prompt(self, before: list[Message], tools: Any, prompt: ChatPrompt, whole: ChatPrompt) -> None:
        """Only the beginning of the answer, which a template may write in two ways, can differ."""
        given = self._render(before, tools, generation_prompt=False)
        if common(prompt.text, whole.text) < common(given.text, prompt.text):
            raise UsageError(
                "the model's chat template writes the messages before an answer in another way once it is there",
                hint="--train-on all, or --template plain",
            )

    def _sample(self, turns: Sequence[Turn]) -> Sample:
        """Answers of which the last conversation begins with all others."""
        last = turns[-1]
        tokens = last.tokens.tolist() if last.ended else self._ended(last.tokens.tolist())
        spans = []
        for turn in turns:
            start = _common_tokens(turn.prompt, last.tokens)
            end = len(tokens) if turn is last else _common_tokens(turn.tokens, last.tokens)
            spans.append((start, self._end(tokens[:end], start) or end, turn.weight))
        return _masked(tokens, spans)

    def _end(self, tokens: Sequence[int], start: int) -> int | None:
        """Behind the token that ends the answer beginning at `start`; None if no token does."""
        ends = self.tokenizer.eog_ids
        return next((at + 1 for at in range(len(tokens) - 1, start - 1, -1) if tokens[at] in ends), None)

    def _render(self, messages: list[Message], tools: Any, **how: Any) -> ChatPrompt:
        return chat_prompt(self.template, self.tokenizer, messages, tools=tools, today=DAY, **how)


def _check_length(messages: Sequence[Message], tools: Any, answers: Sequence[int]) -> None:
    """UsageError if what stands before the answers is too much: for each of them all of it is written and read."""
    total, before, wanted = 0, len(msgspec.json.encode(tools)), set(answers)
    for number, message in enumerate(messages):
        before += len(msgspec.json.encode(message)) + PER_MESSAGE
        total += before * (number in wanted)
    if total > MOST_WRITTEN:
        raise UsageError(
            f"the conversation is too long: {len(answers):,} answers, for each of which all before it is written out",
            found=f"{total:,} characters; {MOST_WRITTEN:,} are possible",
            hint="several records in place of one, or --train-on all",
        )


def _grouped(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """Runs of turns that are in one text as they were answered; one that is not ended is by itself."""
    group: list[Turn] = []
    for turn in turns:
        if group and not (group[-1].ended and turn.ended and turn.text.startswith(group[-1].text)):
            yield group
            group = []
        group.append(turn)
    if group:
        yield group


def _masked(tokens: Sequence[int], spans: Sequence[tuple[int, int, float]]) -> Sample:
    """A sample with weights in the spans (start, end, weight) and 0 elsewhere."""
    weights = np.zeros(len(tokens), np.float32)
    for start, end, weight in spans:
        weights[start:end] = weight
    return sample(tokens, weights)


def _common_tokens(one: Sequence[int] | NDArray[np.int32], other: Sequence[int] | NDArray[np.int32]) -> int:
    """The same of tokens, of which there may be very many."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:n], np.int32) != np.asarray(other[:n], np.int32))
    return int(differ[0]) if len(differ) else n


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of the beginning that two sequences share."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
