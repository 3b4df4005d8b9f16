"""podman-compose with a store of its own, and images made of programs of this machine.

No registry is asked: an image has a program, its libraries, and what the real image says about its start.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from score import Failed

# runc, because crun asks for limits beyond those that a container's root may have; the limits, for the same reason.
ENGINE = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Compose:
    """The containers of a compose file; leaving the `with` block ends them and removes what podman keeps of them."""

    def __init__(self, folder: Path, images: dict[str, tuple[Path, Sequence[str]]]) -> None:
        """`images` are programs by their names, each with the changes that `podman import` makes to its image."""
        self._folder = folder
        # Paths of sockets are short.
        self._store = Path(tempfile.mkdtemp(prefix="mtg-compose-"))
        (self._store / "engine").write_text(ENGINE, "ascii")
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{self._store}/store"\nrunroot = "{self._store}/run"\n'
        (self._store / "storage").write_text(storage, "ascii")
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": f"{self._store}/engine",
            "CONTAINERS_STORAGE_CONF": f"{self._store}/storage",
        }
        self._images = images

    def __enter__(self) -> Compose:
        try:
            for name, (program, changes) in self._images.items():
                self._import(name, program, changes)
            self.run("up", "--detach")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        words = [sys.executable, "-m", "podman_compose", "--file", "compose.yaml", "down", "--timeout", "5"]
        subprocess.run(words, cwd=self._folder, env=self._environment, capture_output=True, check=False)
        shutil.rmtree(self._store, ignore_errors=True)

    def run(self, *words: str) -> str:
        """`podman-compose WORD…`, which must succeed."""
        return self._run([sys.executable, "-m", "podman_compose", "--file", "compose.yaml", *words])

    def log(self) -> str:
        """What the containers have written."""
        return self.run("logs")

    def _import(self, name: str, program: Path, changes: Sequence[str]) -> None:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for inside, here in contents(program):
                tar.add(here, inside, filter=_of_root)
        options = [word for change in changes for word in ("--change", change)]
        self._run(["podman", "import", *options, "-", name], layer.getvalue())

    def _run(self, words: Sequence[str], given: bytes = b"") -> str:
        done = subprocess.run(
            words, cwd=self._folder, env=self._environment, input=given, capture_output=True, check=False, timeout=120
        )
        if done.returncode:
            said = (done.stderr + done.stdout).decode("utf-8", "replace")
            raise Failed(f"{' '.join(map(str, words[:4]))} ends with {done.returncode}: {said[-600:]}")
        return done.stdout.decode("utf-8", "replace")


def contents(program: Path) -> list[tuple[str, Path]]:
    """The program at the root, and the libraries that it is linked with at their places."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    libraries = {word for word in listed.split() if word.startswith("/")}
    return [(program.name, program.resolve()), *((library, Path(library).resolve()) for library in sorted(libraries))]


def why_not() -> str | None:
    """Why containers cannot run here, if so."""
    if os.geteuid() != 0:
        return "the file is for root"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "compose.yaml").write_text(PROBE, "ascii")
        true = Path(shutil.which("true") or "/bin/true")
        try:
            with Compose(Path(folder), {"probe": (true, ['CMD ["/true"]'])}):
                return None
        except Failed as fault:
            return str(fault)


PROBE = "services:\n  probe:\n    image: localhost/probe\n    network_mode: host\n"


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode = 0o755
    return entry
