"""Chat templates: messages to a prompt, by the Jinja template that a model's file carries.

Templates come from strangers, so they run in `template_sandbox`, with limits on time and size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from llamakit.tokenizer.tokenizer import Tokenizer

# Used where a file has no template: roles as words, which models without a chat format follow best.
FALLBACK = (
    "{% set names = {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '} %}"
    "{% for m in messages %}{{ names.get(m.role, m.role ~ ': ') }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTemplate:
    """A compiled template. `writes_bos`: it puts the BOS token's text itself, so none must be added."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        from jinja2 import TemplateSyntaxError

        from llamakit.chat.sandbox import TemplateSandbox

        self.source, self._bos, self._eos = source, bos, eos
        environment = self._sandbox = TemplateSandbox()
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelFileError(
                f"the model's chat template has an error in line {error.lineno}: {error.message}"
            ) from None
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
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, each with `role` and `content`."""
        from jinja2 import TemplateError

        from llamakit.chat.sandbox import bound

        values = {"bos_token": self._bos, "eos_token": self._eos, "tools": tools, **variables}
        parts, length = [], 0
        self._sandbox.start()
        try:
            for part in self._template.generate(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **values
            ):
                parts.append(part)
                length += len(part)
                bound(length)
        except (TemplateError, TypeError, ValueError, RecursionError, MemoryError, ArithmeticError) as error:
            raise ModelFileError(f"the model's chat template refuses these messages: {error}") from None
        return "".join(parts)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> str:
    from jinja2 import TemplateError

    raise TemplateError(message)
