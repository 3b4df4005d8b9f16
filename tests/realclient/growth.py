"""The records of a client's download against those of the front's first page, which mtg-tls has measured.

Usage: growth.py [--mtg BINARY] [--work FOLDER]. Needs caddy, nginx and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import mtg
import segments
from front_nginx import FRONT, HOST, PROXY, SECRET, nginx
from score import Failed, Score, equal
from segments import Capture
from set_up import set_up
from wire import DC, PAGE_BYTES, WAYS, DataCentre, caddy, download, wait_for_sizes

# Shorter records are the ends of something, and no sizes that a server chooses.
CHOSEN_MIN = 1024
# Records that are compared. The heads of the answers to mtg and to us need not be of one length, and on a busy machine the
# data centre's bytes come too late for a whole record now and then.
COMPARED = 16
HEAD_BYTES = 100
LATE = 2
ATTEMPTS = 20
STEP, SEAL, LONGEST = 1186, 17, 16401
GO = [min(number * STEP + SEAL, LONGEST) for number in range(1, COMPARED + 1)]


def begin(lengths: list[float]) -> list[int]:
    """The lengths that the server has chosen, as far as they are compared."""
    return [int(length) for length in lengths if length >= CHOSEN_MIN][:COMPARED]


def client_has(wanted: list[int], capture: Capture) -> None:
    """Fail unless a client's download has records that are so long."""
    for _ in range(ATTEMPTS):
        found = begin(download(WAYS["client"], capture)["download, record bytes"])
        if sum(abs(ours - theirs) <= HEAD_BYTES for ours, theirs in zip(found, wanted)) >= COMPARED - LATE:
            return
    raise Failed(f"records of {found}, wanted {wanted}")


def follow(front: AbstractContextManager[object], work: Path, binary: Path, score: Score) -> None:
    """At a front whose first page is long."""
    observe(front, work, binary, lambda capture: follow_page(capture, work.name, score))


def follow_page(capture: Capture, name: str, score: Score) -> None:
    """Compare a client's download with the page."""
    page = begin(download(WAYS["front"], capture, "/")["download, record bytes"])
    print(f"{name:6} {page}")
    claim = f"{name}: a client's records are as long as those of the site's first page"
    score.check(claim, lambda: client_has(page, capture))


def observe(
    front: AbstractContextManager[object], work: Path, binary: Path, compare: Callable[[Capture], None]
) -> None:
    """Start both, wait until mtg has fetched the page, and compare."""
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("dc-override.2", f"{DC[0]}:{DC[1]}"),
        ("defense.doppelganger.drs", "true"),
        ("log-level", "info"),
    ]
    # The authority of the front's certificate.
    os.environ["SSL_CERT_FILE"] = str(work / "ca.pem")
    with front, mtg.Mtg(binary, work / "mtg", PROXY).run(settings) as proxy, Capture() as capture:
        wait_for_sizes(proxy)
        compare(capture)
        equal(f"page=https://{HOST}/ " in proxy.log(), True, "the log tells of the page")
        proxy.stop()


def main() -> int:
    """Compare in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("Records of downloads and of a front's page."), "growth", "caddy ip nginx openssl")
    segments.like_ethernet()
    DataCentre()
    long, short = work / "caddy", work / "short"
    score.check("caddy and mtg", lambda: follow(caddy(long, 2 * PAGE_BYTES), long, options.mtg, score))
    nginx_work = work / "nginx"
    # OpenSSL's servers choose one size for all.
    small = "ssl_buffer_size 4k;"

    def nginx_follows() -> None:
        front = nginx(nginx_work, directives=small, page="x" * (2 * PAGE_BYTES))
        follow(front, nginx_work, options.mtg, score)

    score.check("nginx and mtg", nginx_follows)

    def go_serves(capture: Capture) -> None:
        score.check("a page that is too short: a client's records grow as Go's", lambda: client_has(GO, capture))

    score.check("a short page and mtg", lambda: observe(caddy(short, 1000), short, options.mtg, go_serves))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
