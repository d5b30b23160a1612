"""A reverse proxy before an S3 server: serialises writes of a key, counts requests, makes faults.

Run as a process of its own: ``python faulty_proxy.py --upstream http://127.0.0.1:1 --port 2``.

Requests that may write a key (PUT, POST, DELETE) pass one at a time for each key, so that a
conditional put of the server behind, which checks and then writes, is one step to its clients.

``/_proxy/faults`` takes (PUT) and ``/_proxy/log`` gives (GET) and forgets (DELETE) what the tests
ask for; no bucket can have that name. The process ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import threading
from collections import defaultdict
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

FAULTS = ("slow_down", "internal_error", "slow", "reset_before", "reset_after", "truncated")
"""Kinds of faults: answers 503 and 500, a late answer, a connection cut before the server saw the
request and after it did what was asked, and a body that ends before its announced length."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)
_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message><RequestId>injected</RequestId></Error>"""
_ANSWERS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal_error": (500, "InternalError", "We encountered an internal error."),
}
Headers = dict[str, str]


class Faults:
    """Decides which request meets which fault.

    ``rules`` come first, in order; each holds ``kind`` and any of ``method`` (LIST for listings),
    ``path`` (a regular expression for path and query), ``first`` (from the nth matching request
    on, 1 by default) and ``times`` (how many, 1 by default; 0 for all). Then ``rate`` of all
    requests meet one of ``kinds``, drawn by ``seed``. ``slow_s`` is how late a late answer is.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.slow_s = float(settings.get("slow_s", 2.0))
        self._rules = [dict(rule, seen=0) for rule in settings.get("rules", ())]
        self._rate = float(settings.get("rate", 0.0))
        self._kinds = list(settings.get("kinds", FAULTS))
        self._random = random.Random(settings.get("seed", 0))

    def choose(self, operation: str, path: str) -> str:
        """Kind of the fault of the next request; "" for none."""
        for rule in self._rules:
            if rule.get("method") not in (None, operation):
                continue
            if not re.search(rule.get("path", ""), path):
                continue
            rule["seen"] += 1
            nth, first, times = rule["seen"], rule.get("first", 1), rule.get("times", 1)
            if nth >= first and (not times or nth < first + times):
                return str(rule["kind"])
        if self._random.random() >= self._rate:
            return ""
        # Only an answer to GET has a body that can be cut.
        fitting = [kind for kind in self._kinds if kind != "truncated" or operation == "GET"]
        return self._random.choice(fitting) if fitting else ""


class Proxy:
    """Passes requests on, one writer a key."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._faults = Faults({})
        self._log: list[dict[str, Any]] = []
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._session: ClientSession | None = None

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_put("/_proxy/faults", self._set_faults)
        app.router.add_get("/_proxy/log", self._get_log)
        app.router.add_delete("/_proxy/log", self._clear_log)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.cleanup_ctx.append(self._with_session)
        return app

    async def _with_session(self, app: web.Application) -> Any:
        connector = TCPConnector(limit=0)
        timeout = ClientTimeout(total=120)
        async with ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as session:
            self._session = session
            yield

    async def _set_faults(self, request: web.Request) -> web.Response:
        self._faults = Faults(await request.json())
        return web.Response()

    async def _get_log(self, request: web.Request) -> web.Response:
        return web.json_response(self._log)

    async def _clear_log(self, request: web.Request) -> web.Response:
        self._log = []
        return web.Response()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        operation, path = _operation(request), request.path
        kind = self._faults.choose(operation, f"{path}?{unquote(request.query_string)}")
        entry = {
            "operation": operation,
            "path": path,
            "prefix": request.query.get("prefix", ""),
            "is_conditional": "If-None-Match" in request.headers,
            "fault": kind,
            "status": 0,
        }
        self._log.append(entry)
        answer = await self._answer(request, kind, entry)
        if answer is None:
            _cut(request)
            raise asyncio.CancelledError
        return answer

    async def _answer(
        self, request: web.Request, kind: str, entry: dict[str, Any]
    ) -> web.StreamResponse | None:
        """Pass on, with the fault; None if the connection is to be cut."""
        if kind == "reset_before":
            return None
        if kind in _ANSWERS:
            await request.read()
            status, code, message = _ANSWERS[kind]
            entry["status"] = status
            body = "" if request.method == "HEAD" else _ERROR.format(code=code, message=message)
            return web.Response(status=status, text=body, content_type="application/xml")
        if kind == "slow":
            await asyncio.sleep(self._faults.slow_s)
        status, headers, body = await self._pass_on(request)
        entry["status"] = status
        if kind == "reset_after":
            return None
        if kind == "truncated" and len(body) > 1:
            await _send_half(request, status, headers, body)
            return None
        # The length of what a HEAD asks about is in a header, and no body follows.
        content = None if request.method == "HEAD" else body
        return web.Response(status=status, headers=headers, body=content)

    async def _pass_on(self, request: web.Request) -> tuple[int, Headers, bytes]:
        data = await request.read()
        if request.method in {"GET", "HEAD"}:
            return await self._ask(request, data)
        async with self._locks[request.path]:
            return await self._ask(request, data)

    async def _ask(self, request: web.Request, data: bytes) -> tuple[int, Headers, bytes]:
        assert self._session is not None
        url = URL(self._upstream + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            body = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            return answer.status, kept, body


def _operation(request: web.Request) -> str:
    """LIST for listings, else the method: both are GETs to HTTP, and S3 bills them apart."""
    is_bucket = "/" not in request.path.strip("/")
    return "LIST" if request.method == "GET" and is_bucket else request.method


async def _send_half(request: web.Request, status: int, headers: Headers, body: bytes) -> None:
    answer = web.StreamResponse(
        status=status, headers={**headers, "Content-Length": str(len(body))}
    )
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    parsed = parser.parse_args(arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    web.run_app(
        Proxy(parsed.upstream).application(),
        host="127.0.0.1",
        port=parsed.port,
        print=None,
        access_log=None,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
