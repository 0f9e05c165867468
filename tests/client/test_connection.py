"""Requests on slow lines."""

from __future__ import annotations

import json
import socket
import threading
import time

from ipa_cli.client.connection import Connection

LIMIT, SIZE, BUFFERED = 0.5, 12_000_000, 6_000_000


def test_a_body_may_take_longer_to_be_sent_than_an_answer_may_take_as_long_as_it_moves():
    took = []

    def serve(listening: socket.socket) -> None:
        client, _ = listening.accept()
        began, came = time.monotonic(), 0
        with client:
            while came < SIZE:
                came += len(client.recv(1 << 16))
                if came < SIZE - BUFFERED and time.monotonic() - began < 2 * LIMIT:
                    time.sleep(0.01)
            took.append(time.monotonic() - began)
            answer = json.dumps({"status": "ok", "data": 1, "error": None}).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        server = Connection(f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert server.ask("POST", "/v1/jobs", "x" * SIZE, seconds=LIMIT) == 1
    assert took[0] > LIMIT
