"""Finding plugins: scan the entry points once, load each only when it is named or listed.

Entry points of the group `llamakit` are called `<kind>.<name>`, such as `backend.cpu`. A plugin that cannot be
loaded is remembered with its reason, shown by `llamakit plugins`, and breaks nothing that does not need it.
"""

from __future__ import annotations

import importlib.metadata
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import BackendError, LlamaKitError, PluginError
from llamakit.options import near

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.backend import Availability, Backend
    from llamakit.chat.tools import ToolFormat
    from llamakit.frontend import Frontend
    from llamakit.models.architecture import Architecture
    from llamakit.optimizer import Optimizer
    from llamakit.sampler import Sampler

GROUP = "llamakit"
KINDS = ("backend", "architecture", "sampler", "optimizer", "frontend", "tool_format")
AUTO = ("cuda", "opencl", "cpu")  # what `auto` tries, in this order; OpenCL only on a GPU


class PluginInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as `llamakit plugins` shows it."""

    name: str
    kind: str
    package: str
    version: str
    available: bool
    reason: str
    summary: str = ""


class Registry:
    """The plugins of an environment. An object, so that tests make their own."""

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint]) -> None:
        self._entries: dict[str, importlib.metadata.EntryPoint] = {}
        for entry in entry_points:
            known = self._entries.get(entry.name)
            if known is not None and known.value != entry.value:
                raise PluginError(
                    f"plugin {entry.name!r} is provided twice: by {_package(known)} and by {_package(entry)};"
                    " uninstall one of them"
                )
            self._entries[entry.name] = entry
        self._classes: dict[str, list[type]] = {}
        self._failures: dict[str, str] = {}

    @classmethod
    def discover(cls) -> Registry:
        """The plugins installed beside LlamaKit."""
        found = cls(importlib.metadata.entry_points(group=GROUP))
        if not {"backend.reference", "architecture.llama"} <= found._entries.keys():
            raise PluginError(
                "LlamaKit's own plugins are not found: the package is not installed, or a source folder hides the"
                " installed one",
                hint="pip install -e .  (or run from another folder)",
            )
        return found

    def entry_names(self, kind: str) -> list[str]:
        """Names of a kind's plugins, from metadata alone: nothing is imported."""
        return [name.partition(".")[2] for name in self._entries if name.startswith(f"{kind}.")]

    def package(self, kind: str, name: str) -> str:
        """The distribution that provides a plugin."""
        return _package(self._entries[f"{kind}.{name}"]).partition(" ")[0]

    def sampler(self, name: str) -> type[Sampler]:
        """The sampler called `name`."""
        found: type[Sampler] = self._one("sampler", name)
        return found

    def samplers(self) -> dict[str, type[Sampler]]:
        """All samplers that load, by name."""
        return self._all("sampler")

    def optimizer(self, name: str) -> type[Optimizer]:
        """The optimizer called `name`."""
        found: type[Optimizer] = self._one("optimizer", name)
        return found

    def optimizers(self) -> dict[str, type[Optimizer]]:
        """All optimizers that load, by name."""
        return self._all("optimizer")

    @cached_property
    def tool_formats(self) -> tuple[ToolFormat, ...]:
        """How families of models call tools, those of other packages first."""
        own = set(self.entry_names("tool_format")) - {name.partition(".")[2] for name in self.third_party}
        names = sorted(self.entry_names("tool_format"), key=lambda name: name in own)
        return tuple(format for name in names for format in self._load(f"tool_format.{name}") or ())  # type: ignore[misc]

    def frontends(self) -> dict[str, type[Frontend]]:
        """All frontends that load, by name."""
        return self._all("frontend")

    def frontend(self, name: str) -> type[Frontend]:
        """The frontend called `name`."""
        found: type[Frontend] = self._one("frontend", name)
        return found

    def architecture(self, name: str) -> type[Architecture]:
        """The architecture that GGUF files call `name`."""
        found: type[Architecture] = self._one("architecture", name)
        return found

    def backend(self, name: str) -> type[Backend]:
        """The backend called `name`, whether it can run here or not."""
        found: type[Backend] = self._one("backend", name)
        return found

    def choose_backend(self, wanted: str) -> tuple[type[Backend], str]:
        """The first usable backend of a list such as "cuda,cpu" or "auto", and why it was chosen."""
        names = [name.strip() for name in wanted.split(",") if name.strip()] or ["auto"]
        if names == ["auto"]:
            return self._choose_auto()
        for name in names:
            cls = self.backend(name)
            if cls.probe().available:
                return cls, f"asked for {wanted}"
        first = self.backend(names[0]).probe().reason
        raise self._no_backend(f"backend {names[0]} is not available: {first}")

    def _choose_auto(self) -> tuple[type[Backend], str]:
        reasons: list[str] = []
        for name in AUTO:
            availability = self._probe(name)
            if availability is None:
                continue
            usable = name != "opencl" or any(device.kind == "gpu" for device in availability.devices)
            if availability.available and usable:
                return self.backend(name), "auto" + (f": {'; '.join(reasons)}" if reasons else "")
            reasons.append(f"{name}: {availability.reason}" if usable else f"{name}: no GPU")
        raise self._no_backend("no backend is available")

    def _probe(self, name: str) -> Availability | None:
        """What a backend says of itself; None if there is none of that name that loads."""
        from llamakit.backend import Availability

        if f"backend.{name}" not in self._entries or self._load(f"backend.{name}") is None:
            return None
        cls = self.backend(name)
        return cls.probe() if cls.is_likely() else Availability(available=False, reason="there is no sign of a GPU")

    def _no_backend(self, message: str) -> BackendError:
        """An error that lists the backends there are."""
        infos = self.plugins("backend")
        found = [f"{i.name}: {'available' if i.available else 'not available'} ({i.reason})" for i in infos]
        usable = next((i.name for i in infos if i.available and i.name in AUTO), "reference")
        return BackendError(message, found="\n".join(found), hint=f"--backend {usable}", param="backend")

    def plugins(self, kind: str | None = None) -> list[PluginInfo]:
        """Every plugin, loaded and probed."""
        infos = []
        for name, entry in sorted(self._entries.items(), key=_by_kind):
            this_kind, _, short = name.partition(".")
            if kind in (None, this_kind):
                infos += self._describe(this_kind, short, entry)
        return infos

    def _describe(self, kind: str, name: str, entry: importlib.metadata.EntryPoint) -> list[PluginInfo]:
        package, _, version = _package(entry).partition(" ")
        loaded = self._load(f"{kind}.{name}")
        if loaded is None:
            reason = self._failures[f"{kind}.{name}"]
            return [PluginInfo(name=name, kind=kind, package=package, version=version, available=False, reason=reason)]
        infos = []
        for cls in loaded:
            if cls.name != name and f"{kind}.{cls.name}" in self._entries:  # type: ignore[attr-defined]
                continue  # it is described there
            available, reason = True, "loaded"
            if kind == "backend":
                probe = cls.probe()  # type: ignore[attr-defined]
                available, reason = probe.available, probe.reason
            label, summary = cls.name, cls.summary  # type: ignore[attr-defined]
            infos.append(
                PluginInfo(
                    name=label,
                    kind=kind,
                    package=package,
                    version=version,
                    available=available,
                    reason=reason,
                    summary=summary,
                )
            )
        return infos

    def _one(self, kind: str, name: str) -> Any:
        key = f"{kind}.{name}"
        if key not in self._entries:
            known = self.entry_names(kind)
            hint = f"llamakit plugins --kind {kind}"
            raise PluginError(f"no {kind} named {name!r}", found=near(name, known), hint=hint, param=kind)
        classes = self._load(key)
        if classes is None:
            raise PluginError(
                f"{kind} {name!r} of {_package(self._entries[key])} cannot be loaded: {self._failures[key]}"
            )
        for cls in classes:
            if cls.name == name:  # type: ignore[attr-defined]
                return cls
        raise PluginError(f"plugin {key!r} of {_package(self._entries[key])} gives no {kind} called {name!r}")

    def _all(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        providers: dict[str, importlib.metadata.EntryPoint] = {}
        for name, entry in self._entries.items():
            if not name.startswith(f"{kind}."):
                continue
            for cls in self._load(name) or ():
                label: str = cls.name  # type: ignore[attr-defined]
                if label in found and found[label] is not cls:
                    raise PluginError(
                        f"{kind} {label!r} is provided twice: by {_package(providers[label])} and by {_package(entry)}"
                    )
                found[label], providers[label] = cls, entry
        return found

    def _load(self, key: str) -> list[type] | None:
        """The classes of one entry point; None if it failed, with the reason kept."""
        if key in self._failures:
            return None
        if key not in self._classes:
            try:
                self._classes[key] = self._call(key)
            except LlamaKitError as error:
                self._failures[key] = str(error)
            except Exception as error:  # whatever a broken plugin raises while it is imported
                self._failures[key] = f"{type(error).__name__}: {error}"
        return self._classes.get(key)

    def _call(self, key: str) -> list[type]:
        """Import the plugin, check its hooks, call the one of its kind."""
        module = self._entries[key].load()
        manager = self._new_manager()
        known = [name for name in vars(manager.hook) if name.startswith("llamakit_")]
        for name in dir(module):
            if name not in known and getattr(getattr(module, name), "llamakit_impl", None):
                raise PluginError(f"unknown hook {name!r}", found=near(name, known))
        manager.register(module, name=key)
        manager.check_pending()
        hook_name = f"llamakit_{key.partition('.')[0]}s"
        if not hasattr(manager.hook, hook_name):
            raise PluginError(f"entry point {key!r} must start with one of: {', '.join(KINDS)}")
        return [cls for classes in getattr(manager.hook, hook_name)() for cls in classes]

    def _new_manager(self) -> Any:
        import pluggy

        from llamakit import hookspecs

        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        return manager

    @cached_property
    def third_party(self) -> set[str]:
        """Entry points that are not LlamaKit's own."""
        return {name for name, entry in self._entries.items() if _package(entry).partition(" ")[0] != "llamakit"}


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return _name_and_version(entry.dist) if entry.dist else "unknown ?"


@lru_cache(maxsize=256)
def _name_and_version(package: importlib.metadata.Distribution) -> str:
    """Kept, because for each of the two a file is read and parsed: `/samplers` and `/props` would do that for all."""
    return f"{package.name} {package.version}"


def _by_kind(item: tuple[str, Any]) -> tuple[int, str]:
    kind, _, name = item[0].partition(".")
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), name)
