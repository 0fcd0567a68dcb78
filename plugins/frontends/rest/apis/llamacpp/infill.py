"""`POST /infill`: fill the gap between two texts, with the fields of llama.cpp's route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from llamakit.plugins.frontends.rest.apis.llamacpp.completion import Completion
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import CompletionBody, alike_in, request_for
from llamakit.plugins.frontends.rest.prompts import mixed_tokens, prompts_in, room_for_prompt
from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.tokenizer.infill import ExtraFile, infill_tokens

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.body import Body

    from llamakit.engine.request import Request
    from llamakit.session import Session


class InfillBody(CompletionBody, frozen=True, kw_only=True):
    """What `POST /infill` takes: as `/completion`, and the texts around the gap. `prompt` begins the middle."""

    input_prefix: Annotated[str, Meta(description="The text before the gap.")] = ""
    input_suffix: Annotated[str, Meta(description="The text after it.")] = ""
    input_extra: Annotated[list[ExtraFile], Meta(max_length=1000, description="Other files, for context.")] = []


class InfillCompletion(Completion):
    """`POST /infill`."""

    fields_class = InfillBody

    def made(self, session: Session, body: Body[Any], sampling: dict[str, object]) -> tuple[list[Request], int]:
        """The engine's requests, and how many tokens of the texts did not fit."""
        fields: InfillBody = body.fields
        if not {"input_prefix", "input_suffix"} & body.given:
            raise UsageError("input_prefix is missing", found="neither it nor input_suffix", param="input_prefix")
        tokenizer = session.tokenizer
        begun = (
            mixed_tokens(tokenizer, prompts_in(fields.prompt, several=False)[0], param="prompt", parse_special=False)
            if fields.prompt
            else []
        )
        made = infill_tokens(
            tokenizer, fields.input_prefix, fields.input_suffix,
            limit=room_for_prompt(session.n_ctx, fields.n_predict), begun=begun, extra=fields.input_extra,
        )  # fmt: skip
        alike = alike_in(tokenizer, body, sampling)
        return [request_for(session, body, made.tokens, alike)], made.n_dropped
