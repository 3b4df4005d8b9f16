"""A package of opkg's on a router that is a folder, from its installation to its removal."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from command import run
from router import Router
from service import INIT, Service, answers, is_gone, wait_for
from visits import SECRET, Visits, settings

from loop_thread import LoopThread
from score import Failed, Score, equal

PORT = 8443
TEST_PORT = 3128
OTHER_PORT = 3130
SMALL_KB = 300
V2_EXAMPLE = Path(__file__).resolve().parents[1] / "data/mtg-v2-example.toml"


class Life:
    """The checks build on one another."""

    def __init__(self, packages: dict[str, Path], work: Path, score: Score) -> None:
        self._package = packages["mtg"]
        self._with_tls = packages["mtg-tls"]
        self._page = packages["luci-app-mtg"]
        self._work = work
        self._score = score
        self._router = Router(work / "router")
        self._service = Service(self._router)

    def all(self, loop: LoopThread) -> None:
        """Every check, in order."""
        visits = Visits(("127.0.0.1", TEST_PORT))
        loop.run(visits.listen("127.0.0.2"))
        checks: tuple[tuple[str, Callable[[], None]], ...] = (
            ("an image builder gets a service that is enabled, and no secret", self._offline),
            ("where there is no room nothing is installed, and the figures are named", self._no_room),
            ("small packets are on where the way out is narrow, and off elsewhere", self._small_segments),
            ("an upgrade from a package that had the configuration in it keeps the secret", self._from_conffile),
            ("an installation makes a secret, prints the link and starts the service", self._install),
            ("the service runs as a user of its own, with many descriptors", self._is_unprivileged),
            ("its port is open in the firewall, which is told so", self._firewall),
            ("the port is closed when mtg dies, and open when it is back", self._crash),
            ("a second start changes nothing", self._second_start),
            ("every router has another secret", self._other_secret),
            ("the page for LuCI is there at once: no old menu, and rpcd has read what it may do", self._luci),
            ("an upgrade of what nobody has edited asks and leaves nothing", self._quiet_upgrade),
            ("mtg-tls over mtg is refused and leaves the service alone", self._conflict),
            ("reload with a mistake is refused and leaves the service alone", self._bad_reload),
            ("restart with a mistake is refused and leaves the service alone", self._bad_restart),
            ("start with a mistake is refused and leaves the service alone", self._bad_start),
            ("reload does not restart", self._good_reload),
            ("a file that only root can read is made readable before it is taken", self._private_file),
            ("restart takes a new configuration", self._restart),
            ("reload takes a new port by a restart, says so, and opens it", self._new_port),
            ("an empty zone closes the port at once, with reload", self._no_zone),
            ("reload_config is as good as reload", self._reload_config),
            ("while another program has the port it stays closed, and start says so", self._taken_port),
            ("only the addresses that mtg has are open", self._addresses),
            ("of a file of mtg v2 the port for clients is opened, and not that of the metrics", self._sections),
            ("a port below 1024 takes a capability in a jail", self._low_port),
            ("without a jail such a port takes root, with a warning", self._low_port_without_jail),
            ("an upgrade keeps the configuration and restarts the service", self._upgrade),
        )
        for claim, check in checks:
            self._score.check(claim, check)
        visits.all(self._score, loop, "on the router")
        self._score.check("what was answered before a restart is not answered after it", lambda: self._replays(visits, loop))
        self._score.check(
            "restart while a client is connected waits for its end, and leaves the router up",
            lambda: self._restart_with_client(visits, loop),
        )
        self._score.check("stop ends the process and closes the port, start brings both back", self._stop)
        self._score.check("a stopped service with a mistake is not started, and start fails", self._bad_first_start)
        self._score.check("a removal leaves no process and no links, and the configuration", self._remove)

    def _offline(self) -> None:
        image = Router(self._work / "image")
        image.opkg_unpack(self._package)
        image.offline("mtg.postinst")
        equal(sorted(os.listdir(image.root / "etc/rc.d")), ["K10mtg", "S95mtg"], "links")
        equal(image.read("/etc/mtg.conf"), "", "configuration")
        if not (image.root / "etc/uci-defaults/95-mtg").exists():
            raise Failed("nothing is left for the first boot")
        # The first boot.
        image.run("cd /etc/uci-defaults && . ./95-mtg")
        Service(image).secret()
        image.offline("mtg.prerm")
        equal(os.listdir(image.root / "etc/rc.d"), [], "links after the removal")

    def _no_room(self) -> None:
        small = Router(self._work / "small", SMALL_KB)
        said = small.opkg_install(self._package, code=255)
        found = re.search(r"mtg needs (\d+) KB, and (\d+) KB are free: nothing was installed", said)
        if not found or int(found[1]) < SMALL_KB or int(found[2]) > SMALL_KB:
            raise Failed(said)
        equal((small.root / "usr/bin/mtg").exists(), False, "half a package")

    def _small_segments(self) -> None:
        """PPPoE, a cable, and a tunnel that is not the way out."""
        for mtu, is_way_out, is_on in ((1492, True, True), (1500, True, False), (1280, False, False)):
            router = Router(self._work / f"mtu-{mtu}")
            router.opkg_unpack(self._package)
            (router.root / "sys").mkdir()
            run(["mount", "-t", "sysfs", "sysfs", router.root / "sys"])
            run(["ip", "link", "add", "wan", "mtu", str(mtu), "type", "veth", "peer", "name", "far"])
            run(["ip", "address", "add", "192.0.2.1/24", "dev", "wan"])
            run(["ip", "link", "set", "wan", "up"])
            try:
                if is_way_out:
                    run(["ip", "route", "add", "default", "via", "192.0.2.2", "dev", "wan"])
                router.run(f"{INIT} first_conf")
            finally:
                run(["ip", "link", "delete", "wan"])
            lines = [line for line in router.read("/etc/mtg.conf").splitlines() if "client-mss" in line]
            equal(lines, ["network.client-mss = 1200" if is_on else "#network.client-mss = 1200"], f"{mtu} bytes")

    def _from_conffile(self) -> None:
        """Up to November 2026 packages did; opkg deletes what the new one has not."""
        older = Router(self._work / "older")
        older.opkg_install(self._package)
        service = Service(older)
        wait_for("the port", lambda: answers(PORT))
        secret, info = service.secret(), older.root / "usr/lib/opkg/info"
        for file, line in (("mtg.list", "/etc/mtg.conf\n"), ("mtg.hashes", f"/etc/mtg.conf {64 * '0'}\n")):
            (info / file).write_text((info / file).read_text("ascii") + line, "ascii")
        try:
            older.opkg_install(self._package)
            left = sorted(path.name for path in (older.root / "etc").glob("mtg.conf*"))
            conf = (older.root / "etc/mtg.conf").stat()
            found = (service.secret(), left, conf.st_mode & 0o777, conf.st_gid)
            equal(found, (secret, ["mtg.conf"], 0o640, 32768), "secret, files, mode and group")
        finally:
            service.ask("stop")

    def _install(self) -> None:
        printed = self._router.opkg_install(self._package)
        secret = self._service.secret()
        # No address is known in here, so there is no code either.
        if f"&secret={secret}&server=ADDRESS" not in printed:
            raise Failed(f"the link was not printed: {printed}")
        wait_for("the port", lambda: answers(PORT))
        # One line as long as all is well; but in here there is no front.
        known = ("NOTICE listening bind-to=", "WARN the front cannot be reached")
        log = self._router.read("/tmp/log").splitlines()
        equal([line for line in log if not any(words in line for words in known)], [], "log")
        equal((self._router.root / "etc/uci-defaults/95-mtg").exists(), False, "defaults to run again")
        equal(sorted(os.listdir(self._router.root / "etc/rc.d")), ["K10mtg", "S95mtg"], "links")

    def _is_unprivileged(self) -> None:
        status = Path(f"/proc/{self._service.pid()}/status").read_text("ascii")
        equal(re.findall(r"^[UG]id:\t(\d+)\t(\d+)", status, re.MULTILINE), [("32768", "32768")] * 2, "user and group")
        equal(re.findall(r"^NoNewPrivs:\t(\d)", status, re.MULTILINE), ["1"], "no new privileges")
        limits = Path(f"/proc/{self._service.pid()}/limits").read_text("ascii")
        equal(re.findall(r"^Max open files +(\d+)", limits, re.MULTILINE), ["17000"], "open files")
        self._conf_is_ours()

    def _conf_is_ours(self) -> None:
        conf = (self._router.root / "etc/mtg.conf").stat()
        equal((conf.st_mode & 0o777, conf.st_uid, conf.st_gid), (0o640, 0, 32768), "mode and owner of the file")

    def _firewall(self) -> None:
        rule = {"type": "rule", "name": "mtg", "src": "wan", "proto": "tcp", "family": "ipv4"}
        equal(self._service.rule(), rule | {"dest_port": str(PORT), "target": "ACCEPT"}, "rule")
        equal("firewall" in self._router.read("/tmp/changed").split(), True, "the firewall was told")

    def _crash(self) -> None:
        before = self._service.pid()
        if not before:
            raise Failed("it does not run")
        os.kill(before, signal.SIGKILL)
        wait_for("a closed port", lambda: not self._service.open_port())
        wait_for("another process", lambda: self._service.pid() not in (0, before))
        wait_for("an open port", lambda: self._service.open_port() == str(PORT))

    def _second_start(self) -> None:
        before = self._service.pid()
        self._service.ask("start")
        equal(self._service.pid(), before, "process")
        equal(self._service.open_port(), str(PORT), "port")

    def _other_secret(self) -> None:
        other = Router(self._work / "other")
        other.opkg_unpack(self._package)
        other.run(f"{INIT} first_conf")
        if Service(other).secret() == self._service.secret():
            raise Failed("both have the same")

    def _luci(self) -> None:
        before = self._service.pid()
        learns_of_page(self._router, lambda: self._router.opkg_install(self._page))
        self._router.opkg_remove("luci-app-mtg")
        equal((self._router.root / "usr/libexec/mtg-luci").exists(), False, "left behind")
        equal(self._service.pid(), before, "process")

    def _quiet_upgrade(self) -> None:
        before = self._service.conf()
        printed = self._router.opkg_install(self._package)
        if "Collected errors" in printed:
            raise Failed(printed)
        left = [str(path) for path in (self._router.root / "etc").rglob("*-opkg")]
        equal((left, self._service.conf()), ([], before), "what is left; configuration")
        wait_for("the port", lambda: self._service.open_port() == str(PORT))

    def _conflict(self) -> None:
        before = self._service.pid()
        said = self._router.opkg_install(self._with_tls, code=255)
        if "conflict" not in said:
            raise Failed(said)
        equal(self._service.pid(), before, "process")
        self._conf_is_ours()

    def _refuses(self, command: str) -> None:
        good, before = self._service.conf(), self._service.pid()
        self._service.write_conf(good + "bind = nonsense\n")
        printed = self._service.ask(command, code=1)
        equal((self._service.pid(), self._service.open_port()), (before, str(PORT)), "process and port")
        if "bind" not in printed or "goes on as it is" not in printed:
            raise Failed(f"no reason was given: {printed}")
        self._service.write_conf(good)

    def _bad_reload(self) -> None:
        self._refuses("reload")

    def _bad_restart(self) -> None:
        self._refuses("restart")

    def _bad_start(self) -> None:
        self._refuses("start")

    def _good_reload(self) -> None:
        before = self._service.pid()
        self._service.write_conf(self._service.conf() + "log-level = info\n")
        printed = self._service.ask("reload")
        wait_for("a reload", lambda: "the configuration was loaded again" in self._router.read("/tmp/log"))
        self._service.ask("running")
        equal((self._service.pid(), printed.strip()), (before, ""), "process and what was said")

    def _private_file(self) -> None:
        conf = self._router.root / "etc/mtg.conf"
        os.chown(conf, 0, 0)
        conf.chmod(0o600)
        loaded = self._router.read("/tmp/log").count("the configuration was loaded again")
        self._service.ask("reload")
        self._conf_is_ours()
        wait_for("a reload", lambda: self._router.read("/tmp/log").count("was loaded again") > loaded)

    def _restart(self) -> None:
        lines = [("bind-to", f"0.0.0.0:{TEST_PORT}"), *settings("127.0.0.2")]
        self._service.write_conf("".join(f"{key} = {value}\n" for key, value in lines))
        before = self._service.pid()
        self._service.ask("restart")
        self._service.wait_for_log(f"listening bind-to=0.0.0.0:{TEST_PORT}")
        equal(self._service.pid() == before, False, "same process")
        # In here no address is known, and so no link is whole.
        if f"&secret={_in_links(SECRET.hex())}&" not in self._service.ask("link", code=1):
            raise Failed("the link has another secret")

    def _new_port(self) -> None:
        conf = self._service.conf()
        self._service.write_conf(conf.replace(f":{TEST_PORT}", f":{OTHER_PORT}"))
        printed = self._service.ask("reload")
        if "restarted" not in printed or "bind-to" not in printed:
            raise Failed(f"no word about it: {printed}")
        equal((answers(OTHER_PORT), self._service.open_port()), (True, str(OTHER_PORT)), "listens; open port")
        self._service.write_conf(conf)
        self._service.ask("reload")
        equal((answers(TEST_PORT), self._service.open_port()), (True, str(TEST_PORT)), "listens; open port")

    def _no_zone(self) -> None:
        before = self._service.pid()
        self._service.set_zone("")
        self._service.ask("reload")
        equal(self._service.rule(), {}, "rule")
        self._service.set_zone("wan")
        self._service.ask("reload")
        equal((self._service.open_port(), self._service.pid()), (str(TEST_PORT), before), "port and process")

    def _reload_config(self) -> None:
        for zone in ("guest", "wan"):
            self._service.set_zone(zone)
            # What reload_config does for each file of /etc/config that has changed.
            self._router.run("ubus call service event 'package=mtg'")
            equal(self._service.rule().get("src"), zone, "zone")

    def _taken_port(self) -> None:
        conf = self._service.conf()
        with socket.socket() as login_page:
            login_page.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            login_page.bind(("0.0.0.0", OTHER_PORT))
            login_page.listen()
            self._service.write_conf(conf.replace(f":{TEST_PORT}", f":{OTHER_PORT}"))
            printed = self._service.ask("restart", code=1)
            if "does not listen" not in printed:
                raise Failed(f"no word about it: {printed}")
            equal(self._service.rule(), {}, "rule")
        wait_for("the port", lambda: self._service.open_port() == str(OTHER_PORT))
        self._service.write_conf(conf)
        self._service.ask("restart")

    def _addresses(self) -> None:
        conf = self._service.conf()
        for address, family, place in (
            ("127.0.0.1", "ipv4", "127.0.0.1"),
            ("[::1]", "ipv6", "::1"),
            ("[::]", None, None),
        ):
            self._service.write_conf(conf.replace("0.0.0.0", address))
            self._service.ask("restart")
            rule = self._service.rule()
            found = (rule["dest_port"], rule.get("family"), rule.get("dest_ip"))
            equal(found, (str(TEST_PORT), family, place), f"rule for {address}")
        self._service.write_conf(conf)
        self._service.ask("restart")

    def _sections(self) -> None:
        conf = self._service.conf()
        self._service.write_conf(V2_EXAMPLE.read_text("utf-8"))
        self._service.ask("restart")
        rule = self._service.rule()
        equal((rule["dest_port"], rule.get("family"), rule.get("dest_ip")), ("3128", "ipv4", None), "rule")
        self._service.write_conf(conf)
        self._service.ask("restart")

    def _low_port(self) -> None:
        jail = self._router.root / "sbin/ujail"
        jail.touch(0o755)
        parameters = self._parameters_with_low_port()
        for line in ("user=mtg", "capabilities=/etc/capabilities/mtg.json", "no_new_privs=1", "jail=mtg log procfs"):
            if line not in parameters:
                raise Failed(f"no {line!r} in {parameters}")
        mounts = " ".join(line for line in parameters if line.startswith("jail_mount"))
        for path in ("/etc/mtg.conf", "/var/run/mtg.listening-443", "jail_mount_rw=/var/run/mtg"):
            if path not in mounts:
                raise Failed(f"no {path} in {mounts}")
        jail.unlink()

    def _low_port_without_jail(self) -> None:
        if parameters := [line for line in self._parameters_with_low_port() if line.startswith("user")]:
            raise Failed(f"{parameters}, and nothing lets it listen")

    def _parameters_with_low_port(self) -> list[str]:
        conf = self._service.conf()
        self._service.write_conf(conf.replace(f":{TEST_PORT}", ":443"))
        # In here there is no jail, and so no capability, and what becomes of the start says nothing.
        self._router.run(f"{INIT} start || true")
        parameters = self._service.parameters()
        self._service.write_conf(conf)
        self._service.ask("start")
        return parameters

    def _upgrade(self) -> None:
        before, conf = self._service.pid(), self._service.conf()
        self._router.opkg_install(self._package)
        equal(self._service.conf(), conf, "configuration")
        equal(self._service.pid() == before, False, "same process")
        self._service.wait_for_log(f"listening bind-to=0.0.0.0:{TEST_PORT}")

    def _replays(self, visits: Visits, loop: LoopThread) -> None:
        """With the line of the sample, which every first configuration has."""
        lines = self._router.read("/usr/share/mtg/mtg.conf").splitlines()
        (line,) = (line for line in lines if line.startswith("defense.anti-replay.file"))
        self._service.write_conf(self._service.conf() + line + "\n")
        self._service.ask("restart")
        before = self._service.pid()
        visits.forgets_nothing(loop, lambda: self._service.ask("restart"))
        equal(self._service.pid() == before, False, "same process")
        equal((self._router.root / "var/run/mtg/replays").stat().st_uid, 32768, "owner of the file")

    def _restart_with_client(self, visits: Visits, loop: LoopThread) -> None:
        conf = self._service.conf()
        # Within what procd grants, and longer than what `ubus` waits here.
        patient = conf.replace("idle = 2s", "idle = 5m") + "shutdown-grace = 9s\n"
        self._service.write_conf(patient)
        self._service.ask("restart")
        before = self._service.pid()
        visits.stays_connected(loop, lambda: self._service.ask("restart"))
        found = (self._service.pid() not in (0, before), self._service.open_port(), self._router.read("/tmp/procd.down"))
        equal(found, (True, str(TEST_PORT), ""), "another process; open port; what became of procd")
        self._service.write_conf(conf)
        self._service.ask("restart")

    def _stop(self) -> None:
        process = self._service.pid()
        self._service.ask("stop")
        wait_for("the end", lambda: is_gone(process))
        equal(self._service.rule(), {}, "rule")
        self._service.ask("running", code=1)
        # What the other process still has to say must not open anything.
        self._service.ask("firewall")
        equal(self._service.rule(), {}, "rule")
        self._service.ask("start")
        self._service.ask("running")
        equal(self._service.open_port(), str(TEST_PORT), "port")

    def _bad_first_start(self) -> None:
        good = self._service.conf()
        self._service.ask("stop")
        self._service.write_conf(good + "bind = nonsense\n")
        printed = self._service.ask("start", code=1)
        if "was not started" not in printed or "bind" not in printed:
            raise Failed(printed)
        self._service.ask("running", code=1)
        self._service.write_conf(good)
        self._service.ask("start")

    def _remove(self) -> None:
        process, conf = self._service.pid(), self._service.conf()
        self._router.opkg_remove("mtg")
        wait_for("the end", lambda: is_gone(process))
        equal(self._service.rule(), {}, "rule")
        equal(os.listdir(self._router.root / "etc/rc.d"), [], "links")
        equal(self._service.conf(), conf, "configuration")

    def end(self) -> None:
        """Leave no process behind, whatever failed."""
        try:
            self._router.run(f"[ ! -x {INIT} ] || {INIT} stop")
        except Failed as fault:
            print(fault)


def learns_of_page(router: Router, install: Callable[[], object]) -> None:
    """What LuCI and rpcd have in memory is of before; afterwards it is not."""
    stale = [router.root / "tmp" / name for name in ("luci-indexcache.0123abcd.json", "luci-modulecache/page")]
    stale[1].parent.mkdir()
    for file in stale:
        file.touch()
    rpcd = router.root / "etc/init.d/rpcd"
    rpcd.write_text("#!/bin/sh\necho $1 >>/tmp/rpcd\n", "ascii")
    rpcd.chmod(0o755)
    install()
    equal([file for file in stale if file.exists()], [], "old menus")
    equal(router.read("/tmp/rpcd"), "reload\n", "what rpcd was told")
    equal((router.root / "etc/uci-defaults/luci-app-mtg").exists(), False, "defaults to run again")


def _in_links(secret: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(secret)).decode().rstrip("=")
