"""A metadata service on loopback that answers as AWS and GCP do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetadataServer:
    """What it answers; may be changed while it runs.

    ``items`` maps a path to a body (missing: 404). ``failures`` are status codes for the next
    questions. ``tokens`` are those that AWS accepts now.
    """

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.failures: list[int] = []
        self.tokens: set[str] = set()
        self.asked: list[str] = []
        self.delay_s = 0.0
        self.url = ""

    def answer(self, method: str, path: str, headers) -> tuple[int, str]:
        self.asked.append(f"{method} {path}")
        time.sleep(self.delay_s)
        if self.failures:
            return self.failures.pop(0), ""
        if path == "/latest/api/token":
            if method != "PUT" or "X-aws-ec2-metadata-token-ttl-seconds" not in headers:
                return 400, ""
            token = f"token-{len(self.asked)}"
            self.tokens.add(token)
            return 200, token
        if path.startswith("/latest/") and headers["X-aws-ec2-metadata-token"] not in self.tokens:
            return 401, ""
        if path.startswith("/computeMetadata/") and headers["Metadata-Flavor"] != "Google":
            return 403, ""
        return (200, self.items[path]) if path in self.items else (404, "")


@contextmanager
def serve(server: MetadataServer) -> Iterator[MetadataServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = server.answer(self.command, self.path, self.headers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
