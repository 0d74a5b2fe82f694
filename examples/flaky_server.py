"""A web site in a bad state, to try scraper.py on: it runs a command, which finds its address in the variable SITE.

    $ python examples/flaky_server.py python -c "import os; print(os.environ['SITE'])"
    http://127.0.0.1:...

The server listens on a free port of this host only, and ends with the command, whose exit code it passes on. PAGES are
all the pages that it knows of:

    /page/N     are as they should be
    /errors     is an internal error (500) twice
    /hangs-up   closes the connection without an answer, once
    /cut        breaks off in the midst of the page, once
    /busy       wants to be left alone for a second (429 and Retry-After), and bans who comes earlier (403)
    /down       is an internal error each time
    /gone       is not there (404)
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

PAGES = [*(f"/page/{number}" for number in range(1, 7)), "/errors", "/hangs-up", "/cut", "/busy", "/down", "/gone"]

PAUSE = 1
"""Seconds for which /busy wants to be left alone."""


class Site(ThreadingHTTPServer):
    """The server, and what it remembers of its visitors."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.visits: Counter[str] = Counter()
        self.closed_until = 0.0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def visit(self, path: str) -> int:
        """Count a visit to a page; return its number."""
        with self.lock:
            self.visits[path] += 1
            return self.visits[path]


class Page(BaseHTTPRequestHandler):
    """One request."""

    server: Site

    def do_GET(self) -> None:
        visit = self.server.visit(self.path)
        if self.path == "/down" or (self.path == "/errors" and visit <= 2):
            self.answer(500, "Internal error")
        elif self.path == "/busy" and visit == 1:
            self.server.closed_until = monotonic() + PAUSE
            self.answer(429, "Slow down", {"Retry-After": str(PAUSE)})
        elif self.path == "/busy" and monotonic() < self.server.closed_until:
            self.answer(403, "You are banned")
        elif self.path == "/hangs-up" and visit == 1:
            self.close_connection = True
        elif self.path == "/cut" and visit == 1:
            self.answer(200, "Half a page", {"Content-Length": "4000"})
        elif self.path in PAGES and self.path != "/gone":
            self.answer(200, f"This is {self.path}")
        else:
            self.answer(404, "Not found")

    def answer(self, status: int, title: str, headers: dict[str, str] | None = None) -> None:
        links = "".join(f'<li><a href="{page}">{page}</a>' for page in PAGES if page != self.path)
        body = f"<!doctype html><title>{title}</title><h1>{title}</h1><ul>{links}</ul>\n".encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "text/html", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what: object) -> None:
        """Keep quiet."""


def main(command: list[str]) -> int:
    if not command:
        print(__doc__)
        return 0
    with Site() as site:
        threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            return subprocess.call(command, env={**os.environ, "SITE": site.address})
        finally:
            site.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
