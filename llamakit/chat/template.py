"""Chat templates: messages to a prompt, by the Jinja template that a model's file carries.

Templates come from strangers, so they are compiled and rendered by `worker_pool` in another process, in a sandbox, with
limits on time and size. Only those that LlamaKit wrote itself run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamakit.chat.own import own_template
from llamakit.errors import ModelFileError, UsageError
from llamakit.text_file import read_whole

if TYPE_CHECKING:
    from datetime import date

    from llamakit.chat.rendering import Rendering
    from llamakit.tokenizer.tokenizer import Tokenizer

TOOL_USE = "tool_use"  # the name of the template for conversations with tools, where a file has one
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
        known = ours or self.is_fallback or source == own_template()
        self._rendering = _compiled(source) if known else None
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

    @classmethod
    def chosen(cls, asked: str, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate:
        """The template that is asked for: "" for the file's, its source, a file of it, the name of one of the model's
        file, or of one of `builtin`. UsageError for none of these."""
        if not asked:
            return cls.from_metadata(metadata, tokenizer)
        if f"tokenizer.chat_template.{asked}" in metadata:
            return cls.from_metadata(metadata, tokenizer, asked)
        bos, eos = (tokenizer.token_text(i) if i is not None else "" for i in (tokenizer.bos_id, tokenizer.eos_id))
        return cls(source_of(asked), bos=bos, eos=eos, ours=True)

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
            **self._always(tools, today), "messages": list(messages), "add_generation_prompt": add_generation_prompt,
            **variables,
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

    def _always(self, tools: Sequence[Mapping[str, Any]] | None, today: date | None) -> dict[str, Any]:
        """What every template is given, by the names that templates of several families use."""
        now = today or datetime.now().astimezone()
        functions = [tool.get("function", tool) for tool in tools or []]
        return {
            "bos_token": self._bos, "eos_token": self._eos, "tools": tools, "functions": functions,
            "date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y"), "enable_thinking": True,
        }  # fmt: skip


def source_of(asked: str) -> str:
    """The source of a template: itself, that of a file, or one of `builtin` by name; UsageError for none of these."""
    from llamakit.chat.builtin import BUILTIN

    if "{{" in asked or "{%" in asked:
        return asked
    if asked in BUILTIN:
        return BUILTIN[asked]
    path = Path(asked)
    try:
        return read_whole(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(
            f"there is no chat template {asked[:80]!r}",
            found=f"as a file: {getattr(error, 'strerror', None) or error}",
            hint=f"a file, or one of {', '.join(BUILTIN)}", param="chat_template",
        ) from None  # fmt: skip


def _compiled(source: str) -> Rendering:
    from llamakit.chat.rendering import Refusal, Rendering

    try:
        return Rendering(source)
    except Refusal as refusal:
        raise ModelFileError(str(refusal)) from None
