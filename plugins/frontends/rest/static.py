"""Static files: those of `--path` first, then the built-in page. Nothing outside the two folders can be reached."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamakit.errors import NotFoundError

if TYPE_CHECKING:
    import falcon

WEB = Path(__file__).parent / "web"
PACKED = ("text/", "application/json", "image/svg+xml")  # types that gzip makes smaller
WORTH = 1000  # bytes from which on a file is packed
WHOLE = 1 << 20  # larger files are sent in pieces
ROOT_FILES = ("index.html", "completion.js", "json-schema-to-grammar.mjs")  # the others of the page are under /ui/
TYPES = {
    ".html": "text/html; charset=utf-8", ".htm": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml",
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".ico": "image/x-icon", ".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8",
    ".woff2": "font/woff2", ".wasm": "application/wasm", ".gbnf": "text/plain; charset=utf-8",
}  # fmt: skip
# What our own page may do: nothing but its own scripts, styles and requests.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class StaticFiles:
    """Answers GET and HEAD of files; `folder` "" means that there are only the built-in ones; `page`: whether
    these are served."""

    def __init__(self, folder: str, web: Path = WEB, *, page: bool = True) -> None:
        self.folder = Path(folder).resolve() if folder else None
        self.web, self.page = web.resolve(), page

    def answer(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """The sink: whatever no route answers comes here."""
        file = self.find(req.path) if req.method in ("GET", "HEAD") else None
        if file is None:
            raise NotFoundError(f"there is nothing at {req.path[:200]}")
        if file.is_relative_to(self.web):
            resp.set_headers(PAGE_HEADERS)
        _send(req, resp, file)

    def find(self, path: str) -> Path | None:
        """The file of a path that was decoded already, such as "/ui/chat.js"."""
        parts = [part for part in path.split("/") if part]
        if not path.startswith("/") or any(_is_bad(part) for part in parts):
            return None
        if path.endswith("/"):
            parts.append("index.html")
        found = _inside(self.folder, parts) if self.folder else None
        if found is None and self.page and (parts[0] == "ui" or (len(parts) == 1 and parts[0] in ROOT_FILES)):
            found = _inside(self.web, parts)
        return found


def _is_bad(part: str) -> bool:
    """Whether a part of a path is hidden, leads upward or is not a file name."""
    return part.startswith(".") or any(c in part for c in "\\:\0")


def _inside(folder: Path, parts: list[str]) -> Path | None:
    """The regular file `parts` under `folder`, unless a link leads out of it."""
    try:
        path = folder.joinpath(*parts).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, not encodable, a loop of links
        return None


def _send(req: falcon.Request, resp: falcon.Response, file: Path) -> None:
    status = file.stat()
    tag = _tag(file, status.st_mtime_ns, status.st_size)
    resp.content_type = TYPES.get(file.suffix.lower(), "application/octet-stream")
    resp.cache_control = ["no-cache"]
    packed = _packed(file, tag) if _takes_gzip(req) and resp.content_type.startswith(PACKED) else None
    if resp.content_type.startswith(PACKED):
        resp.append_header("Vary", "Accept-Encoding")
    if packed is not None:
        tag += "-gzip"
        resp.set_header("Content-Encoding", "gzip")
    resp.etag = tag
    asked = req.if_none_match or []
    if any(each in ("*", tag) for each in asked):
        resp.status = "304 Not Modified"
        return
    if req.method == "HEAD":
        resp.content_length = status.st_size if packed is None else len(packed)
    elif packed is not None:
        resp.data = packed
    elif status.st_size <= WHOLE:
        resp.data = file.read_bytes()
    else:
        resp.set_stream(file.open("rb"), status.st_size)


def _takes_gzip(req: falcon.Request) -> bool:
    """Whether the client reads gzip; one with a weight of 0 does not."""
    for part in (req.get_header("Accept-Encoding") or "").split(","):
        name, _, weight = part.replace(" ", "").partition(";q=")
        if name.lower() == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


@lru_cache(maxsize=128)
def _packed(file: Path, tag: str) -> bytes | None:
    """A file's bytes packed, kept by its tag; None where that is not worth it."""
    data = file.read_bytes() if file.stat().st_size <= WHOLE else b""
    packed = gzip.compress(data, 6, mtime=0) if len(data) > WORTH else data
    return packed if len(packed) < len(data) else None


@lru_cache(maxsize=1024)
def _tag(file: Path, modified: int, size: int) -> str:
    """An entity tag that changes with the file."""
    return hashlib.blake2b(f"{file}:{modified}:{size}".encode(), digest_size=12).hexdigest()
