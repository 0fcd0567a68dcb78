"""Static files: the built-in page, `--path`, and nothing outside of the two."""

from __future__ import annotations

import gzip
import socket

import pytest
from llamakit.plugins.frontends.rest.static import StaticFiles

from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder to serve, beside a secret; links lead in and out of it."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.txt").write_text("classified")
    site = folder / "site"
    (site / "sub").mkdir(parents=True)
    (site / ".hidden").mkdir()
    for name, text in (
        ("page.html", "<script>1</script>"), ("sub/index.html", "sub"), ("sub/data.json", "{}"), (".hidden/x.txt", "h"),
        (".env", "h"), ("with space.txt", "space"), ("ümlaut.txt", "umlaut"), ("mod.mjs", "export {}"),
        ("raw", "bytes"), ("completion.js", "mine"), ("model.json", "not the API"),
    ):  # fmt: skip
        (site / name).write_text(text, encoding="utf-8")
    (site / "large.bin").write_bytes(bytes(range(256)) * 8192)
    (site / "inside.html").symlink_to(site / "page.html")
    (site / "outside.txt").symlink_to(folder / "secret.txt")
    (site / "up").symlink_to(folder)
    (site / "loop").symlink_to(site / "loop")
    return site


@pytest.fixture(scope="module")
def client(serve_module, site):
    return serve_module(path=str(site))


@pytest.mark.parametrize(
    ("path", "kind", "data"),
    [
        ("/page.html", "text/html; charset=utf-8", b"<script>1</script>"),
        ("/inside.html", "text/html; charset=utf-8", b"<script>1</script>"),
        ("/sub/", "text/html; charset=utf-8", b"sub"),
        ("/sub//index.html", "text/html; charset=utf-8", b"sub"),
        ("/sub%2Findex.html", "text/html; charset=utf-8", b"sub"),
        ("/sub/data.json?x=/../..", "application/json", b"{}"),
        ("/with%20space.txt", "text/plain; charset=utf-8", b"space"),
        ("/%C3%BCmlaut.txt", "text/plain; charset=utf-8", b"umlaut"),
        ("/mod.mjs", "text/javascript; charset=utf-8", b"export {}"),
        ("/raw", "application/octet-stream", b"bytes"),
        ("/completion.js", "text/javascript; charset=utf-8", b"mine"),
    ],
)
def test_files_of_the_folder(client, path, kind, data):
    status, headers, found = client.request("GET", path)
    assert (status, headers["Content-Type"], found) == (200, kind, data)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-cache"
    assert "Content-Security-Policy" not in headers  # pages of 2023 have scripts within


def test_a_large_file_comes_whole(client, site):
    status, headers, data = client.request("GET", "/large.bin")
    assert (status, headers["Content-Length"]) == (200, "2097152")
    assert data == (site / "large.bin").read_bytes()
    status, headers, data = client.request("HEAD", "/large.bin")
    assert (status, headers["Content-Length"], data) == (200, "2097152", b"")


def test_the_built_in_page_is_there_where_the_folder_has_none(client):
    for path in ("/", "/index.html"):
        status, headers, data = client.request("GET", path)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"<html" in data
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    status, headers, _ = client.request("GET", "/ui/app.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert client.request("GET", "/json-schema-to-grammar.mjs")[0] == 200


def test_the_apis_win_over_files(client):
    assert "n_ctx" in client.get("/model.json")[1]


OUTSIDE = [
    "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/%2e%2e%2fsecret.txt", "/sub/../../secret.txt",
    "/sub/..%2f..%2fsecret.txt", "/..\\secret.txt", "/..%5csecret.txt", "/....//secret.txt", "/.%2e/secret.txt",
    "//secret.txt/../../etc/passwd", "/outside.txt", "/up/secret.txt", "/up/site/page.html/../../secret.txt", "/loop",
    "/.env", "/.hidden/x.txt", "/sub/.%00/", "/page.html%00.txt", "/%00", "/page.html%00", "/C:/windows/win.ini",
    "/page.html/", "/page.html/x", "/sub", "/ui", "/ui/", "/ui/../static.py", "/ui/%2e%2e/%2e%2e/static.py",
    "/ui/..%2f..%2fstatic.py", "/%252e%252e/secret.txt", "/%ff%fe", "/" + "a" * 5000, "/" + "a/" * 3000, "/ui/nope.js",
    "/static.py", "/app.py", "/web/index.html", "/%c0%ae%c0%ae/secret.txt", "/sub/%E2%80%AE", "/~root", "/con",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_outside_can_be_reached(client, path):
    with socket.create_connection((client.host, client.port), timeout=PATIENCE) as sock:  # as it is, not made nicer
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = sock.makefile("rb").read()
    assert b"classified" not in answer
    assert len(answer) < 2000
    assert answer.split()[1] == b"404", answer
    assert b'"error"' in answer


def test_only_get_and_head(client):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/page.html", b"x")[0] == 404


def test_etags(client, site):
    _, headers, _ = client.request("GET", "/page.html")
    tag = headers["ETag"]
    for asked in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        status, headers, data = client.request("GET", "/page.html", None, {"If-None-Match": asked})
        assert (status, data, headers["ETag"]) == (304, b"", tag), asked
    for asked in ('"other"', "garbage", ""):
        status, _, data = client.request("GET", "/page.html", None, {"If-None-Match": asked})
        assert (status, data) == (200, b"<script>1</script>"), asked
    (site / "changing.txt").write_text("one")
    first = client.request("GET", "/changing.txt")[1]["ETag"]
    (site / "changing.txt").write_text("three")
    status, headers, data = client.request("GET", "/changing.txt", None, {"If-None-Match": first})
    assert (status, data) == (200, b"three")
    assert headers["ETag"] != first


def test_a_folder_that_is_not_there_leaves_the_built_in_page(serve, tmp_path):
    client = serve(path=str(tmp_path / "missing"))
    assert client.request("GET", "/")[0] == 200
    assert client.request("GET", "/page.html")[0] == 404


def test_a_file_that_cannot_be_read_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    files = StaticFiles(str(tmp_path))
    assert files.find("/a.txt") == tmp_path.resolve() / "a.txt"
    assert files.find("a.txt") is None
    assert files.find("/" + "\udc80") is None


def test_texts_are_packed_for_who_reads_it(client):
    _, plain, data = client.request("GET", "/ui/app.js")
    assert "Content-Encoding" not in plain
    status, headers, packed = client.request("GET", "/ui/app.js", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "gzip", "Accept-Encoding")
    assert gzip.decompress(packed) == data
    assert len(packed) < len(data) / 2
    assert headers["ETag"] != plain["ETag"]
    again = {"Accept-Encoding": "gzip", "If-None-Match": headers["ETag"]}
    assert client.request("GET", "/ui/app.js", headers=again)[0] == 304
    refused = client.request("GET", "/ui/app.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused[1]
    assert "Content-Encoding" not in client.request("GET", "/large.bin", headers={"Accept-Encoding": "gzip"})[1]
