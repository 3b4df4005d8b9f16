//! A line between two network namespaces, for tests and `scripts/line`: what one tun device sends comes out of the
//! other one later, or never.
//!
//! It is given the devices as its stdin (near end) and stdout (far end), for it takes unsafe code to attach to one. The
//! words of its command line, and of each datagram to the Unix socket CONTROL, say what the line is like (`traits`);
//! each datagram is answered with what has passed so far, as JSON. It ends when CONTROL is removed.

mod nat;
mod path;
mod traits;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path as FilePath;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use nat::Nat;
use path::Path;

/// Packets that one end may send before the other one has its turn.
const TURN: usize = 64;
/// Time between two looks at whether anybody still wants the line.
const LOOK: Duration = Duration::from_secs(1);
const PACKET_MAX: usize = 1 << 16;

/// Both directions.
struct Line {
    started: Instant,
    nat: Nat,
    up: Path,
    down: Path,
}

#[expect(clippy::print_stderr, reason = "a program without a log")]
fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(control) = words.next() else {
        eprintln!("usage: line CONTROL [WORD...] <NEAR_TUN >FAR_TUN");
        return ExitCode::from(64);
    };
    match run(FilePath::new(&control), words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("line: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(control: &FilePath, words: impl Iterator<Item = String>) -> io::Result<()> {
    let mut line = Line { started: Instant::now(), nat: Nat::default(), up: Path::new(1), down: Path::new(2) };
    for word in words {
        line.apply(&word)?;
    }
    let socket = UnixDatagram::bind(control)?;
    socket.set_nonblocking(true)?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (near, far) = (stdin.as_fd(), stdout.as_fd());
    let mut looked = Instant::now();
    loop {
        let wait = line.next_due().map_or(LOOK, |due| due.saturating_sub(line.now())).min(LOOK);
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let mut fds = [near, far, socket.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        line.take_in(near, far)?;
        line.deliver(near, far);
        line.obey(&socket)?;
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if !control.exists() {
                return Ok(());
            }
        }
    }
}

impl Line {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_due(&self) -> Option<Duration> {
        [self.up.next_due(), self.down.next_due()].into_iter().flatten().min()
    }

    /// Takes what both ends have sent.
    fn take_in(&mut self, near: BorrowedFd<'_>, far: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = [0; PACKET_MAX];
        for _ in 0..TURN {
            let Some(packet) = receive(near, &mut buffer)? else { break };
            self.nat.outward(packet);
            self.up.take(packet, self.started.elapsed());
        }
        for _ in 0..TURN {
            let Some(packet) = receive(far, &mut buffer)? else { break };
            if self.nat.inward(packet) {
                self.down.take(packet, self.started.elapsed());
            } else {
                self.down.passed.forgotten += 1;
            }
        }
        Ok(())
    }

    /// Hands out what has travelled for long enough. A full device drops, as a real one does.
    fn deliver(&mut self, near: BorrowedFd<'_>, far: BorrowedFd<'_>) {
        for (path, end) in [(&mut self.up, far), (&mut self.down, near)] {
            while let Some(packet) = path.next(self.started.elapsed()) {
                let _ = rustix::io::write(end, &packet);
            }
        }
    }

    /// Does what datagrams say.
    fn obey(&mut self, socket: &UnixDatagram) -> io::Result<()> {
        let mut text = [0; 4096];
        loop {
            let (length, sender) = match socket.recv_from(&mut text) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            for word in String::from_utf8_lossy(&text[..length]).split_whitespace() {
                self.apply(word)?;
            }
            if let Some(path) = sender.as_pathname() {
                let answer = format!("{{\"up\": {}, \"down\": {}}}", self.up.passed, self.down.passed);
                // Whoever asked may have left.
                let _ = socket.send_to(answer.as_bytes(), path);
            }
        }
    }

    /// Obeys one word: `rebind`, or `[up.|down.]TRAIT=VALUE`.
    fn apply(&mut self, word: &str) -> io::Result<()> {
        if word == "rebind" {
            self.nat.rebind();
            return Ok(());
        }
        let (is_up, is_down, setting) = match (word.strip_prefix("up."), word.strip_prefix("down.")) {
            (Some(setting), _) => (true, false, setting),
            (_, Some(setting)) => (false, true, setting),
            _ => (true, true, word),
        };
        for (path, is_meant) in [(&mut self.up, is_up), (&mut self.down, is_down)] {
            if is_meant {
                path.traits.set(setting).map_err(|fault| io::Error::other(format!("{word}: {fault}")))?;
            }
        }
        Ok(())
    }
}

/// The next packet that a device has, if it has one.
fn receive<'a>(device: BorrowedFd<'_>, buffer: &'a mut [u8]) -> io::Result<Option<&'a mut [u8]>> {
    match rustix::io::read(device, &mut *buffer) {
        Ok(length) => Ok(buffer.get_mut(..length)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
