//! How much memory the proxy may use, and for what.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::param::page_size;

use crate::config::Config;

/// The part of the machine's or the container's memory that is ours unless configured.
const DEFAULT_PART: u64 = 8;
/// What is assumed where nothing can be read.
const ASSUMED: u64 = 64 << 20;
/// Bytes that the relay may hold at most; more would not make it faster.
const BUFFERS_MAX: u64 = 16 << 20;
/// The part of the memory that may wait unsent in the kernel for one client, and its bounds. Too little of it and the
/// relay stops reading before the path is full, so the receive window towards Telegram stays small: a tenth of the speed
/// at 150 ms and some loss. A slow client's buffer is its sender's, so a router cannot give every one so much.
const NOTSENT_PART: u64 = 64;
const NOTSENT: (u64, u64) = (128 << 10, 1 << 20);
/// The part of the memory for hellos, and what these take at most: half for those that are not whole and half for those
/// that wait for the front. A client's has 2 KB, and is not whole for a moment.
const HELLOS_PART: u64 = 16;
const HELLOS_MAX: u64 = 8 << 20;
/// The least that a socket keeps in the kernel in each direction, as a part of the memory; it is enough for 5 Mbit/s on a
/// way of 100 ms where that is 8 MB.
const SOCKET_PART: u64 = 128;
const SOCKET_MIN: u64 = 16 << 10;
/// With so much the kernel decides on its own: it knows what a fast and long path needs.
const SOCKET_FREE: u64 = 32 << 20;
/// Sockets of the front are bounded everywhere: strangers choose how many they are.
pub(super) const FRONT_SOCKET: usize = 64 << 10;
/// Memory for which one connection may wait to be accepted, and bounds. Each has a socket of 2 KB and, whatever the kernel
/// saves, what it has sent: 2400 of them were the end of a router with 64 MB, and none of those would have been served in
/// time. A network card's driver cuts packets from blocks of 32 KB, and a single one that nobody has read keeps its block.
const WAITING: u64 = 128 << 10;
const BACKLOG: (u64, u64) = (64, 4096);
/// What the kernel begins to save at when all TCP connections have it, as a part of the machine's memory, unless it
/// tells the figure.
const TCP_PART: u64 = 16;
/// The machine is short of memory when less than this part of it, and less than so many bytes, is available to programs.
const SHORT_PART: u64 = 8;
const SHORT_MAX: u64 = 16 << 20;
/// Bytes that lists may take at most.
const LISTS_MAX: u64 = 64 << 20;
/// Memory of one connection in the process without the bytes on their way, with what its handshake took for a moment.
const CONNECTION: u64 = 2560;

/// Memory for which one session of the WEB proxy is let in, sessions at least, and what is enough for large batches.
const WEB_SESSION: usize = 12 << 10;
const WEB_SESSIONS_MIN: usize = 16;
const WEB_AMPLE: usize = 8 << 20;

/// What the memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Bytes for what is on its way.
    pub(super) buffers: usize,
    /// Bytes for hellos that are not whole, and once more for those that wait for the front.
    pub(super) hellos: usize,
    /// Bytes for lists of addresses, old copies and new ones.
    pub(super) lists: usize,
    /// Connections that the rest has room for.
    pub(super) connections: u64,
    /// Bytes that may wait unsent in the kernel for one client.
    pub(super) notsent: u32,
    /// Bytes that a socket may keep in the kernel in each direction, if that is bounded.
    pub(super) socket: Option<usize>,
    /// Connections that may wait in the kernel to be accepted.
    pub(super) backlog: u16,
    /// Bytes of the kernel that connections may have which are stuck. They are beside the memory that is ours.
    pub(super) kernel: usize,
}

/// Divides the configured memory, or what is ours by default.
pub(super) fn shares(config: &Config) -> Shares {
    let root = Path::new("/");
    let memory = config.memory.map_or_else(|| available(root) / DEFAULT_PART, |size| size.0);
    divide(memory, tcp_pressure(root))
}

/// What the memory is for when there is a WEB proxy.
pub(super) struct WebShares {
    /// Bytes for what is on its way.
    pub(super) bytes: usize,
    pub(super) sessions: usize,
    /// There is enough for large batches.
    pub(super) is_ample: bool,
}

/// The part of the WEB proxy, if there is one: half of the buffers, for whichever way clients take, they are as many.
pub(super) fn for_web(config: &Config, shares: &mut Shares) -> WebShares {
    let bytes = if config.web.bind_to.is_some() { shares.buffers / 2 } else { 0 };
    shares.buffers -= bytes;
    WebShares { bytes, sessions: (bytes / WEB_SESSION).max(WEB_SESSIONS_MIN), is_ample: bytes >= WEB_AMPLE }
}

/// Divides our memory, and what the kernel has for connections.
fn divide(memory: u64, tcp_pressure: u64) -> Shares {
    let (buffers, lists) = ((memory / 8 * 3).min(BUFFERS_MAX), (memory / 4).min(LISTS_MAX));
    let hellos = (memory / HELLOS_PART).min(HELLOS_MAX);
    let bytes = |share: u64| usize::try_from(share).unwrap_or(usize::MAX);
    let notsent = (memory / NOTSENT_PART).clamp(NOTSENT.0, NOTSENT.1);
    Shares {
        buffers: bytes(buffers),
        lists: bytes(lists),
        hellos: bytes(hellos / 2),
        connections: (memory - buffers - lists - hellos) / CONNECTION,
        notsent: u32::try_from(notsent).unwrap_or(u32::MAX),
        socket: (memory < SOCKET_FREE).then(|| bytes((memory / SOCKET_PART).max(SOCKET_MIN))),
        backlog: u16::try_from((memory / WAITING).clamp(BACKLOG.0, BACKLOG.1)).unwrap_or(u16::MAX),
        // The rest is for those that are not stuck, and for other programs.
        kernel: bytes(tcp_pressure / 2),
    }
}

/// The machine's memory or, if that is less, what the control group may use, bytes. `root` is `/` but in tests.
fn available(root: &Path) -> u64 {
    let total = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| total(&text));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit(root, line));
    limits.chain(total).min().unwrap_or(ASSUMED)
}

/// Bytes from which on the kernel saves memory for TCP: the second number of `tcp_mem`, which counts pages and is not
/// told in containers.
fn tcp_pressure(root: &Path) -> u64 {
    let pages = |text: String| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let told = fs::read_to_string(root.join("proc/sys/net/ipv4/tcp_mem")).ok().and_then(pages);
    told.map_or_else(|| available(root) / TCP_PART, |pages| pages.saturating_mul(page_size() as u64))
}

/// Whether the machine has hardly any memory left, whoever has taken it: what the kernel keeps for a connection is more
/// than it tells of it.
pub(super) fn is_short() -> bool {
    fs::read_to_string("/proc/meminfo").is_ok_and(|text| is_told_short(&text))
}

fn is_told_short(meminfo: &str) -> bool {
    let (total, available) = (total(meminfo), bytes_of(meminfo, "MemAvailable:"));
    total.zip(available).is_some_and(|(total, available)| available < (total / SHORT_PART).min(SHORT_MAX))
}

fn total(meminfo: &str) -> Option<u64> {
    bytes_of(meminfo, "MemTotal:")
}

fn bytes_of(meminfo: &str, field: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit of a control group, given its line `number:controllers:path`; version 2 has no controllers there.
fn limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    // Every group above limits, too. In a container the path may be that of the host: then only the mount itself
    // is there, and it is the container's.
    let groups: Vec<PathBuf> = Path::new(path).ancestors().map(|group| relative(root, mount, group)).collect();
    groups.into_iter().filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

fn relative(root: &Path, mount: &str, group: &Path) -> PathBuf {
    root.join(mount).join(group.strip_prefix("/").unwrap_or(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file system with these files.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("mtg-memory-{}-{name}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:         124416 kB\nMemFree:           1 kB\n");

    #[test]
    fn a_machine_without_control_groups_has_its_ram() {
        assert_eq!(available(&Root::new("plain", &[MEMINFO]).0), 124_416 << 10);
        assert_eq!(available(&Root::new("empty", &[("x", "")]).0), ASSUMED);
    }

    #[test]
    fn the_lowest_limit_of_the_group_and_those_above_counts() {
        let v2 = [
            MEMINFO,
            ("proc/self/cgroup", "0::/system.slice/mtg.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "33554432\n"),
            ("sys/fs/cgroup/system.slice/mtg.service/memory.max", "max\n"),
        ];
        assert_eq!(available(&Root::new("v2", &v2).0), 32 * MIB);
        let v1 = [
            MEMINFO,
            ("proc/self/cgroup", "3:cpu:/\n2:hugetlb,memory:/docker/1234\n0::/\n"),
            ("sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes", "16777216\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(available(&Root::new("v1", &v1).0), 16 * MIB);
    }

    #[test]
    fn a_container_that_sees_the_path_of_its_host_finds_its_limit() {
        let files =
            [MEMINFO, ("proc/self/cgroup", "0::/../../docker/1234\n"), ("sys/fs/cgroup/memory.max", "50331648\n")];
        assert_eq!(available(&Root::new("container", &files).0), 48 * MIB);
    }

    #[test]
    fn a_small_router_divides_and_a_server_does_not_waste() {
        let small = Shares {
            buffers: 3 << 20,
            lists: 2 << 20,
            hellos: 256 << 10,
            connections: 1024,
            notsent: 128 << 10,
            socket: Some(64 << 10),
            backlog: 64,
            kernel: 3 << 19,
        };
        assert_eq!(divide(8 * MIB, 3 * MIB), small);
        let large = Shares {
            buffers: 16 << 20,
            lists: 32 << 20,
            hellos: 4 << 20,
            connections: 29_491,
            notsent: 1 << 20,
            socket: None,
            backlog: 1024,
            kernel: 32 << 20,
        };
        assert_eq!(divide(128 * MIB, 64 * MIB), large);
        assert_eq!((divide(0, 0).connections, divide(0, 0).socket), (0, Some(16 << 10)));
    }

    #[test]
    fn what_may_be_full_at_the_same_time_is_no_more_than_the_memory() {
        for memory in [MIB, 4 * MIB, 8 * MIB, 64 * MIB, 1024 * MIB] {
            let Shares { buffers, lists, hellos, connections, .. } = divide(memory, 0);
            // Those that are not whole, and those that wait for the front.
            let together = (buffers + lists + 2 * hellos) as u64 + connections * CONNECTION;
            assert!(together <= memory, "{together} of {memory}");
        }
    }

    #[test]
    fn a_machine_is_short_of_memory_with_less_than_an_eighth_and_than_16_mib_left() {
        let told = |total: u32, available: u32| {
            is_told_short(&format!("MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n"))
        };
        assert!(told(49_492, 6_000) && !told(49_492, 6_200));
        assert!(told(4 << 20, 16_383) && !told(4 << 20, 16_384));
        assert!(!is_told_short("MemTotal: 49492 kB\n") && !is_told_short(""));
    }

    #[test]
    fn the_kernel_says_when_it_saves_and_in_a_container_its_rule_is_known() {
        let files = [MEMINFO, ("proc/sys/net/ipv4/tcp_mem", "651\t870\t1302\n")];
        assert_eq!(tcp_pressure(&Root::new("told", &files).0), 870 * page_size() as u64);
        assert_eq!(tcp_pressure(&Root::new("untold", &[MEMINFO]).0), (124_416 << 10) / 16);
    }
}
