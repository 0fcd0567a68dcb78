"""Data files: finding them, telling what they are, reading them line by line."""

from __future__ import annotations

import difflib
import glob
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llamakit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt", ".text", ".md")  # what a folder is searched for
LINES, WHOLE, TEXTS = (".jsonl", ".ndjson"), (".json",), (".txt", ".text", ".md")
SHOWN = 60  # characters of what was found
BOM = b"\xef\xbb\xbf"
DOCUMENT_END = re.compile(r"\n(?:[ \t]*\n){2,}")  # two blank lines or more


class Place(NamedTuple):
    """Where something stands, for people: a file and a line of it (or the number of a record, in a JSON array).

    `share`: of the file that is read when it has been.
    """

    file: str
    number: int = 0
    what: str = "line"
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.file}, {self.what} {self.number}" if self.number else self.file


def find_files(patterns: Iterable[str]) -> list[Path]:
    """The files that names, folders and patterns such as `data/**/*.jsonl` stand for, each once, in their order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            paths = _matching(pattern)
            if not paths:
                raise _nothing_matches(pattern)
        except (OSError, ValueError, RuntimeError) as error:  # too long a name, no such home, a folder that is closed
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"the data {pattern} cannot be read: {reason}", param="data") from None
        found |= dict.fromkeys(paths)
    return list(found)


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 in hex of all bytes of the files, one behind the other: what `cat FILES | sha256sum` says."""
    digest = hashlib.sha256()
    for path in files:
        with _opened(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def values(path: Path) -> Iterator[tuple[Place, Any]]:
    """The JSON objects of a file, or the texts of one that is not JSON: documents that two blank lines part.

    Each comes with its place; what cannot be read comes as a `DataError` in place of a value, so that others follow.
    """
    with _opened(path) as file:
        head = file.read(4096)
    _refuse_other_kinds(path, head)
    if path.suffix.lower() in LINES:
        yield from _lines(path)
    elif path.suffix.lower() in WHOLE:
        yield from _whole(path)
    elif path.suffix.lower() not in TEXTS and _looks_like_lines(path):
        yield from _lines(path)
    else:
        yield from _documents(path)


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
    if path.exists():
        if not path.is_file():  # a second look at a pipe finds the rest of it, or nothing
            hint = "write it to a file first"
            raise DataError(f"{pattern} is a pipe or a device; data are read more than once", hint=hint, param="data")
        return [path]
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(Path(name) for name in names if Path(name).is_file())


def _nothing_matches(pattern: str) -> DataError:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return DataError(f"the folder {pattern} has no data files", hint=f"files ending in {', '.join(SUFFIXES)}")
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 3, 0.5)
    there = f"nearest in that folder: {', '.join(near)}" if near else ""
    if not there and not path.is_absolute():
        there = f"nothing of that name in {Path.cwd()}"
    return DataError(f"no data file {pattern}", found=there, param="data")


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", param="data") from None


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Errors for what is not text in UTF-8 at all."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        hint = f"iconv -f UTF-16 -t UTF-8 {path.name}"
        raise DataError(f"{path} is text in UTF-16; UTF-8 is needed", hint=hint, param="data")
    if b"\0" in head:
        what = {b"GGUF": "a GGUF model", b"PK\x03\x04": "a zip archive", b"PAR1": "a Parquet file"}.get(head[:4])
        found = what or ("compressed by gzip" if head[:2] == b"\x1f\x8b" else "binary data")
        raise DataError(f"{path} is not text", found=found, hint="JSON lines or plain text in UTF-8", param="data")


def _looks_like_lines(path: Path) -> bool:
    """Whether the first line that is not blank is a JSON object; for names that do not tell."""
    with _opened(path) as file:
        for line in file:
            bare = line.removeprefix(BOM).strip()
            if bare:
                return bare[:1] == b"{" and isinstance(_decoded(bare, Place(str(path))), dict)
    return False


def _lines(path: Path) -> Iterator[tuple[Place, Any]]:
    size, done = max(1, path.stat().st_size), 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            done += len(line)
            bare = (line.removeprefix(BOM) if number == 1 else line).strip()
            if bare:
                place = Place(str(path), number, share=done / size)
                yield place, _object(_decoded(bare, place), place)


def _whole(path: Path) -> Iterator[tuple[Place, Any]]:
    """A JSON array of records (or an object with one array in it); JSON lines go by this name too."""
    with _opened(path) as file:
        data = file.read().removeprefix(BOM).strip()
    whole = _decoded(data, Place(str(path))) if data else []
    if isinstance(whole, DataError) and b"\n" in data:
        yield from _lines(path)
        return
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        whole = lists[0] if len(lists) == 1 and "messages" not in whole and "conversations" not in whole else [whole]
    records = whole if isinstance(whole, list) else [whole]
    for number, value in enumerate(records, 1):
        share = number / len(records)
        place = Place(str(path), number, "record", share) if isinstance(whole, list) else Place(str(path), share=share)
        yield place, _object(value, place)


def _documents(path: Path) -> Iterator[tuple[Place, Any]]:
    with _opened(path) as file:
        data = file.read().removeprefix(BOM)
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield Place(str(path), line), _not_utf8(Place(str(path), line), data[error.start])
        return
    line = 1
    start = 0
    for end in [*DOCUMENT_END.finditer(text), None]:
        stop = end.start() if end else len(text)
        part = text[start:stop]
        if part.strip():
            blank = len(part) - len(part.lstrip("\n"))
            yield Place(str(path), line + blank, share=stop / len(text)), part.strip("\n")
        if end:
            line += text.count("\n", start, end.end())
            start = end.end()


def _decoded(data: bytes, place: Place) -> Any:
    """JSON, or the error that says why it is none."""
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError:
        return _not_utf8(place, _first_odd(data))  # its place is that within a string
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ") or "too deep"
        if "utf-8" in reason.lower():
            return _not_utf8(place, _first_odd(data))
        found = data[:SHOWN].decode("utf-8", "replace") + ("..." if len(data) > SHOWN else "")
        return DataError(f"{place}: this is not JSON: {reason}", found=found, param="data")


def _first_odd(data: bytes) -> int | None:
    """The first byte that is not UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[error.start]
    return None


def _not_utf8(place: Place, byte: int | None) -> DataError:
    found = f"the byte 0x{byte:02x}" if byte is not None else ""
    return DataError(f"{place}: this is not text in UTF-8", found=found, hint="iconv -f LATIN1 -t UTF-8", param="data")


def _object(value: Any, place: Place) -> Any:
    if isinstance(value, (dict, DataError)):
        return value
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return DataError(f"{place}: a record is a JSON object", found=kinds.get(type(value), "a number"), param="data")
