"""`POST /api/generate` and `/api/chat`."""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader
from llamakit.plugins.frontends.rest.apis.ollama.answer import NDJSON, Answer, error_body, error_line, now
from llamakit.plugins.frontends.rest.apis.ollama.fields import (
    ChatBody,
    Common,
    GenerateBody,
    conversation,
    make_request,
    read_options,
    unloads,
    variables,
)
from llamakit.plugins.frontends.rest.body import read
from llamakit.plugins.frontends.rest.chat import Conversation, Prompt, make_prompt
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect
from llamakit.plugins.frontends.rest.keys import Role
from llamakit.plugins.frontends.rest.prompts import checked_ids, prompt_tokens, room_for_prompt

from llamakit.errors import UnavailableError, UsageError
from llamakit.gguf import text_of
from llamakit.tokenizer.infill import infill_tokens

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.apis.ollama.fields import OllamaOptions
    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.errors import LlamaKitError
    from llamakit.session import Session


class Resource:
    """Errors in Ollama's shape."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def error_body(self, error: LlamaKitError) -> dict[str, Any]:
        """What the body of an error is here."""
        return error_body(error)

    def answer(self, resp: falcon.Response, value: Any) -> None:
        """Answer with JSON."""
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(value)


class OllamaAsked(Asked, kw_only=True):
    """`began`: when the request came, for its durations; `unload`: whether the model goes when it is answered."""

    began: float
    unload: bool


class Generation(Dialect):
    """What the two have in common."""

    api = "ollama"
    stream_type = NDJSON
    fields_class: type[Common]

    def parse(self, req: falcon.Request) -> Asked:
        """The body, and its `options`."""
        body = read(req, self.fields_class, self.state, sampling=False)
        options, more = read_options(self.state, body.fields)
        ignored, unload = (*body.ignored, *more), unloads(body.fields.keep_alive)
        if unload and not req.context.key.may(Role.ADMIN):  # as for /models/unload
            ignored, unload = (*ignored, "keep_alive"), False
        return OllamaAsked(
            fields=body.fields, body=options, model=body.fields.model, stream=body.fields.stream, ignored=ignored,
            began=time.perf_counter(), unload=unload,
        )  # fmt: skip

    def begin(self, session: Session, asked: Asked, name: str) -> Answer:
        """The prompt, and its answer."""
        assert isinstance(asked, OllamaAsked)  # what `parse` makes
        loaded = time.perf_counter()
        ignored = asked.ignored
        if 0 < session.n_ctx < asked.body.fields.num_ctx:
            ignored = (*ignored, "options.num_ctx")
        prompt, context = self.prompt(session, asked.fields, asked.body)
        return Answer(
            asked.fields.model or name, session.tokenizer,
            make_request(self.state, session, prompt, asked.fields, asked.body), AnswerReader(prompt, 1),
            part=self.part, began=asked.began, loaded=loaded, context=context, ignored=ignored,
        )  # fmt: skip

    def error(self, error: LlamaKitError) -> bytes:
        """A line."""
        return error_line(error)

    def error_body(self, error: LlamaKitError) -> dict[str, Any]:
        """What the body of an error is here."""
        return error_body(error)

    def ended(self, asked: Asked, name: str) -> None:
        """Unload the model where `keep_alive` is 0, unless others use it."""
        assert isinstance(asked, OllamaAsked)  # what `parse` makes
        if asked.unload:
            with suppress(UnavailableError):
                self.state.pool.unload(name)

    def only_loads(self, asked: Asked, name: str) -> Any:
        """What is answered where there is nothing to say."""
        if not self.empty(asked.fields):
            return None
        assert isinstance(asked, OllamaAsked)
        head = {"model": asked.fields.model or name, "created_at": now()}
        return head | self.part("", "", []) | {"done": True, "done_reason": "unload" if asked.unload else "load"}

    @abstractmethod
    def empty(self, fields: Any) -> bool:
        """Whether there is nothing to answer, so that the model is only loaded."""

    @abstractmethod
    def prompt(self, session: Session, fields: Any, options: Body[OllamaOptions]) -> tuple[Prompt, bool]:
        """The prompt, and whether the answer gives the tokens for going on."""

    @staticmethod
    @abstractmethod
    def part(text: str, thinking: str, calls: list[Any]) -> dict[str, Any]:
        """What is said in an object."""


class Generate(Generation):
    """Answers a prompt."""

    fields_class = GenerateBody

    def empty(self, fields: GenerateBody) -> bool:
        """No prompt."""
        return not (fields.prompt or fields.suffix or fields.context)

    def prompt(self, session: Session, fields: GenerateBody, options: Body[OllamaOptions]) -> tuple[Prompt, bool]:
        """Raw, between two texts, or through the chat template; after the context that was given."""
        tokenizer = session.tokenizer
        if fields.images:
            raise UsageError("images cannot be read", hint="text only", param="images")
        if fields.suffix:
            limit = room_for_prompt(session.n_ctx, options.fields.num_predict)
            return Prompt(tokens=infill_tokens(tokenizer, fields.prompt, fields.suffix, limit=limit).tokens), True
        if fields.raw or self._untemplated(session):
            text = fields.prompt if fields.raw else "\n\n".join(filter(None, (fields.system, fields.prompt)))
            made = Prompt(tokens=prompt_tokens(tokenizer, text, parse_special=fields.raw))
        else:
            system = [{"role": "system", "content": fields.system}] if fields.system else []
            talk = Conversation(
                messages=[*system, {"role": "user", "content": fields.prompt}], variables=variables(fields.think)
            )
            made = make_prompt(self.state, session, talk)
        if fields.context:
            before = checked_ids(tokenizer, fields.context, "context", "context")
            rest = made.tokens[1:] if made.tokens[:1] == [tokenizer.bos_id] else made.tokens
            made = msgspec.structs.replace(made, tokens=[*before, *rest])
        return made, not fields.raw

    def _untemplated(self, session: Session) -> bool:
        """Models without a chat template continue texts; Ollama gives them the prompt as it is."""
        return not self.state.options.chat_prompt and not text_of(session.file.metadata, "tokenizer.chat_template")

    @staticmethod
    def part(text: str, thinking: str, calls: list[Any]) -> dict[str, Any]:
        """A text, and what was thought."""
        return {"response": text} | ({"thinking": thinking} if thinking else {})


class Chat(Generation):
    """Answers a conversation."""

    fields_class = ChatBody

    def empty(self, fields: ChatBody) -> bool:
        """No messages."""
        return not fields.messages

    def prompt(self, session: Session, fields: ChatBody, options: Body[OllamaOptions]) -> tuple[Prompt, bool]:
        """Through the chat template."""
        return make_prompt(self.state, session, conversation(fields)), False

    @staticmethod
    def part(text: str, thinking: str, calls: list[Any]) -> dict[str, Any]:
        """A message."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        message |= {"thinking": thinking} if thinking else {}
        message |= {"tool_calls": calls} if calls else {}
        return {"message": message}
