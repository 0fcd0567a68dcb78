"""No finding of axe, the checker of accessibility, in both themes.

AXE_CORE names the folder with the npm archive: `npm pack axe-core` there.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

RUN = """axe.run(document).then(({ violations }) =>
  violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).join(", ")}`))"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script."""
    folder = os.environ.get("AXE_CORE")
    archives = sorted(Path(folder).glob("axe-core-*.tgz")) if folder else []
    if not archives:
        pytest.skip("needs the archive of axe-core in AXE_CORE")
    with tarfile.open(archives[-1]) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(axe: str, mock: Any, tabs: Any, scheme: str) -> None:
    # The page's own policy forbids foreign scripts, so it is off here.
    context = tabs.context(bypass_csp=True, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    page = tabs.open(context=context)
    found = {}

    def look(where: str) -> None:
        found[where] = page.evaluate(RUN)

    page.evaluate(axe)
    look("empty")
    page.fill("#message", "Tell the fox story")
    page.press("#message", "Enter")
    page.wait_for_selector(".message.last [data-tool=copy]")
    page.click("#settings")
    page.wait_for_selector("#drawer details", state="attached")
    page.evaluate("document.querySelectorAll('#drawer details').forEach((d) => { d.open = true; })")
    look("a chat and the samplers")
    for tab in ("prompt", "output", "server"):
        page.click(f"#drawer-{tab}")
        page.wait_for_selector(f"#drawer-panel[aria-labelledby=drawer-{tab}] > *")
        look(tab)
    page.click("#tab-notebook")
    page.wait_for_selector("#notebook textarea")
    look("a notebook")
    page.click("#keys")
    page.wait_for_selector("dialog[open]")
    look("a dialog")
    assert {where: each for where, each in found.items() if each} == {}
