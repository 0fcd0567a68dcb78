"""`GET /samplers`: every installed sampler with the JSON Schema of its options, from which pages draw controls."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from llamakit.engine.sampling import DEFAULT_CHAIN
from llamakit.options import fields_of
from llamakit.sampler import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.options import Options
    from llamakit.registry import PluginInfo, Registry
    from llamakit.sampler import Sampler


class SamplerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler."""

    name: Annotated[str, Meta(description="Its name in a chain.")]
    title: Annotated[str, Meta(description="Its name for people.")]
    summary: str
    package: Annotated[str, Meta(description="The package that it comes with.")]
    version: str
    chooses: Annotated[bool, Meta(description="Whether it chooses the token, so that it ends a chain.")]
    prefix: Annotated[str, Meta(description="Comes before the names of its options in a request.")]
    defaults: Annotated[
        dict[str, Any], Meta(description="What a request without them gets, by the names of a request.")
    ]
    schema: Annotated[dict[str, Any], Meta(description="JSON Schema of its options; `x-ui` has hints for controls.")]


class SamplersInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The samplers that requests may name, and those that run where a request names none."""

    chain: list[str]
    samplers: list[SamplerInfo]


class Samplers:
    """`GET /samplers`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All of them."""
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(describe(self.state.registry, self.state.sampling))


def describe(registry: Registry, sampling: Mapping[str, object]) -> SamplersInfo:
    """The installed samplers; `sampling` are options that the server's settings change."""
    infos = {info.name: info for info in registry.plugins("sampler") if info.available}
    found = [_sampler(registry, infos[name], cls, sampling) for name, cls in registry.samplers().items()]
    place = {name: number for number, name in enumerate(DEFAULT_CHAIN)}
    found.sort(key=lambda sampler: (place.get(sampler.name, len(place)), sampler.prefix))
    return SamplersInfo(chain=list(DEFAULT_CHAIN), samplers=found)


def _sampler(registry: Registry, info: PluginInfo, cls: type[Sampler], sampling: Mapping[str, object]) -> SamplerInfo:
    prefix = f"{cls.name}." if f"sampler.{cls.name}" in registry.third_party else ""
    defaults = {prefix + field.name: field.default for field in fields_of(cls.Options)}
    return SamplerInfo(
        name=cls.name, title=getattr(cls, "title", "") or words(cls.name), summary=cls.summary,
        package=info.package, version=info.version, chooses=cls.stage is Stage.CHOOSE, prefix=prefix,
        defaults=defaults | {name: value for name, value in sampling.items() if name in defaults},
        schema=_schema(cls.Options),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _schema(options: type[Options]) -> dict[str, Any]:
    """JSON Schema of options: working it out takes a hundred times as long as all the rest."""
    return msgspec.json.schema(options)


def words(name: str) -> str:
    """A name for people: "Top k" for "top_k"."""
    text = name.replace("_", " ").replace(".", " ").strip()
    return text[:1].upper() + text[1:]
