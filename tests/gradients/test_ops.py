"""Gradients of every op."""

from __future__ import annotations

import pytest

from llamakit.graph.ops import ActivationAttrs, AttentionAttrs, GraphError, Op
from llamakit.testing.gradients import GradientCase, Setup, check_differences, check_equal, gradient_cases


@pytest.fixture(scope="module")
def exact():
    from llamakit.plugins.backends.reference import ReferenceBackend, ReferenceOptions

    return ReferenceBackend(ReferenceOptions(float64=True)).open()


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_the_reference_agrees_with_differences(case, exact):
    check_differences(case, exact, 1e-6)


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_the_cpu_backend_agrees_with_the_reference(case, exact):
    from llamakit.plugins.backends.cpu import CPUBackend

    check_equal(case, CPUBackend().open(), exact, 1e-3)


def attention(s: Setup, attrs: AttentionAttrs):
    q, k, v = (s.rows(name, 2, 4) for name in "qkv")
    return s.g.add_all(Op.ATTENTION, "node", (q, k, v, *s.positions(1)), attrs=attrs)[-1]


def slope(s: Setup, attrs: ActivationAttrs):
    return s.g.add(Op.ACTIVATION, "node", (s.rows("x", 4),), attrs=attrs)


@pytest.mark.parametrize(
    ("build", "attrs", "message"),
    [
        (attention, AttentionAttrs(0.5, None), "with log_sum_exp only"),
        (attention, AttentionAttrs(0.5, None, log_sum_exp=True), "depends on the log-sum-exp itself"),
        (slope, ActivationAttrs("silu", slope=True), "derivative of an activation has no gradient"),
    ],
)
def test_what_has_no_gradient_is_named(build, attrs, message):
    with pytest.raises(GraphError, match=f"node node: .*{message}"):
        GradientCase("", lambda s: build(s, attrs)).graph()
