"""From settings to a running server, and the lines that tell how it started."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from llamakit.plugins.frontends.rest.adapter_watch import AdapterWatch
from llamakit.plugins.frontends.rest.body import DEFAULT_LIMITS
from llamakit.plugins.frontends.rest.options import size_in_bytes
from llamakit.plugins.frontends.rest.security import is_loopback
from llamakit.plugins.frontends.rest.state import ServerState

from llamakit.embedded import named_or_embedded
from llamakit.errors import UsageError, shown
from llamakit.pool import ModelPool, device_memory, opener
from llamakit.terminal import one_line, safe
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.plugins.frontends.rest.keys import Keys
    from llamakit.plugins.frontends.rest.options import ServeOptions

    from llamakit.config import Config
    from llamakit.registry import Registry
    from llamakit.session import Session

log = logging.getLogger("llamakit.rest")
EMBEDDED = "llamakit-small"  # what requests call the embedded model
ADAPTER_SLOTS = 4  # different selections of adapters in a step, where adapters may come later
SECURITY = (  # settings of which it is told where they came from
    "host", "path", "api_key", "api_key_file", "insecure_no_key", "cors", "allowed_host", "lora_dir", "ssl_cert_file",
    "ssl_key_file", "max_body", "request_memory",
)  # fmt: skip


def models_of(config: Config, options: ServeOptions) -> dict[str, Path]:
    """Name and file of every model, the default one first; a file that is not there is told now."""
    models: dict[str, Path] = {}
    if config["model"]:
        path = Path(config["model"])
        models[options.alias or path.name.removesuffix(".gguf")] = path
    models |= {name: Path(path) for name, path in options.models.items()}
    if options.models_dir:
        for path in _models_in(Path(options.models_dir)):
            models.setdefault(path.stem, path)
    if not models:
        path, notice = named_or_embedded("")
        say(notice, options)
        models[options.alias or EMBEDDED] = path
    for name, path in models.items():
        check_model(name, path)
    return models


def _models_in(folder: Path) -> list[Path]:
    """The models of a folder; UsageError where there is no folder, or none in it."""
    found = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    if not found:
        why = "it holds no .gguf file" if folder.is_dir() else "there is no such folder"
        raise UsageError(f"--models-dir {folder}: no models", found=why, param="models_dir")
    return found


def defaults_of(config: Config, options: ServeOptions) -> dict[str, object]:
    """Values of fields that a request leaves out, by the names that these have in any API."""
    found: dict[str, object] = {}
    if config["seed"] >= 0:
        found["seed"] = config["seed"]
    if options.n_predict >= 0:
        found |= dict.fromkeys(DEFAULT_LIMITS, options.n_predict)
    if options.context_shift:
        found["context_shift"] = options.context_shift == "on"
    return found


def check_model(name: str, path: Path) -> None:
    """Open a model's file for a moment: a missing or damaged one is an error before anything starts."""
    from llamakit.gguf import open_gguf

    if not name or "/" in name or not name.isprintable():
        raise UsageError(f"a model cannot be called {name!r}", hint="a name without / and control characters")
    open_gguf(path).close()


def settings_of(config: Config, options: ServeOptions, registry: Registry, n_models: int = 1) -> dict[str, Any]:
    """What each model's `Session` is made with."""
    memory = size_in_bytes(options.kv_memory, "kv_memory") if options.kv_memory else 0
    settings = config.of_session() | {
        "n_seq": options.parallel, "kv_memory": memory, "max_predict": options.max_predict, "max_queue": options.queue,
        "stall_seconds": options.stall, "per_client": options.per_client,
        "per_client_tokens": options.per_client_tokens,
        "lora": [*((path, 1.0) for path in options.lora), *options.lora_scaled], "lora_base": options.lora_base,
        "adapter_slots": ADAPTER_SLOTS if options.lora_dir or options.lora_watch else 0,
        "draft_model": options.model_draft, "draft": options.draft, "chat_template": _template(options.chat_template),
    }  # fmt: skip
    if not memory and n_models > 1:  # else the first model would take what the others need
        settings["kv_most"] = device_memory(registry, settings).free // (2 * n_models)
    if options.rope_freq_base or options.rope_freq_scale:
        from llamakit.models.rope import RopeOverrides

        settings["rope"] = RopeOverrides(
            freq_base=options.rope_freq_base or None, freq_scale=options.rope_freq_scale or None
        )
    return settings


def _template(asked: str) -> str:
    """What is asked for; of a pipe the text, which is there to be read once: models are opened more than once."""
    from llamakit.chat.template import source_of

    with suppress(OSError, ValueError):  # a template's text, which is no name that a file can have
        if Path(asked).is_fifo():
            return source_of(asked)
    return asked


def make_state(
    options: ServeOptions, registry: Registry, models: dict[str, Path], settings: dict[str, Any], keys: Keys
) -> ServerState:
    """All that the parts of the server share. The keys themselves are not in it."""
    from llamakit.plugins.frontends.rest.metrics import Metrics

    watch = AdapterWatch(options.lora_watch) if options.lora_watch else None
    open_session = opener(registry, settings)
    pool = ModelPool(
        models, watch.opening(open_session, next(iter(models.values()))) if watch else open_session,
        idle_seconds=options.idle_unload, free_memory=lambda: device_memory(registry, settings).free,
    )  # fmt: skip
    shown = msgspec.structs.replace(options, api_key=[])
    state = ServerState(shown, registry, pool, Metrics(), key_required=bool(keys), several_keys=keys.several)
    if watch is not None:
        watch.start(pool, state.draining)
    return state


def wants_tls(options: ServeOptions) -> bool:
    """Whether the server is to speak TLS."""
    return bool(options.ssl_cert_file or options.ssl_key_file)


def check_public(address: str, options: ServeOptions, keys: Keys) -> None:
    """Refuse to be reached from other machines without a key, unless that was asked for in so many words."""
    if not is_loopback(address) and not keys and not options.insecure_no_key:
        raise UsageError(
            f"--host {options.host} without an API key: anyone who reaches this machine could use the model",
            hint="--api-key KEY or --api-key-file FILE; --insecure-no-key if all who reach it may", param="host",
        )  # fmt: skip


def origins_of(config: Config) -> list[str]:
    """Which settings that matter for security came from elsewhere than the command line, and from where."""
    found = []
    for name in SECURITY:
        key = f"frontend.rest.{name}"
        origin = config.origin(key)
        if origin not in ("default", "command line"):
            value = "" if name == "api_key" else f" {shown(config[key])}"
            found.append(f"--{name.replace('_', '-')}{value} comes from {origin}")
    return found


def warnings_of(options: ServeOptions, address: str, keys: Keys) -> list[str]:
    """What is allowed but unwise."""
    found = []
    if options.path and not Path(options.path).is_dir():
        found.append(f"--path {options.path}: no such folder; the built-in page is served")
    elif options.path:
        found.append(f"--path {options.path}: all files in there are given to anyone, without a key")
    if not is_loopback(address) and not keys:
        found.append(f"listening on {address} without an API key: anyone who reaches this port can use the model")
    if not is_loopback(address) and keys and not wants_tls(options):
        found.append(f"listening on {address} without TLS: keys and texts can be read on the way (--ssl-cert-file)")
    if "*" in options.cors and not keys:
        found.append("--cors * without --api-key: any page that your browser opens can use the model")
    return found


def lines_of(session: Session, state: ServerState, urls: Sequence[str], seconds: float) -> list[str]:
    """The lines that say what was loaded and where it answers."""
    h, (backend, _) = session.model.hparams, session.backend
    kernels = "".join(f", {name} {kind}" for name, kind in session.device.kernels().items())
    name = one_line(str(session.file.metadata.get("general.name") or session.path.stem))
    model = f"{name}, {count(session.model.n_parameter)}, {h.architecture}, context {session.n_ctx:,}"
    weights = sum(weight.n_bytes for weight in session.weights.values())
    kv = session.device.kv_size(session.engine.space.kv.spec)
    store = session.adapters
    adapters = one_line(", ".join(info.name for info in store.infos())) if store is not None else ""
    samplers = state.registry.samplers()
    others = sum(f"sampler.{each}" in state.registry.third_party for each in samplers)
    from_others = f", {others} from other packages" if others else ""
    return [
        f"model     {model}",
        f"backend   {backend.name}{kernels}",
        *([f"layers    {session.offload.told}"] if session.offload.told else []),
        f"memory    {size_text(weights)} weights, {size_text(kv)} KV ({state.options.parallel} sequences,"
        f" {session.settings.kv_type}), {size_text(session.device.memory().free)} free",
        *([f"adapters  {adapters}"] if adapters else []),
        f"samplers  {len(samplers)}{from_others}",
        f"API       {urls[0]}/v1  /completion  /api  /v1/messages  /docs",
        f"page      {'  '.join(f'{url}/' for url in urls)}",
        f"ready in {seconds:.1f} s; Ctrl-C stops",
    ]


def count(n: float) -> str:
    """A number of parameters for people, such as "6.74 B"."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:.0f}"


def lock_memory() -> str:
    """Keep all memory of this process from being swapped out; returns why not, or nothing."""
    import ctypes
    import os

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(1) == 0:  # MCL_CURRENT
            return ""
        return os.strerror(ctypes.get_errno())
    except (OSError, AttributeError, TypeError):
        return "this system has no mlockall"


def say(text: str, options: ServeOptions) -> None:
    """A line for people on standard error; an entry of a log that is JSON."""
    if options.log_format == "json":
        log.info("%s", text)
        return
    click.echo(text, err=True)


def warn(text: str, options: ServeOptions) -> None:
    """A warning on standard error."""
    if options.log_format == "json":
        log.warning("%s", text)
        return
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {safe(text)}", err=True)
