"""The container image: every blob of the layout, and this machine's platform run by podman.

Usage: image.py LAYOUT_TAR, as root. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from command import run
from visits import SECRET, Visits, settings

import loopback_only
from loop_thread import LoopThread
from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/appliance/podman"
PLATFORMS = {
    ("amd64", ""): "x86_64-unknown-linux-musl",
    ("arm64", ""): "aarch64-unknown-linux-musl",
    ("arm", "v7"): "armv7-unknown-linux-musleabihf",
    ("mips", ""): "mips-unknown-linux-musl",
    ("mipsle", ""): "mipsel-unknown-linux-musl",
}
HOST = "127.0.0.2"
PROXY = ("127.0.0.1", 3128)
PUBLIC_IP = "203.0.113.5"
NOBODY = 65532
COMMAND_SECS = 120
NAME = "mtg-under-test"


class Layout:
    """The packed OCI layout."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            self._files = {name: file.read() for name, file in files.items() if file}

    def is_sound(self) -> None:
        """Each descriptor leads to its blob, each layer holds the platform's binary and nothing else."""
        equal(json.loads(self._files["oci-layout"]), {"imageLayoutVersion": "1.0.0"}, "oci-layout")
        (top,) = json.loads(self._files["index.json"])["manifests"]
        found = {}
        for descriptor in json.loads(self._blob(top))["manifests"]:
            platform = descriptor["platform"]
            manifest = json.loads(self._blob(descriptor))
            config = json.loads(self._blob(manifest["config"]))
            (layer,) = manifest["layers"]
            files = gzip.decompress(self._blob(layer))
            equal(config["rootfs"]["diff_ids"], ["sha256:" + hashlib.sha256(files).hexdigest()], "diff_ids")
            equal(config["architecture"], platform["architecture"], "architecture of the config")
            found[platform["architecture"], platform.get("variant", "")] = files
        equal(found.keys(), PLATFORMS.keys(), "platforms")
        for platform, triple in PLATFORMS.items():
            with tarfile.open(fileobj=io.BytesIO(found[platform])) as archive:
                (member,) = archive
                file = archive.extractfile(member)
                binary = (ROOT / "target/appliance" / triple / "mtg-tls").read_bytes()
                equal((member.name, member.mode, file and file.read() == binary), ("mtg", 0o755, True), f"{platform}")

    def _blob(self, descriptor: dict[str, object]) -> bytes:
        algorithm, digest = str(descriptor["digest"]).split(":")
        content = self._files[f"blobs/{algorithm}/{digest}"]
        equal((hashlib.sha256(content).hexdigest(), len(content)), (digest, descriptor["size"]), "digest and size")
        return content


class Podman:
    """podman with a store of its own."""

    def __init__(self) -> None:
        self._base = ["podman", "--storage-driver", "vfs", "--root", f"{WORK}/store", "--runroot", f"{WORK}/run"]
        self._base += ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--log-level", "error"]
        self.image = ""

    def load(self, path: Path) -> None:
        """Take the layout in."""
        printed = self.podman(["load", "--input", str(path)]).stdout.split()
        self.image = printed[-1]

    def podman(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run podman itself; it must succeed."""
        return run([*self._base, *arguments])

    def command(self, options: Sequence[str], arguments: Sequence[str]) -> list[str]:
        """A container's command line, as strict as the README advises. The machine may not allow higher limits."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        strict = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "host"]
        return [*self._base, "run", "--rm", "--name", NAME, *limits, *strict, *options, self.image, *arguments]

    def run(self, options: Sequence[str], arguments: Sequence[str], code: int) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        return run(self.command(options, arguments), code)


def explains_itself(podman: Podman) -> None:
    """No configuration, no proxy: an image with a secret in it would be everybody's."""
    done = podman.run([], [], code=78)
    if "/etc/mtg.conf" not in done.stderr:
        raise Failed(f"it says only {done.stderr!r}")


def makes_a_secret(podman: Podman) -> None:
    """The image alone is enough to begin with."""
    equal(podman.run([], ["generate-secret", "-x", "example.com"], code=0).stdout[:2], "ee", "secret")


def has_the_web_proxy(podman: Podman) -> None:
    """Servers have the build with TLS."""
    config = WORK / "web.conf"
    made = podman.run([], ["generate-secret", "--web", "www.example.com"], code=0).stdout
    config.write_text(f"{made}bind-to = 0.0.0.0:3128\nnetwork.dns = tls://192.0.2.1\n", "ascii")
    podman.run(["--volume", f"{config}:/etc/mtg.conf:ro"], ["run", "--check", "/etc/mtg.conf"], code=0)


def serves(podman: Podman, score: Score, loop: LoopThread, visits: Visits) -> None:
    """All visits, the process as nobody, and an end by SIGTERM."""
    config = WORK / "mtg.conf"
    lines = [("bind-to", "0.0.0.0:3128"), ("public-ipv4", PUBLIC_IP), *settings(HOST)]
    config.write_text("".join(f"{key} = {value}\n" for key, value in lines), "utf-8")
    mount = ["--volume", f"{config}:/etc/mtg.conf:ro"]
    if SECRET.hex() not in podman.run(mount, ["access", "-x"], code=0).stdout:
        raise Failed("no link with the secret")
    with open(WORK / "log", "wb") as log:
        process = subprocess.Popen(podman.command(mount, []), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for_listening(process)
        visits.all(score, loop, "in a container")
        score.check("in a container: it is nobody", partial(is_nobody, podman))
        score.check("in a container: it is healthy", partial(is_healthy, podman))
        score.check("in a container: it tells its status", partial(tells_its_status, podman))
        podman.podman(["kill", "--signal", "TERM", NAME])
        equal(process.wait(COMMAND_SECS), 0, "exit code")
    finally:
        if process.poll() is None:
            podman.podman(["kill", NAME])
            process.wait(COMMAND_SECS)


def is_nobody(podman: Podman) -> None:
    """User and group of the host, and what its capabilities are."""
    pid = podman.podman(["inspect", "--format", "{{.State.Pid}}", NAME]).stdout.strip()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    equal(status["Uid"].split(), [str(NOBODY)] * 4, "user")
    equal(status["Gid"].split(), [str(NOBODY)] * 4, "group")
    equal((status["CapEff"], status["NoNewPrivs"]), ("0" * 16, "1"), "capabilities and no_new_privs")


def is_healthy(podman: Podman) -> None:
    """The image's own health check, which the engine runs where its format of images has one."""
    (line,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", (ROOT / "image/Dockerfile").read_text("utf-8"), re.MULTILINE)
    podman.podman(["exec", NAME, *json.loads(line)])


def tells_its_status(podman: Podman) -> None:
    """Read-only and without a shell, as it is."""
    told = podman.podman(["exec", NAME, "/mtg", "status"]).stdout
    if not told.startswith("running "):
        raise Failed(told)


def _wait_for_listening(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + COMMAND_SECS
    while "listening" not in (log := (WORK / "log").read_text("utf-8")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"it does not listen: {log.strip()}")
        time.sleep(0.1)


def main(path: str) -> int:
    """Run all checks."""
    loopback_only.enter()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    score = Score()
    podman = Podman()
    score.check("the layout is sound", Layout(Path(path)).is_sound)
    score.check("podman takes it", partial(podman.load, Path(path)))
    score.check("without a configuration it explains itself and ends with code 78", partial(explains_itself, podman))
    score.check("it makes a secret", partial(makes_a_secret, podman))
    score.check("it has the WEB proxy, and TLS", partial(has_the_web_proxy, podman))
    with LoopThread() as loop:
        visits = Visits(PROXY)
        loop.run(visits.listen(HOST))
        claim = "with a configuration it serves, and ends well"
        score.check(claim, partial(serves, podman, score, loop, visits))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
