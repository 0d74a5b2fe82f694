r"""Fetching pages from a site that fails now and then: which failures are worth another try, and when.

    $ python examples/flaky_server.py \
        ztasks run examples/scraper.py:fetch --from examples/flaky_server.py:PAGES -j 4 -o pages.jsonl
    ztasks: 12 jobs: 10 ok, 2 failed
    ...
    $ python examples/scraper.py pages.jsonl
    tries  page
        2  /busy      This is /busy
        2  /cut       This is /cut
        4  /down      failed: 500 Internal Server Error
        3  /errors    This is /errors
        1  /gone      failed: 404 Not Found
        2  /hangs-up  This is /hangs-up
        1  /page/1    This is /page/1
    ...

flaky_server.py is the site; it runs the command behind its name. A page that is not there is not asked for again. A
connection that breaks and an error of the server's are tried again, after a pause that doubles. A server that says when
to come back (Retry-After) is left alone until then. A worker does not wait for any of these pauses: it runs other jobs.

The input is the path of a page, not its address: so --resume knows a page again when the site has moved. It is also how
to give the pages that failed another chance later.
"""

import os
import re
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

from ztasks import Retry, current_job, read_records, task


class Refused(Exception):
    """The server has given its answer, and would give it again."""


@task(retries=3, backoff="0.1s", retry_on=(OSError, HTTPException), timeout="30s")
def fetch(page: str) -> dict[str, Any]:
    """Fetch a page of the site and return its title and links."""
    request = Request(urljoin(os.environ["SITE"], page), headers={"User-Agent": "ztasks-example"})
    try:
        with urlopen(request, timeout=10) as answer:
            text = answer.read().decode(errors="replace")
    except HTTPError as error:
        with error:
            what = f"{error.code} {error.reason}"
            if error.code in (429, 503):
                raise Retry(after=pause(error.headers["Retry-After"]), message=what) from None
            if error.code >= 500:
                raise Retry(message=what) from None
            raise Refused(what) from None
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    job = current_job()
    return {
        "title": title and title[1],
        "links": re.findall(r'<a href="([^"]+)"', text),
        "tries": job.attempt if job else 1,
    }


def pause(retry_after: str | None) -> float | None:
    """Return for how many seconds the server wants to be left alone; it says it as a number, or as a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def report(path: str) -> None:
    """Print what became of each page."""
    print("tries  page")
    for record in sorted(read_records(path), key=lambda record: record.input):
        what = record.result["title"] if record.error is None else f"failed: {record.error.message}"
        print(f"{record.attempts:5}  {record.input:9}  {what}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(argument)
    if not sys.argv[1:]:
        print(__doc__)
