"""What the page's files may not hold, and how large they may be."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

SINKS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment")
BUDGET_GZIP, BUDGET_RAW = 60_000, 220_000
EVERYTHING_GZIP = 110_000
MESSAGES = "message stream markdown inline highlight"
COLD = "state store api wire answer keys pin transcript composer status rail dom app"


def files(web: Path) -> list[Path]:
    """The page and its modules; the page of the API's documentation, beside them, has tests of its own."""
    return [web / "index.html", *(file for file in sorted((web / "ui").iterdir()) if not file.name.startswith("docs"))]


def test_no_string_becomes_markup(web: Path) -> None:
    for file in files(web):
        text = file.read_text()
        assert [sink for sink in SINKS if sink in text] == [], file.name
        assert not re.search(r"""\sstyle\s*=\s*["']""", text), file.name
        assert not re.search(r"""\son[a-z]+\s*=\s*["']""", text), file.name
        assert not re.search(r"\beval\(|new Function\(|setTimeout\(\s*[\"']", text), file.name


def test_every_address_is_relative(web: Path) -> None:
    """So that the page works below any path. The namespaces of SVG and MathML are names, not addresses."""
    for file in files(web):
        text = re.sub(r"http://www\.w3\.org/(2000/svg|1998/Math/MathML)", "", file.read_text())
        assert not re.search(r"""(?:href|src)="/|["'`]https?://[a-z]|fetch\(["'`]/|from "/|[:\s]url\(["'/]""", text), (
            file.name
        )


def test_size_of_a_chat_on_a_cold_load(web: Path) -> None:
    cold = [web / "index.html", web / "ui/page.css", web / "ui/theme.js", web / "ui/icon.svg"]
    cold += [web / f"ui/{name}.js" for name in f"{COLD} {MESSAGES}".split()]
    assert sum(len(gzip.compress(file.read_bytes())) for file in cold) <= BUDGET_GZIP
    assert sum(file.stat().st_size for file in cold) <= BUDGET_RAW


def test_size_of_everything(web: Path) -> None:
    """With every panel opened, each of which comes when it is first used."""
    assert sum(len(gzip.compress(file.read_bytes())) for file in files(web)) <= EVERYTHING_GZIP


def test_modules_stay_small(web: Path) -> None:
    long = {
        file.name: n for file in files(web) if file.suffix == ".js" and (n := len(file.read_text().splitlines())) > 340
    }
    assert not long


def test_no_id_twice(web: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', (web / "index.html").read_text())
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["index.html"])
def test_page_is_plain(web: Path, name: str) -> None:
    """One h1, a language, a viewport that does not forbid zoom, no script in the page itself."""
    text = (web / name).read_text()
    assert text.count("<h1") == 1
    assert '<html lang="en">' in text
    assert not re.search(r"maximum-scale|user-scalable", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
