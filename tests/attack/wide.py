"""Clients that ask for the 1,000 likeliest tokens at each place: a process of their own, so that they keep no one else
waiting.

    python wide.py HOST PORT CLIENTS SECONDS [--unread]

Each asks for one stream. Prints the statuses, and how many streams were whole; those that do not read leave after
SECONDS, and print nothing of that.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections import Counter

BODY = {"prompt": "Once", "n_predict": 100, "n_probs": 1000, "stream": True, "ignore_eos": True, "temperature": 1.5,
        "top_k": 0, "top_p": 1.0}  # fmt: skip
HEAD = "POST /completion HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"
BLOCK = 1 << 20


def request(**more: object) -> bytes:
    """Head and body."""
    body = json.dumps(BODY | more).encode()
    return HEAD.format(len(body)).encode() + body


def read(host: str, port: int, seen: Counter[str]) -> None:
    """Ask for a stream, read it to its end, and count what it was."""
    with socket.create_connection((host, port), timeout=120) as connection:
        connection.sendall(request())
        first, end = b"", b""
        while data := connection.recv(BLOCK):
            first = first or data[:12]
            end = (end + data)[-BLOCK:]
    whole = b'"stop":true' in end and end.rstrip().endswith(b"0")  # the last chunk is empty
    seen[f"{first.decode()} {'whole' if whole else 'cut off'}"] += 1


def leave_unread(host: str, port: int, n: int, seconds: float) -> None:
    """Ask for long streams and read nothing of them."""
    connections = []
    for _ in range(n):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, port))
        connection.sendall(request(n_predict=4000))
        connections.append(connection)
    time.sleep(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--unread", action="store_true")
    options = parser.parse_args()
    if options.unread:
        leave_unread(options.host, options.port, options.clients, options.seconds)
        return
    seen, end = Counter[str](), time.monotonic() + options.seconds
    while time.monotonic() < end:
        threads = [
            threading.Thread(target=read, args=(options.host, options.port, seen)) for _ in range(options.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
