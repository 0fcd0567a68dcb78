"""The `cpu` backend: native kernels for each instruction set of the processor, on a pool of threads.

The same prompt gives the same bits whatever else is in the batch, however it was cut, at any thread count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.backend import Availability, Backend, DeviceInfo
from llamakit.hookspecs import hookimpl
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.backend import Device


class CPUOptions(Options):
    """How the processor is used."""

    threads: Annotated[int, Meta(ge=0, le=1024, description="Threads; 0 = as many as there are cores.")] = 0
    threads_batch: Annotated[
        int, Meta(ge=0, le=1024, description="Threads for steps of 16 rows and more, such as prompts; 0 = `threads`.")
    ] = 0
    affinity: Annotated[
        str, Meta(description="Cores for the threads, in order, such as 0-7,16; empty = wherever the system puts them.")
    ] = ""
    numa: Annotated[bool, Meta(description="One thread a core, dealt out over the memory nodes.")] = False
    no_repack: Annotated[
        bool,
        Meta(
            description="Leave weights in the file's mapping, shared with other processes, and pack them again when "
            "they are used: no loading, but slower answers (docs/cpu.md)."
        ),
    ] = False
    no_mmap: Annotated[
        bool, Meta(description="With `no_repack`: read the weights into memory. Packed weights always are.")
    ] = False
    train_bf16: Annotated[
        bool,
        Meta(
            description="Products of training with operands rounded to bfloat16, where the processor has such products."
        ),
    ] = False
    isa: Annotated[str, Meta(description="Instruction set of the kernels, such as avx2; empty = the best.")] = ""


class CPUBackend(Backend):
    """Native kernels on the host."""

    name = "cpu"
    summary = "native kernels for this processor"
    Options = CPUOptions

    @classmethod
    def probe(cls) -> Availability:
        """It runs wherever its native module was built."""
        try:
            from llamakit.plugins.backends.cpu import _cpu
        except ImportError as error:
            return Availability(available=False, reason=f"its native module was not built or does not load: {error}")
        from llamakit import system

        info = DeviceInfo(
            system.cpu_name(), "cpu", system.total_memory(), system.free_memory(), tuple(_cpu.supported_isas())
        )
        return Availability(available=True, reason=f"kernels for {', '.join(_cpu.supported_isas())}", devices=(info,))

    def open(self, index: int = 0) -> Device:
        """The host."""
        from llamakit.plugins.backends.cpu.device import CPUDevice

        return CPUDevice(self.options)


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """Give the registry this plugin's backend."""
    return [CPUBackend]
