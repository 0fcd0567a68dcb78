"""Who may use the server: API keys, the Host and Origin headers, and what is sent to pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import falcon
from llamakit.plugins.frontends.rest.errors import AuthenticationError, ForbiddenError, TooLargeError

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.plugins.frontends.rest.options import ServeOptions

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
NAMES = re.compile(r"[A-Za-z0-9_,\s-]+")  # of headers
MOST_ASKED = 2000  # characters
HEADERS = "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta"
EXPOSED = "X-Request-Id, X-Ignored-Fields, Retry-After"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Keys:
    """The API keys, kept as hashes only."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def knows(self, key: str) -> bool:
        """Whether a key is one of them; takes the same time for each wrong key."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return sum(hmac.compare_digest(digest, each) for each in self._hashes) > 0


def read_keys(options: ServeOptions) -> Keys:
    """The keys of the settings and of the key file."""
    keys = list(options.api_key)
    if options.api_key_file:
        keys += _lines(Path(options.api_key_file))
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError("an API key is empty or has spaces or unusual characters", param="api_key")
    return Keys(keys)


def _lines(file: Path) -> list[str]:
    """The keys in a file; one that is named but holds none would leave the server open."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"the key file {file} cannot be read: {why}", param="api_key_file") from None
    keys = [line.split("#")[0].strip() for line in text.splitlines()]
    if not any(keys):
        raise UsageError(f"the key file {file} holds no key", param="api_key_file")
    return [key for key in keys if key]


class Security:
    """Middleware: checks each request before its resource sees it."""

    def __init__(self, options: ServeOptions, keys: Keys, *, loopback: bool) -> None:
        self.keys, self.cors, self.body_limit = keys, frozenset(options.cors), options.body_limit
        self.patterns = [_pattern(text) for text in self.cors if "*" in text and text != "*"]
        names = {*LOOPBACK_NAMES, options.host.strip("[]"), *options.allowed_host}
        self.hosts = frozenset(name.lower() for name in names) if loopback else None

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Host and Origin, the answer to a preflight, and the size of the body."""
        resp.set_header("X-Content-Type-Options", "nosniff")
        self._check_host(req)
        self._check_origin(req, resp)
        if req.method == "OPTIONS":  # as in 2023: every path answers it, with nothing
            resp.content_type = falcon.MEDIA_JSON
            resp.complete = True
            return
        try:
            length = req.content_length or 0
        except falcon.HTTPInvalidHeader as error:
            raise UsageError("the header Content-Length is no count of bytes") from error
        if length > self.body_limit:
            raise TooLargeError(
                f"the body is too large: {length:,} bytes", found=f"at most {self.body_limit:,} are taken",
                hint="a shorter request, or a server with a larger --max-body",
            )  # fmt: skip

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: Any, params: Any) -> None:
        """The API key, on every route that is not open."""
        if not self.keys or getattr(resource, "llamakit_open", False):
            return
        req.context.resource = resource
        if not self.keys.knows(_key_of(req)):
            resp.set_header("WWW-Authenticate", "Bearer")
            given = "the key is not known" if _key_of(req) else "no key was sent"
            raise AuthenticationError(
                "this server wants an API key", found=given, hint="Authorization: Bearer KEY, or x-api-key: KEY"
            )

    def _allowed(self, origin: str) -> bool:
        """Whether an origin is named, or fits a pattern such as http://localhost:* or https://*.example.com."""
        return origin in self.cors or any(pattern.fullmatch(origin) for pattern in self.patterns)

    def _check_host(self, req: falcon.Request) -> None:
        """A page whose name was made to point at this machine (DNS rebinding) has its own name in Host."""
        host = req.get_header("Host")
        if self.hosts is None or host is None:
            return
        if (hostname(host) or "") not in self.hosts:
            raise ForbiddenError(
                "this server answers requests for this machine only", found=f"the Host header names {host[:100]!r}",
                hint="--allowed-host NAME lets a name through",
            )  # fmt: skip

    def _check_origin(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Pages of other origins may read answers, and may send anything, only if `--cors` names them."""
        origin = req.get_header("Origin")
        if self.cors:
            resp.append_header("Vary", "Origin")
        if origin is None or _same_origin(origin, req):
            return
        if "*" not in self.cors and not self._allowed(origin):
            if req.method in ("GET", "HEAD", "OPTIONS"):
                return  # nothing is changed by them, and without our headers the page cannot read the answer
            raise ForbiddenError(
                "pages of other origins may not use this server", found=f"the Origin header names {origin[:100]!r}",
                hint="--cors ORIGIN lets its pages through",
            )  # fmt: skip
        resp.set_header("Access-Control-Allow-Origin", "*" if "*" in self.cors else origin)
        resp.set_header("Access-Control-Allow-Methods", METHODS)
        resp.set_header("Access-Control-Allow-Headers", _asked_headers(req))
        resp.set_header("Access-Control-Expose-Headers", EXPOSED)
        resp.set_header("Access-Control-Max-Age", "600")


def _pattern(text: str) -> re.Pattern[str]:
    """An origin with stars: one for any port, one for a part of a name."""
    head, port, tail = text.rpartition(":*")
    if port and not tail:
        return re.compile(re.escape(head).replace(r"\*", "[A-Za-z0-9.-]+") + r"(?::\d{1,5})?")
    return re.compile(re.escape(text).replace(r"\*", "[A-Za-z0-9.-]+"))


def _asked_headers(req: falcon.Request) -> str:
    """The headers that a preflight asks for, since clients bring their own (`x-stainless-*`, `anthropic-*`)."""
    asked = req.get_header("Access-Control-Request-Headers") or ""
    return asked if 0 < len(asked) <= MOST_ASKED and NAMES.fullmatch(asked) else HEADERS


def hostname(netloc: str) -> str | None:
    """The name in "name:port" or "[address]:port", in lower case; None if it has no such form."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port  # raises if it is no number
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def is_loopback(address: str) -> bool:
    """Whether a bound address is reached from this machine only."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _same_origin(origin: str, req: falcon.Request) -> bool:
    """Whether an Origin header names the host and port that the request was sent to."""
    scheme, _, netloc = origin.partition("://")
    host = req.get_header("Host") or ""
    return scheme in ("http", "https") and bool(host) and netloc.lower() == host.lower()


def _key_of(req: falcon.Request) -> str:
    """The key that a request brings, or nothing."""
    given = req.get_header("x-api-key")
    if given:
        return given.strip()
    scheme, _, key = (req.get_header("Authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
