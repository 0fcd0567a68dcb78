"""Gradients of every op."""

from __future__ import annotations

import pytest

from llamakit.testing.gradients import check_differences, check_equal, gradient_cases


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
