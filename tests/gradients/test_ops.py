"""Gradients of every op."""

from __future__ import annotations

import pytest

from llamakit.session import Session  # noqa: F401
from llamakit.testing.gradients import check_differences, gradient_cases


@pytest.fixture(scope="module")
def exact():
    from llamakit.plugins.backends.reference import ReferenceBackend, ReferenceOptions

    return ReferenceBackend(ReferenceOptions(float64=True)).open()


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_the_reference_agrees_with_differences(case, exact):
    check_differences(case, exact, 1e-6)
