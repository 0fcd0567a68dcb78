"""What a step costs at the least, and what the machine can do at best."""

from __future__ import annotations

import pytest

from llamakit.backend import Ceilings
from llamakit.session import Session
from llamakit.work import Work

HIDDEN, LAYERS, VOCABULARY, KV = 64, 5, 512, 32  # of stories260K; its feed-forward layers have 172 units
PER_ROW = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * 172)
HEAD = HIDDEN * VOCABULARY


@pytest.fixture
def work(small_model):
    with Session(small_model, backend="cpu", threads=1) as session:
        ceilings = Ceilings(read_bandwidth=1e6, multiply_adds={"f32": 1e6})
        spec = session.engine.space.kv.spec
        yield Work(session.model, session.file, session.device, session.weights, spec, ceilings)


@pytest.mark.usefixtures("stories260k")
def test_a_token_reads_every_weight_and_its_context(work):
    assert work.row == {"f32": PER_ROW}
    assert work.out_row == {"f32": HEAD}
    padding = LAYERS * 2 * 4 * HIDDEN  # 172 rows take as many panels of 16 as 176
    assert work.weight_bytes == 4 * (PER_ROW + padding + HEAD)
    assert work.kv_bytes == 2 * 2 * KV * LAYERS  # keys and values in float16
    seconds, limit = work.least(0, 10, 100, 1, 512)
    assert limit == "read"
    assert seconds == pytest.approx(10 * (work.weight_bytes + 105 * work.kv_bytes) / 1e6)


@pytest.mark.usefixtures("stories260k")
def test_a_prompt_is_limited_by_its_products(work):
    seconds, limit = work.least(600, 0, 0, 1, 512)
    assert limit == "f32"
    assert seconds == pytest.approx((600 * PER_ROW + HEAD) / 1e6)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_ceilings_of_the_machine(isa):
    _cpu = pytest.importorskip("llamakit.plugins.backends.cpu._cpu")
    if isa not in _cpu.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    pool = _cpu.Pool(1)

    def measure(type_):  # the best of several, since others may have the processor meanwhile
        return max(_cpu.multiply_rate(isa, pool, type_) for _ in range(5))

    rates = {type_: measure(type_) for type_ in ("int8", "bf16", "f32")}
    # Products of bf16 run at half the rate of float32's on some processors that have them (Sapphire Rapids).
    assert 1e8 < rates["f32"] <= rates["bf16"] * 3 <= rates["int8"] * 6
    assert _cpu.read_bandwidth(isa, pool) > 1e8
