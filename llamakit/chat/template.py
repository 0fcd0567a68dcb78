"""Chat templates: messages to a prompt, by the Jinja template that a model's file carries.

Templates come from strangers, so they are compiled and rendered by `worker_pool` in another process, in a sandbox, with
limits on time and size. Only those that LlamaKit wrote itself run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from datetime import date

    from llamakit.chat.rendering import Rendering
    from llamakit.tokenizer.tokenizer import Tokenizer

# Used where a file has no template: roles as words, which models without a chat format follow best.
FALLBACK = (
    "{% set names = {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '} %}"
    "{% for m in messages %}{{ names.get(m.role, m.role ~ ': ') }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTemplate:
    """A template, found to compile. `writes_bos`: it puts the BOS token's text itself, so none must be added.

    `ours`: the source was written by LlamaKit or by who runs it, not by a stranger. ModelFileError if it is wrong.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "", ours: bool = False) -> None:
        self.source, self._bos, self._eos = source, bos, eos
        self._rendering = _compiled(source) if ours or self.is_fallback else None
        if self._rendering is None:
            self._ask(None)
        self.writes_bos = bool(bos) and "bos_token" in source

    @property
    def is_fallback(self) -> bool:
        """Whether it is the plain one, for want of a template in the file."""
        return self.source == FALLBACK

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, object], tokenizer: Tokenizer, name: str | None = None
    ) -> ChatTemplate:
        """The file's template (or the one called `name`), else a plain one."""
        key = "tokenizer.chat_template" + (f".{name}" if name else "")
        source = metadata.get(key)
        if name and source is None:
            raise ModelFileError(f"the model has no chat template called {name!r}")
        bos, eos = (tokenizer.token_text(i) if i is not None else "" for i in (tokenizer.bos_id, tokenizer.eos_id))
        return cls(source if isinstance(source, str) and source else FALLBACK, bos=bos, eos=eos)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        today: date | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, each with `role` and `content`. `today`: for templates that tell the day."""
        if today is not None:
            variables["llamakit_today"] = today.isoformat()
        values = {
            "messages": list(messages), "add_generation_prompt": add_generation_prompt, "tools": tools,
            "bos_token": self._bos, "eos_token": self._eos, **variables,
        }  # fmt: skip
        if self._rendering is None:
            return self._ask(values)
        from llamakit.chat.rendering import Refusal

        try:
            return self._rendering.render(values)
        except Refusal as refusal:
            raise ModelFileError(str(refusal)) from None

    def _ask(self, values: dict[str, Any] | None) -> str:
        from llamakit.chat.worker_pool import pool

        return pool.ask(self.source, values)


def _compiled(source: str) -> Rendering:
    from llamakit.chat.rendering import Refusal, Rendering

    try:
        return Rendering(source)
    except Refusal as refusal:
        raise ModelFileError(str(refusal)) from None
