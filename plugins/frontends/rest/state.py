"""What every part of the server can reach: settings, plugins, models, and whether it shuts down."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.admission import Admission
from llamakit.plugins.frontends.rest.memory import Memory
from llamakit.plugins.frontends.rest.slots import SlotTable

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.metrics import Metrics
    from llamakit.plugins.frontends.rest.options import ServeOptions

    from llamakit.pool import ModelPool
    from llamakit.registry import Registry


class ServerState:
    """One server. `pool.lease(name)` gives the session of a model; `draining` is set when it shuts down.

    `sampling`: sampler options of the settings, by which every request begins; `defaults`: values of fields that a
    request leaves out; `admission` counts the requests that are being answered, `memory` what they hold; `slots`: the
    texts of llama.cpp's slots, where they can be saved; `key_required` tells whether clients need an API key,
    `several_keys` whether there is more than one.
    """

    def __init__(
        self,
        options: ServeOptions,
        registry: Registry,
        pool: ModelPool,
        metrics: Metrics,
        *,
        key_required: bool = False,
        several_keys: bool = False,
    ) -> None:
        self.options, self.registry, self.pool, self.metrics = options, registry, pool, metrics
        self.key_required, self.several_keys = key_required, several_keys
        self.sampling: dict[str, object] = {}
        self.defaults: dict[str, object] = {}
        self.admission = Admission(options.places)
        self.memory = Memory(options.memory_limit)
        self._changing = threading.Lock()
        self.slots = SlotTable(options.parallel) if options.slot_save_path else None
        self.draining = threading.Event()
        self.started = time.time()

    def change_defaults(self, fields: dict[str, object], sampling: dict[str, object]) -> None:
        """What requests get from now on that say nothing; values are checked already, and -1 takes a limit away."""
        with self._changing:
            merged = {**self.defaults, **fields}
            self.defaults = {name: value for name, value in merged.items() if value != -1}
            self.sampling = {**self.sampling, **sampling}
