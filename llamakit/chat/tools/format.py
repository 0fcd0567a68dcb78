"""What there is to know of the way in which a family of models calls tools."""

from __future__ import annotations

import json
import secrets
import string
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

ALPHANUMERIC = string.ascii_letters + string.digits
SHORT_ID = 9


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are written.

    `signs`: sets of texts, of which one is in the chat templates of the family as a whole. `begin` and `end`: markers
    around each call, or with `listed` around a JSON array of all of them; with `bare` there may be none. A call is
    `before_name`, the name (as JSON, unless `plain_name`), `after_name`, the arguments as a JSON object, and
    `after_arguments`; `separator` is between two. `several`: whether one answer can have several. `short_ids`: the ids
    of calls are nine letters and digits, or the template refuses them.
    """

    name: str
    signs: tuple[tuple[str, ...], ...] = ()
    begin: str = ""
    end: str = ""
    bare: bool = False
    listed: bool = False
    before_name: str = '{"name": '
    after_name: str = ', "arguments": '
    after_arguments: str = "}"
    plain_name: bool = False
    separator: str = ""
    several: bool = True
    short_ids: bool = False

    def fits(self, source: str) -> bool:
        """Whether a chat template is of this family."""
        return not self.signs or any(all(sign in source for sign in signs) for signs in self.signs)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be control tokens, which have to be seen in answers."""
        texts = (self.begin, self.end, self.after_name if self.plain_name else "")
        return tuple(text.strip() for text in texts if text.strip())

    def written(self, name: str) -> str:
        """A call up to its arguments, without markers."""
        return self.before_name + (name if self.plain_name else msgspec.json.encode(name).decode()) + self.after_name

    def text(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Calls as the model would write them: (name, arguments) of each; markers only where there must be some."""
        begin, end = ("", "") if self.bare else (self.begin, self.end)
        texts = [self.written(name) + json.dumps(given, ensure_ascii=False) + self.after_arguments
                 for name, given in calls]  # fmt: skip
        if not self.listed:
            return self.separator.join(begin + text + end for text in texts)
        row = self.separator.join(texts)
        return begin + (f"[{row}]" if begin or len(texts) > 1 else row) + end

    def example(self) -> str:
        """What a call looks like, for models that are not told by their template."""
        call = self.before_name + "<name>" + self.after_name + "<object>" + self.after_arguments
        return self.begin + (f"[{call}]" if self.listed and self.begin else call) + self.end

    def new_id(self) -> str:
        """The id of a call."""
        if self.short_ids:
            return "".join(secrets.choice(ALPHANUMERIC) for _ in range(SHORT_ID))
        return "call_" + secrets.token_hex(12)
