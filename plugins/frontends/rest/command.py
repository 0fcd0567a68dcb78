"""`llamakit serve`: answers many clients at once, with a web page."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.rest.flags import add_flags, device_options, settings_from
from llamakit.plugins.frontends.rest.llamacpp_flags import Translated, translate
from llamakit.plugins.frontends.rest.options import ServeOptions

from llamakit.config import COMMAND_LINE, Config, check_sampling, load_config
from llamakit.errors import BackendError, LlamaKitError, UsageError
from llamakit.registry import Registry

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.server import Server
    from llamakit.plugins.frontends.rest.state import ServerState

WATCH_SECONDS = 1.0  # how often the main thread looks whether the engines live


class Serve(click.Command):
    """Takes the command line of llama.cpp's server too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's, of what `translate` makes of the arguments."""
        translated = translate(args)
        ctx.meta["llamakit.translated"] = translated
        return super().parse_args(ctx, translated.args)


@add_flags
@click.command(cls=Serve)
@click.pass_context
def serve(ctx: click.Context, **values: Any) -> None:
    """Answer many clients at once: a web page, the API of llama.cpp's server, and those of OpenAI, Ollama, Anthropic.

    \b
    llamakit serve -m model.gguf
    llamakit serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt
    llamakit serve --models small=a.gguf --models large=b.gguf --idle-unload 600
    """
    registry = Registry.discover()
    config, notes = _config(ctx, registry, values)
    options: ServeOptions = config.options("frontend.rest", ServeOptions)
    check_sampling(config, registry)
    ctx.exit(run(config, options, registry, notes))


def _config(ctx: click.Context, registry: Registry, values: dict[str, Any]) -> tuple[Config, list[str]]:
    """The settings, the command line over all others; and what of it has no effect."""
    from llamakit.devices import parse_devices

    file = (ctx.find_root().obj or {}).get("config_file")
    config = load_config(registry, file=Path(file) if file else None, environ=os.environ)
    for key, value in settings_from(values).items():
        config.set(key, value, COMMAND_LINE)
    translated: Translated = ctx.meta["llamakit.translated"]
    for key, value in translated.settings.items():
        config.set(key, value, COMMAND_LINE)
    device = parse_devices(config["device"])[0][0] if config["device"] else config["backend"]
    backend, _ = registry.choose_backend(device)
    used, unused = device_options(values, backend.Options.__struct_fields__)
    for name, value in used.items():
        config.set(f"backend.{backend.name}.{name}", value, COMMAND_LINE)
    notes = [f"{flag}: without effect, backend {backend.name} has no use for it" for flag in unused]
    notes += translated.warnings
    if config["frontend.rest.verbose"]:
        notes += [f"{flag}: without effect here" for flag in translated.without_effect]
    return config, notes


def run(config: Config, options: ServeOptions, registry: Registry, notes: list[str]) -> int:
    """Serve until a signal comes; returns the exit code. `notes` are warnings of the command line."""
    from llamakit.plugins.frontends.rest import startup
    from llamakit.plugins.frontends.rest.body import checked_sampling
    from llamakit.plugins.frontends.rest.keys import read_keys
    from llamakit.plugins.frontends.rest.listen import listen_on
    from llamakit.plugins.frontends.rest.logs import set_up
    from llamakit.plugins.frontends.rest.server import STALL_SECONDS, Server
    from llamakit.plugins.frontends.rest.tls import make_context

    from llamakit.system import collect_when_asked, keep_little

    keep_little()
    set_up(options)
    keys = read_keys(options)
    _ = options.template_variables  # what is wrong with them is told before anything is loaded
    models = startup.models_of(config, options)
    settings = startup.settings_of(config, options, registry, len(models))
    tls = make_context(options.ssl_cert_file, options.ssl_key_file) if startup.wants_tls(options) else None
    socks = listen_on(options.hosts, options.port, min(options.timeout, STALL_SECONDS))
    try:
        for each in socks:
            startup.check_public(each.getsockname()[0], options, keys)
    except UsageError:
        for each in socks:
            each.close()
        raise
    unwise = [text for each in socks for text in startup.warnings_of(options, each.getsockname()[0], keys)]
    for text in dict.fromkeys([*notes, *startup.origins_of(config), *unwise]):
        startup.warn(text, options)
    state = startup.make_state(options, registry, models, settings, keys)
    state.sampling = checked_sampling(registry, config.changed("sampling"))
    state.defaults = startup.defaults_of(config, options)
    server = Server(state, socks[0], keys, tls, socks[1:])
    collect_when_asked()  # before any model is there, which may be unloaded
    return _Run(server, state, options).run()


class _Run:
    """A server's life: loading, answering, and the end that signals ask for."""

    def __init__(self, server: Server, state: ServerState, options: ServeOptions) -> None:
        self.server, self.state, self.options = server, state, options
        self._signals = 0
        self._wake: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # may be put to in a signal's handler
        self._error: BaseException | None = None
        self._told = 0.0

    def run(self) -> int:
        """From start to end."""
        old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        began = time.perf_counter()
        try:
            self.server.start()
            threading.Thread(target=self._load, args=(began,), name="llamakit-start", daemon=True).start()
            self._error = self._wait()
            grace = self.options.grace if self._error is None else 0.0
            self.server.stop(grace, self._tick, lambda: self._signals > 1)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        if self._error is not None:
            raise self._error
        return 0

    def _wait(self) -> BaseException | None:
        """Until a signal comes, or something that ends the server: loading failed, or an engine that is given up."""
        while True:
            with suppress(queue.Empty):
                return self._wake.get(timeout=WATCH_SECONDS)
            pool = self.state.pool
            for session in (pool.loaded(name) for name in pool.names()):
                if session is not None and session.service.dead:
                    return BackendError("the engine's thread ended again and again", hint="the log above tells why")

    def _load(self, began: float) -> None:
        """Load the default model, then say that it answers."""
        from llamakit.plugins.frontends.rest import startup

        pool = self.state.pool
        try:
            with pool.lease(pool.default) as session:
                if self.options.chat_template:
                    session.template()  # one that is asked for and is none is told at the start
                if self.options.mlock and (why := startup.lock_memory()):
                    startup.warn(f"--mlock: the memory cannot be locked: {why}", self.options)
                with suppress(LlamaKitError):  # who chats is told what is wrong with it
                    session.chat_template  # noqa: B018 - starts the process that renders it
                lines = startup.lines_of(session, self.state, self.server.urls, time.perf_counter() - began)
            if self.options.log_format == "json":
                from llamakit.plugins.frontends.rest.app import log

                log.info("ready", extra={"fields": {"url": self.server.url, "model": pool.default}})
            else:
                click.echo("\n".join(lines), err=True)
        except BaseException as error:  # the main thread raises it
            self._wake.put(error)

    def _on_signal(self, number: int, frame: Any) -> None:
        """The first one ends the server gently, the second one at once, the third one without anything."""
        self._signals += 1
        if self._signals > 2:
            os._exit(128 + number)
        self._wake.put(None)

    def _tick(self, answers: int, left: float) -> None:
        """Count down while answers are finished."""
        if self.options.log_format == "json":
            return
        text = f"{answers} answer{'s' if answers != 1 else ''} running, {left:.0f} s left; Ctrl-C again cuts them"
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        elif not self._told:
            click.echo(text, err=True)
        self._told = left
