"""mtg's metrics, read by those that they are for: promtool, Prometheus and statsd.

Usage: metrics.py [--mtg BINARY] [--work FOLDER] [--prometheus FOLDER] [--statsd FOLDER]
Needs promtool and prometheus (a folder, or the PATH), node, and the npm package statsd.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faketls
import grafana_foundation_sdk.cog.plugins as plugins
import mock_dc
import mtg
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up
from tdlib import Tdlib

PROXY = ("127.0.0.1", 3443)
METRICS = "127.0.0.1:3129"
PROMETHEUS = "127.0.0.1:9090"
STATSD_PORT = 18125
DASHBOARD = mtg.ROOT / "image/grafana/mtg.json"
SECRET = faketls.Secret(bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0"), "front.example")
WAIT_SECS = 40
# Names that mtg v2 gave, and some like them, which Prometheus' own style would have end in _total.
OLD_STYLE = {
    "telegram_traffic",
    "web_traffic",
    "domain_fronting_traffic",
    "ip_blocklisted",
    "domain_fronting",
    "concurrency_limited",
    "replay_attacks",
    "handshake_failures",
    "sessions_ended",
}
# What the owner of mtg v2 has in a dashboard: each of its metrics, with its labels.
OLD_QUERIES = [
    'sum by (ip_family) (mtg_client_connections{ip_family=~"ipv4|ipv6"})',
    'sum by (telegram_ip, dc) (mtg_telegram_connections{dc=~"[1-5]"})',
    "sum by (ip_family) (mtg_domain_fronting_connections)",
    'mtg_iplist_size{ip_list="blocklist"}',
    'mtg_iplist_size{ip_list="allowlist"}',
    'sum by (dc) (rate(mtg_telegram_traffic{direction="to_client"}[30s]))',
    'rate(mtg_domain_fronting_traffic{direction="from_client"}[30s])',
    'rate(mtg_ip_blocklisted{ip_list="blocklist"}[30s])',
    "rate(mtg_domain_fronting[30s])",
    "rate(mtg_concurrency_limited[30s])",
    "rate(mtg_replay_attacks[30s])",
]
PROMETHEUS_YML = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: mtg
    static_configs: [ {{ targets: [ "{target}" ] }} ]
"""
STATSD_JS = """
{{ port: {port}, address: "127.0.0.1", mgmt_address: "127.0.0.1", flushInterval: 1000, keyNameSanitize: false,
  backends: [ "./backends/console" ], console: {{ prettyprint: false }} }}
"""


def wait_for(what: str, ask: Callable[[], bool]) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + WAIT_SECS
    while not ask():
        if time.monotonic() > deadline:
            raise Failed(f"waited {WAIT_SECS} s in vain for {what}")
        time.sleep(0.2)


def get(url: str) -> str:
    """The body of a page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


@contextmanager
def running(words: list[str | Path], log: Path, folder: Path) -> Iterator[None]:
    """A server for the length of the `with` block."""
    with open(log, "wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


class Readers:
    """The readers of the metrics of one running mtg."""

    def __init__(self, work: Path, tools: Path | None, score: Score) -> None:
        self._work = work
        self._tools = tools
        self._score = score

    def _tool(self, name: str) -> str:
        return str(self._tools / name) if self._tools else name

    def all(self) -> None:
        """Run every check."""
        self._score.check("promtool has no objection but to names of old", self._promtool)
        yml = self._work / "prometheus.yml"
        yml.write_text(PROMETHEUS_YML.format(target=METRICS), "ascii")
        words = [self._tool("prometheus"), f"--config.file={yml}", f"--web.listen-address={PROMETHEUS}"]
        with running([*words, "--storage.tsdb.path", self._work / "tsdb"], self._work / "prometheus.log", self._work):
            self._score.check("Prometheus scrapes it and knows types and values", self._prometheus)
            self._score.check("a dashboard of mtg v2 finds every metric", self._old_dashboard)
            self._score.check("every panel of the dashboard has something to show", self._panels)

    def _promtool(self) -> None:
        text = get(f"http://{METRICS}/")
        done = subprocess.run(
            [self._tool("promtool"), "check", "metrics"], input=text.encode(), capture_output=True, timeout=60
        )
        objections = (done.stdout + done.stderr).decode().splitlines()
        allowed = {f'mtg_{name} counter metrics should have "_total" suffix' for name in OLD_STYLE}
        equal([line for line in objections if line not in allowed], [], "objections")
        if "mtg_telegram_traffic{" not in text:
            raise Failed("there was nothing to check")

    def _query(self, path: str, **parameters: str) -> object:
        try:
            answer = json.loads(get(f"http://{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        except OSError:
            return None
        return answer["data"]

    def _value(self, query: str) -> float | None:
        data = self._query("query", query=query)
        result = data["result"] if isinstance(data, dict) else []
        return float(result[0]["value"][1]) if result else None

    def _prometheus(self) -> None:
        wait_for("a scrape", lambda: self._value('up{job="mtg"}') == 1)
        ours = re.search(r'^mtg_telegram_traffic\{.*direction="to_client"\} (\d+)$', get(f"http://{METRICS}/"), re.M)
        assert ours is not None
        query = 'sum(mtg_telegram_traffic{direction="to_client"})'
        wait_for("the traffic", lambda: self._value(query) == float(ours[1]))
        for name in ("mtg_connection_duration_seconds_count", "process_resident_memory_bytes", "mtg_build_info"):
            wait_for(name, lambda name=name: (self._value(name) or 0) > 0)
        age = time.time() - (self._value("process_start_time_seconds") or 0)
        if not 0 <= age < 600:
            raise Failed(f"the process is {age} s old")
        types = self._query("metadata")
        assert isinstance(types, dict)
        for name, kind in (
            ("mtg_client_connections", "gauge"),
            ("mtg_telegram_traffic", "counter"),
            ("mtg_connection_duration_seconds", "histogram"),
        ):
            equal(types[name][0]["type"], kind, name)

    def _old_dashboard(self) -> None:
        for query in OLD_QUERIES:
            wait_for(query, lambda query=query: self._value(query) is not None)

    def _panels(self) -> None:
        for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "30s").replace("$job", "mtg").replace("$instance", ".*")
                wait_for(f"{panel['title']}: {query}", lambda query=query: self._value(query) is not None)


def check_dashboard() -> None:
    """Grafana's own model of a dashboard takes all of ours in: what it does not know is missing when it is written."""
    ours = json.loads(DASHBOARD.read_text("utf-8"))
    plugins.register_default_plugins()
    taken = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(ours)))
    equal(list(missing(ours, taken)), [], "what Grafana does not know or takes for something else")


def missing(wanted: object, found: object, path: str = "") -> Iterator[str]:
    """Where `found` lacks something of `wanted`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            yield from missing(value, found.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, pair in enumerate(zip(wanted, found, strict=True)):
            yield from missing(*pair, f"{path}[{number}]")
    elif wanted != found:
        yield path


def flushes(log: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What statsd has counted in all, and its last gauges."""
    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    text = log.read_text("utf-8", "replace")
    for section, found in re.findall(r"^  (counters|gauges): \{(.*?)\}", text, re.M | re.S):
        for key, value in re.findall(r"'([^']+)': (-?[\d.]+)", found):
            if section == "counters":
                counters[key] = counters.get(key, 0) + float(value)
            else:
                gauges[key] = float(value)
    return counters, gauges


def check_statsd(binary: Path, work: Path, package: Path, tags: str) -> None:
    """One run of mtg with statistics for a real statsd server."""
    folder = work / tags
    folder.mkdir()
    (folder / "statsd.js").write_text(STATSD_JS.format(port=STATSD_PORT), "ascii")
    log = folder / "statsd.log"
    settings = [
        ("secret", SECRET.hex()),
        ("stats.statsd.enabled", "true"),
        ("stats.statsd.address", f"localhost:{STATSD_PORT}"),
        ("stats.statsd.tag-format", tags),
        *mock_dc.overrides(),
    ]
    with running(["node", package / "stats.js", folder / "statsd.js"], log, package):
        wait_for("statsd", lambda: "server is up" in log.read_text("utf-8", "replace"))
        with mtg.Mtg(binary, folder / "mtg", PROXY).run(settings) as proxy:
            with Tdlib(folder / "database") as tdlib:
                tdlib.ping(*PROXY, SECRET.hex())
            time.sleep(6)
            proxy.stop()
        time.sleep(2.5)
    counters, gauges = flushes(log)
    equal(counters["statsd.bad_lines_seen"], 0, "bad lines")
    separator = "," if tags == "influxdb" else ";"
    traffic = [key for key in counters if key.startswith(f"mtg.telegram_traffic{separator}telegram_ip=127.0.0.1")]
    if not traffic or not all(key.endswith(("direction=to_client", "direction=from_client")) for key in traffic):
        raise Failed(f"counters: {counters}")
    if sum(counters[key] for key in traffic) < 100:
        raise Failed(f"traffic: {counters}")
    equal(gauges[f"mtg.client_connections{separator}ip_family=ipv4"], 0, "connections at the end")
    if counters["mtg.connection_duration_seconds_sum"] <= 0:
        raise Failed(f"durations: {counters}")


def main() -> int:
    """Run all checks in a network namespace of their own."""
    parser = mtg.arguments("mtg's metrics with their real readers.")
    parser.add_argument("--prometheus", type=Path, help="folder of promtool and prometheus, if not in the PATH")
    parser.add_argument("--statsd", type=Path, default=mtg.ROOT / "target/node/node_modules/statsd")
    options, work, score = set_up(parser, "metrics", "node")
    binary, package = options.mtg, options.statsd.resolve()
    tools = options.prometheus.resolve() if options.prometheus else None
    blocklist = work / "blocklist"
    blocklist.write_text("192.0.2.0/24\n", "ascii")
    settings = [
        ("secret", SECRET.hex()),
        ("defense.blocklist.enabled", "true"),
        ("defense.blocklist.urls", str(blocklist)),
        # Telegram is reached directly where the proxy, which is away, has its turn first.
        ("network.proxies", '["", "socks5://127.0.0.1:1"]'),
        ("stats.prometheus.enabled", "true"),
        ("stats.prometheus.bind-to", METRICS),
        *mock_dc.overrides(),
    ]
    dcs = mock_dc.MockDataCentres()

    def prometheus() -> None:
        with mtg.Mtg(binary, work / "mtg", PROXY).run(settings) as proxy:
            with Tdlib(work / "database") as tdlib:
                tdlib.ping(*PROXY, SECRET.hex())
            wait_for("the end of the ping", lambda: 'mtg_client_connections{ip_family="ipv4"} 0' in get(f"http://{METRICS}/"))
            Readers(work, tools, score).all()
            proxy.stop()

    with LoopThread() as loop:
        loop.run(dcs.listen())
        score.check("Grafana knows everything in the dashboard", check_dashboard)
        score.check("mtg serves its metrics and ends well", prometheus)
        for tags in ("datadog", "influxdb", "graphite"):
            claim = f"statsd understands every line with {tags} tags"
            score.check(claim, lambda tags=tags: check_statsd(binary, work, package, tags))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
