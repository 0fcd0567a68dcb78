"""Who may use the server: keys, Host, Origin, CORS and sizes, on every route there is."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress

import falcon
import msgspec
import pytest
from llamakit.plugins.frontends.rest.app import routes
from llamakit.plugins.frontends.rest.keys import Keys, read_keys
from llamakit.plugins.frontends.rest.options import ServeOptions, size_in_bytes
from llamakit.plugins.frontends.rest.security import hostname, is_loopback
from llamakit.plugins.frontends.rest.startup import warnings_of

from llamakit.errors import UsageError
from tests.waiting import PATIENCE

KEY = "sk-local-1234567890"
OPEN = {"/health", "/v1/health", "/docs"}  # beside static files; /docs holds no data, /openapi.json wants a key


@pytest.fixture(scope="module")
def locked(serve_module, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text("# people\nfirst-key   # Ann\n\nsecond-key\n")
    return serve_module(api_key=[KEY], api_key_file=str(file))


def every_route(client):
    """(method, path) of everything that the server answers, placeholders filled."""
    found = []
    for route in routes(client.state):
        path = re.sub(r"{[^}]*}", "1", route.path)
        found += [(method, path) for method in falcon.HTTP_METHODS if hasattr(route.resource, f"on_{method.lower()}")]
    return [(method, path) for method, path in found if method not in ("OPTIONS", "HEAD")]


def test_every_route_but_the_open_ones_wants_a_key(locked):
    checked = 0
    for method, path in every_route(locked):
        status, headers, data = locked.request(method, path, b"{}" if method == "POST" else None)
        if path in OPEN:
            assert status == 200, (method, path)
            continue
        assert status == 401, (method, path, data)
        assert headers["WWW-Authenticate"] == "Bearer"
        assert headers["Content-Type"] == "application/json"
        assert "error" in msgspec.json.decode(data)
        checked += 1
    assert checked > 20


def test_the_page_is_open_and_unknown_paths_tell_nothing(locked):
    for path in ("/", "/index.html", "/completion.js", "/json-schema-to-grammar.mjs"):
        assert locked.request("GET", path)[0] == 200, path
    assert locked.get("/nope")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {KEY} "}, 200),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": "first-key"}, 200),
        ({"x-api-key": "second-key"}, 200),
        ({"Authorization": "Bearer second-key"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": KEY}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"Authorization": f"Bearer {KEY.upper()}"}, 401),
        ({"x-api-key": "Ann"}, 401),
        ({"x-api-key": "# people"}, 401),
        ({"x-api-key": "\xff"}, 401),
        ({"x-api-key": KEY * 100}, 401),
    ],
)
def test_keys(locked, headers, status):
    assert locked.post("/tokenize", {"content": "x"}, headers)[0] == status


def test_keys_are_nowhere_to_be_seen(locked):
    assert locked.state.key_required
    assert locked.state.options.api_key == []
    _, _, props = locked.request("GET", "/props", None, {"x-api-key": KEY})
    assert KEY.encode() not in props
    keys = Keys([KEY])
    assert KEY not in repr(vars(keys))
    assert keys.find(KEY)
    assert not keys.find("")


def test_read_keys(tmp_path):
    file = tmp_path / "keys"
    assert not read_keys(ServeOptions())
    file.write_text("\n# nothing\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(ServeOptions(api_key_file=str(file)))
    file.write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_keys(ServeOptions(api_key_file=str(file)))
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(ServeOptions(api_key_file=str(tmp_path / "missing")))
    for bad in ("", "two words", "é", "tab\there"):
        with pytest.raises(UsageError, match="an API key") as error:
            read_keys(ServeOptions(api_key=[bad]))
        assert not bad or bad not in str(error.value)


HOSTS = [  # a server on 127.0.0.1 is for this machine only
    ("localhost", 200), ("LOCALHOST:{port}", 200), ("127.0.0.1", 200), ("127.0.0.1:{port}", 200), ("[::1]:{port}", 200),
    ("localhost.", 200), ("my.box", 200), ("my.box:1", 200),
    ("evil.example", 403), ("evil.example:{port}", 403), ("localhost.evil.example", 403),
    ("127.0.0.1.evil.example", 403),
    ("evil@localhost", 403), ("localhost:port", 403), ("[::1", 403), ("", 403), ("localhost/x", 403), ("0.0.0.0", 403),
    ("192.168.0.1", 403), ("127.0.0.2", 403), ("xn--localhost", 403),
]  # fmt: skip


@pytest.fixture(scope="module")
def local(serve_module):
    options = {"allowed_host": ["my.box"], "cors": ["https://ok.example", "http://localhost:5173"]}
    return serve_module(max_body="64K", **options)


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_hosts(local, host, status):
    for method, path in (("GET", "/health"), ("GET", "/"), ("POST", "/tokenize"), ("GET", "/nope")):
        found = raw(local, method, path, {"Host": host.format(port=local.port)}, b"{}")
        assert found == (status if path != "/nope" or status == 403 else 404), (method, path)


def test_without_a_host_it_is_no_browser(local):
    with socket.create_connection((local.host, local.port), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert sock.makefile("rb").readline().split()[1] == b"200"


def raw(client, method, path, headers, body):
    """The status of a request with exactly these headers."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close"]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection((client.host, client.port), timeout=PATIENCE) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + (body if method == "POST" else b""))
        with sock.makefile("rb") as file:
            status = int(file.readline().split()[1])
            file.read()
    return status


ORIGINS = [  # Origin, status of a POST, whether a page there may read it
    ("https://ok.example", 200, True), ("http://localhost:5173", 200, True),
    ("http://127.0.0.1:{port}", 200, None), ("null", 403, False), ("https://evil.example", 403, False),
    ("http://ok.example", 403, False), ("https://ok.example.evil", 403, False), ("http://localhost:1", 403, False),
    ("file://127.0.0.1:{port}", 403, False), ("garbage", 403, False), ("http://127.0.0.1:{port}0", 403, False),
]  # fmt: skip


@pytest.mark.parametrize(("origin", "status", "readable"), ORIGINS)
def test_origins(local, origin, status, readable):
    origin = origin.format(port=local.port)
    found, headers, data = local.request("POST", "/tokenize", {"content": "x"}, {"Origin": origin})
    assert found == status, data
    assert headers.get("Access-Control-Allow-Origin") == (origin if readable else None)
    found, headers, _ = local.request("OPTIONS", "/completion", None, {"Origin": origin})
    assert found == 200
    assert headers.get("Access-Control-Allow-Origin") == (origin if readable else None)
    assert ("authorization" in headers.get("Access-Control-Allow-Headers", "")) == bool(readable)
    found, headers, _ = local.request("GET", "/health", None, {"Origin": origin})
    assert (found, headers.get("Access-Control-Allow-Origin")) == (200, origin if readable else None)
    assert headers["Vary"] == "Origin"


def test_every_post_checks_the_origin(local):
    posts = [path for method, path in every_route(local) if method == "POST"]
    assert len(posts) > 10
    for path in posts:
        assert local.request("POST", path, b"{}", {"Origin": "https://evil.example"})[0] == 403, path


def test_without_cors_there_are_no_headers_of_it_and_with_a_star_all_may(serve):
    plain = serve()
    _, headers, _ = plain.request("GET", "/health", None, {"Origin": "https://a.example"})
    assert not [name for name in headers if name.startswith("Access-Control")]
    star = serve(cors=["*"])
    for origin in ("https://a.example", "null"):
        status, headers, _ = star.request("POST", "/tokenize", {"content": "x"}, {"Origin": origin})
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert "Access-Control-Allow-Credentials" not in headers


def test_an_error_can_be_read_by_an_allowed_page(local):
    status, headers, _ = local.request("POST", "/nope", {}, {"Origin": "https://ok.example"})
    assert (status, headers["Access-Control-Allow-Origin"]) == (404, "https://ok.example")


def test_bodies_and_headers_have_limits(local):
    limit = local.state.options.body_limit
    assert limit == 64 << 10
    status, answer = local.post("/tokenize", b'{"content":"' + b"x" * limit + b'"}')
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert "65,536" in answer["error"]["found"]
    assert local.post("/tokenize", b'{"content":"' + b"x" * 60000 + b'"}')[0] == 200
    far_above = {"Host": "localhost", "Content-Length": str(1 << 40)}
    assert raw_head(local, "POST", "/tokenize", far_above) == 413
    chunks = b"".join(b"2000\r\n" + b"x" * 0x2000 + b"\r\n" for _ in range(20))
    assert raw_head(local, "POST", "/tokenize", {"Host": "localhost", "Transfer-Encoding": "chunked"}, chunks) == 413
    assert raw_head(local, "GET", "/health", {"Host": "localhost", "X-Long": "x" * 40000}) in (400, 431)
    assert raw_head(local, "GET", "/" + "x" * 40000, {"Host": "localhost"}) in (400, 404, 414, 431)
    assert local.get("/health")[0] == 200


def raw_head(client, method, path, headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    with socket.create_connection((client.host, client.port), timeout=PATIENCE) as sock:
        with suppress(OSError):  # it may answer before all is sent
            sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return int(sock.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"POST /completion HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nContent-Length: 1e9\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%00%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\tHost: x\r\n\r\n",
    ],
)  # fmt: skip
def test_hostile_heads_leave_it_answering(local, head):
    with socket.create_connection((local.host, local.port), timeout=PATIENCE) as sock:
        sock.sendall(head)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile("rb").read()
    assert b"Traceback" not in answer
    assert answer == b"" or int(answer.split()[1]) < 500
    assert local.get("/health")[0] == 200


def test_a_proxys_headers_are_not_believed(local):
    """X-Forwarded-Host cannot stand in for Host."""
    status, _, _ = local.request("GET", "/health", None, {"Host": "evil.example", "X-Forwarded-Host": "localhost"})
    assert status == 403


def test_answers_are_not_sniffed(local):
    for path in ("/", "/health", "/nope", "/completion.js"):
        assert local.request("GET", path)[1]["X-Content-Type-Options"] == "nosniff"


def test_a_public_server_without_a_key_is_warned_of():
    options = ServeOptions()
    (text,) = warnings_of(options, "0.0.0.0", Keys(()))
    assert text.startswith("listening on 0.0.0.0 without an API key")
    assert warnings_of(options, "127.0.0.1", Keys(())) == []
    (text,) = warnings_of(options, "0.0.0.0", Keys(["k"]))
    assert text.startswith("listening on 0.0.0.0 without TLS")
    assert warnings_of(ServeOptions(ssl_cert_file="x"), "0.0.0.0", Keys(["k"])) == []
    assert len(warnings_of(ServeOptions(cors=["*"]), "::1", Keys(()))) == 1


@pytest.mark.parametrize(
    ("netloc", "name"),
    [
        ("a.b:1", "a.b"), ("A", "a"), ("[::1]:8080", "::1"), ("a.", "a"), ("a:b", None), ("u@a", None), ("a/b", None),
        ("a?b", None), ("", None), ("[::1", None),
    ],
)  # fmt: skip
def test_hostname(netloc, name):
    assert hostname(netloc) == name


def test_is_loopback():
    assert [is_loopback(a) for a in ("127.0.0.1", "127.9.9.9", "::1", "::1%lo")] == [True] * 4
    assert [is_loopback(a) for a in ("0.0.0.0", "::", "10.0.0.1", "nonsense", "")] == [False] * 5


def test_sizes():
    for text, value in (("1000", 1000), ("4G", 4 << 30), ("512 MiB", 512 << 20), ("1.5k", 1536), ("2TB", 2 << 40)):
        assert size_in_bytes(text, "x") == value
    for text in ("", "G", "-1", "4 G G", "1e3", "nan"):
        with pytest.raises(UsageError):
            size_in_bytes(text, "x")


def test_errors_of_the_server_name_no_folders(server):
    from llamakit.plugins.frontends.rest.errors import body_of

    from llamakit.errors import LlamaKitError, ModelFileError

    shown = json.dumps(body_of(ModelFileError("no file /home/ann/models/x.gguf", hint="try C:\\data\\y.gguf or ~/a/z")))
    assert "x.gguf" in shown
    assert "y.gguf" in shown
    assert "ann" not in shown
    assert "data" not in shown
    assert (
        body_of(LlamaKitError("see http://a.example/b/c and /v1/x"))["error"]["message"]
        == "see http://a.example/b/c and x"
    )
