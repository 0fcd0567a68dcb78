"""Who may use the server: API keys, the Host and Origin headers, and what is sent to pages of other origins."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import falcon
from llamakit.plugins.frontends.rest.connections import client_of
from llamakit.plugins.frontends.rest.errors import AuthenticationError, ForbiddenError, TooLargeError
from llamakit.plugins.frontends.rest.keys import EVERYBODY, Keys, Role, WrongKeys
from llamakit.plugins.frontends.rest.listen import ANY_ADDRESS

from llamakit.errors import QueueFullError, UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.options import ServeOptions

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
NAMES = re.compile(r"[A-Za-z0-9_,\s-]+")  # of headers
MOST_ASKED = 2000  # characters
HEADERS = "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta"
EXPOSED = "X-Request-Id, X-Job-Id, X-Ignored-Fields, Retry-After"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Security:
    """Middleware: checks each request before its resource sees it."""

    def __init__(self, options: ServeOptions, keys: Keys, *, loopback: bool) -> None:
        self.keys, self.cors, self.body_limit = keys, frozenset(options.cors), options.body_limit
        self.patterns = [_pattern(text) for text in self.cors if "*" in text and text != "*"]
        names = {*LOOPBACK_NAMES, *options.hosts, *options.allowed_host}
        bound = any(host in ANY_ADDRESS for host in options.hosts)
        addresses = machine_addresses() if bound else ()
        self.hosts = None if "*" in names else frozenset(name.lower() for name in (*names, *addresses))
        self._wrong = WrongKeys()

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Host and Origin, the answer to a preflight, and the size of the body."""
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Cache-Control", "no-store")  # files and streams have their own
        resp.set_header("Cross-Origin-Resource-Policy", "cross-origin" if self.cors else "same-origin")
        self._check_host(req)
        self._check_origin(req, resp)
        if req.method == "OPTIONS":  # as in 2023: every path answers it, with nothing
            resp.content_type = falcon.MEDIA_JSON
            resp.complete = True
            return
        try:
            length = req.content_length or 0
        except falcon.HTTPInvalidHeader as error:
            raise UsageError("the header Content-Length is not a count of bytes") from error
        if length > self.body_limit:
            raise TooLargeError(
                f"the body is too large: {length:,} bytes", found=f"at most {self.body_limit:,} are taken",
                hint="a shorter request, or a server with a larger --max-body",
            )  # fmt: skip

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: Any, params: Any) -> None:
        """The API key and its role, on every route that is not open."""
        req.context.key = EVERYBODY
        if not self.keys or getattr(resource, "llamakit_open", False):
            return
        req.context.resource = resource
        key = self.keys.find(_key_of(req))
        if key is None:
            raise self._refused(req, resp)
        req.context.key = key
        role = _role_of(resource, req.method)
        if not key.may(role):
            raise ForbiddenError(
                f"this key may not do that: {req.method} {req.path[:100]} needs the role {role}",
                found=f"it has {', '.join(sorted(key.roles))}", hint="a key with that role (--api-key-file)",
            )  # fmt: skip

    def _refused(self, req: falcon.Request, resp: falcon.Response) -> AuthenticationError | QueueFullError:
        """The error for a key that is not known, or is missing."""
        given = _key_of(req)
        wait = self._wrong.count(client_of(req.remote_addr or "")) if given else 0
        if wait:
            return QueueFullError("too many wrong API keys came from this address", retry_after=wait)
        resp.set_header("WWW-Authenticate", "Bearer")
        return AuthenticationError(
            "this server wants an API key", found="the key is not known" if given else "no key was sent",
            hint="Authorization: Bearer KEY, or x-api-key: KEY",
        )  # fmt: skip

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
                "this server does not answer to that name", found=f"the Host header names {host[:100]!r}",
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


def _role_of(resource: Any, method: str) -> Role:
    """The role that a route asks for: its own to look at it, `admin` to change something where it says so."""
    role: Role = getattr(resource, "llamakit_role", Role.USE)
    changes: bool = getattr(resource, "llamakit_changes", False)
    return Role.ADMIN if changes and method not in ("GET", "HEAD") else role


def machine_addresses() -> set[str]:
    """This machine's names and addresses, as far as it knows them."""
    name = socket.gethostname()
    found = {name, name.partition(".")[0], socket.getfqdn()}
    with suppress(OSError):
        found |= {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(name, None)}
    for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))  # sends nothing: it only chooses the address that would be used
            found.add(str(probe.getsockname()[0]).partition("%")[0])
    return found


def hostname(netloc: str) -> str | None:
    """The name in "name:port" or "[address]:port", in lower case; None if it has no such form."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port  # raises if it is not a number
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
