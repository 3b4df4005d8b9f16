//! The binary under test, with a configuration of its own.
//!
//! `MTG_BINARY` names another build of it to test, such as a release for another machine.

use std::fmt::Write as _;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, HOST, KEY, hex, socket};

/// What to start the binary with.
#[derive(Clone)]
pub struct Setup {
    lines: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    open_files: Option<u32>,
    may_mark: bool,
    mode: u32,
}

/// A running proxy. Dropping it sends SIGTERM and fails unless it ends well.
pub struct Proxy {
    /// Where clients come in.
    pub address: SocketAddr,
    child: Child,
    stderr: Arc<Mutex<String>>,
    is_unread: Arc<AtomicBool>,
    directory: PathBuf,
    ended: bool,
}

impl Setup {
    /// The secret of [`KEY`] and [`HOST`], and a front that refuses.
    pub fn new() -> Self {
        let setup = Self { lines: Vec::new(), environment: Vec::new(), open_files: None, may_mark: true, mode: 0o600 };
        setup.secret(&KEY, HOST).front(socket::free_address()).set("shutdown-grace", "1s").set("log-level", "debug")
    }

    /// Another secret.
    pub fn secret(self, key: &[u8; 16], host: &str) -> Self {
        self.set("secret", &format!("ee{}{}", hex(key), hex(host.as_bytes())))
    }

    /// Where the front is.
    pub fn front(self, front: SocketAddr) -> Self {
        self.set("domain-fronting.host", &front.ip().to_string()).set("domain-fronting.port", &front.port().to_string())
    }

    /// One more address of DC `number`.
    pub fn dc(mut self, number: u16, address: SocketAddr) -> Self {
        self.lines.push((format!("dc-override.{number}"), address.to_string()));
        self
    }

    /// Sets a key, in place of what was set before. `PORT` in the value stands for the port of the proxy.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.lines.retain(|(known, _)| known != key);
        self.lines.push((key.to_owned(), value.to_owned()));
        self
    }

    /// What a key is set to.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Who may read the file.
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Limits the number of open files.
    pub fn open_files(self, limit: u32) -> Self {
        Self { open_files: Some(limit), ..self }
    }

    /// Without the capabilities that it takes to mark packets, if we have them ourselves.
    pub fn without_marks(self) -> Self {
        Self { may_mark: false, ..self }
    }

    /// Starts the proxy on a free port and waits until it listens.
    pub fn start(&self) -> Proxy {
        for _ in 0..5 {
            let mut proxy = self.spawn(socket::free_address());
            let listens = socket::wait_for("the proxy to listen", DEADLINE, || {
                if proxy.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                listens(proxy.address, proxy.child.id()).then_some(true)
            });
            if listens {
                return proxy;
            }
            proxy.ended = true;
            // Another process may have taken the port meanwhile.
            assert!(proxy.log().contains("cannot listen on"), "the proxy did not start: {}", proxy.log());
        }
        panic!("no free port for the proxy in five attempts");
    }

    /// Starts the proxy on that address and waits for nothing.
    pub fn spawn(&self, address: SocketAddr) -> Proxy {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("mtg.conf");
        std::fs::write(&file, self.config(address)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(self.mode)).unwrap();
        let mut command = match self.open_files {
            None if !self.may_mark && rustix::process::geteuid().is_root() => {
                let mut setpriv = Command::new("setpriv");
                setpriv.arg("--bounding-set=-net_admin,-net_raw").arg(binary());
                setpriv
            }
            None => Command::new(binary()),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(binary());
                shell
            }
        };
        command
            .envs(self.environment.iter().cloned())
            .arg("run")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let (stderr, is_unread) = <(Arc<Mutex<String>>, Arc<AtomicBool>)>::default();
        std::thread::spawn({
            let (mut pipe, stderr, is_unread) = (child.stderr.take().unwrap(), stderr.clone(), is_unread.clone());
            move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    stderr.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
                    while is_unread.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        });
        Proxy { address, child, stderr, is_unread, directory, ended: false }
    }

    /// The configuration file for a proxy on that address.
    pub fn config(&self, address: SocketAddr) -> String {
        let mut text = format!("bind-to = {address}\n");
        for (key, value) in &self.lines {
            writeln!(text, "{key} = {}", value.replace("PORT", &address.port().to_string())).unwrap();
        }
        text
    }
}

impl Proxy {
    /// What the proxy has written to stderr so far.
    pub fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Stops reading stderr, or goes on.
    pub fn leave_log_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::SeqCst);
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("mtg.conf")
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Waits until it has no more than `limit` files open.
    pub fn wait_for_open_files(&self, limit: usize) {
        socket::wait_for(&format!("at most {limit} open files"), DEADLINE, || {
            (self.open_files() <= limit).then_some(())
        });
    }

    /// The memory that it occupies now, KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that it has ever occupied, KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory that it occupies now beside its own file, KiB.
    pub fn own_memory_kib(&self) -> u64 {
        self.status("RssAnon:")
    }

    /// Writes another configuration file and sends SIGHUP.
    pub fn reload(&self, setup: &Setup) {
        let (file, fresh) = (self.directory.join("mtg.conf"), self.directory.join("fresh.conf"));
        std::fs::write(&fresh, setup.config(self.address)).unwrap();
        std::fs::rename(fresh, file).unwrap();
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Takes its processor away, or gives it back.
    pub fn pause(&self, is_paused: bool) {
        let signal = if is_paused { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end, however it comes.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let status = socket::wait_for("the proxy to end", within, || self.child.try_wait().unwrap());
        self.ended = true;
        status
    }

    /// Fails unless the proxy ended with code 0 and never panicked.
    pub fn assert_ended_well(&self, status: ExitStatus) {
        assert!(status.success(), "the proxy ended with {status}: {}", tail(&self.log()));
        assert!(!self.log().contains("panicked"), "the proxy panicked: {}", tail(&self.log()));
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The child is this test's own; nothing may outlive a failed test.
            let _ = self.child.kill();
            let _ = self.child.wait();
            println!("the proxy's log: {}", tail(&self.log()));
        } else if !self.ended {
            self.terminate();
            let status = self.wait(DEADLINE);
            self.assert_ended_well(status);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("MTG_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_mtg")), PathBuf::from)
}

/// Whether a process listens there, without connecting: a connection would count as a client. That it is *our* process
/// follows from its being alive, for a proxy that cannot listen ends.
fn listens(address: SocketAddr, process: u32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let SocketAddr::V4(address) = address else { panic!("the tests listen on IPv4") };
    assert_eq!(*address.ip(), Ipv4Addr::LOCALHOST);
    let wanted = format!(": 0100007F:{:04X} 00000000:0000 0A ", address.port());
    table.lines().any(|line| line.contains(&wanted))
}

fn tail(log: &str) -> &str {
    let start = log.len().saturating_sub(4000);
    &log[(start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len())..]
}
