"""Values too large for the type of the KV cache do no harm to the rows that do not see them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from llamakit.plugins.backends.cpu import CPUOptions, _cpu
from llamakit.plugins.backends.cpu.device import CPUDevice

from llamakit.testing import conformance


@pytest.mark.parametrize("isa", _cpu.supported_isas())
@pytest.mark.parametrize("kv_type", ["f16", "bf16", "q8_0", "f32"])
def test_a_later_position_that_overflows(kv_type, isa, monkeypatch):
    case = next(c for c in conformance.cases() if c.op == "attention" and c.rows > 2 and c.head_dim % 32 == 0)
    case = replace(case, kv_type=kv_type, window=0)
    device = CPUDevice(CPUOptions(threads=1, isa=isa))
    plain = conformance.run(case, device)
    make = conformance.Setup.floats

    def with_a_large_row(self, name, *sizes):
        made = make(self, name, *sizes)
        if name == "v":
            self.inputs[name][case.rows - 1] = 1e9
        return made

    monkeypatch.setattr(conformance.Setup, "floats", with_a_large_row)
    found = conformance.run(case, device)
    assert np.array_equal(found[: case.rows - 1], plain[: case.rows - 1])
    assert np.isfinite(found).all()
    assert not np.array_equal(found[case.rows - 1], plain[case.rows - 1])
