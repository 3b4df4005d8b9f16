//! The event loop: edge-triggered, one thread, one buffer for all.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use slab::Slab;

use crate::end::{End, Role, Scenario, Shared};

const EVENTS: usize = 512;
const LISTENER: u64 = u64::MAX;
const BACKLOG: i32 = 4096;

pub(crate) struct Engine {
    relay: SocketAddr,
    poller: OwnedFd,
    listener: TcpListener,
    ends: Slab<End>,
    shared: Shared,
}

impl Engine {
    pub(crate) fn new(relay: SocketAddr, dc: SocketAddr, is_plain: bool, scenario: Scenario) -> io::Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = TcpListener::bind(dc)?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        epoll::add(&poller, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self { relay, poller, listener, ends: Slab::new(), shared: Shared::new(is_plain, scenario) })
    }

    /// Payload bytes that have been moved.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes
    }

    /// Opens connections, `at_once` at the same time, and waits until both ends of all of them stand.
    pub(crate) fn open(&mut self, count: usize, at_once: usize) -> io::Result<()> {
        let mut opened = 0;
        while self.shared.open_clients < count || self.shared.open_dcs < count {
            while opened < count && opened < self.shared.open_clients.min(self.shared.open_dcs) + at_once {
                self.connect()?;
                opened += 1;
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Lets the scenario begin on all connections and waits for its end on all clients.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.shared.has_begun = true;
        let keys: Vec<_> = self.ends.iter().map(|(key, _)| key).collect();
        let clients = self.shared.open_clients;
        for key in keys {
            self.drive(key, EventFlags::OUT)?;
        }
        while self.shared.finished < clients {
            self.turn()?;
        }
        Ok(())
    }

    /// Opens connections one after the other, `at_once` at the same time, each closed when its scenario is over.
    pub(crate) fn open_and_finish(&mut self, count: usize, at_once: usize) -> io::Result<()> {
        self.shared.has_begun = true;
        let mut opened = 0;
        while self.shared.finished < count {
            while opened < count && opened < self.shared.finished + at_once {
                self.connect()?;
                opened += 1;
            }
            self.turn()?;
        }
        Ok(())
    }

    pub(crate) fn close_all(&mut self) {
        self.ends.clear();
    }

    fn connect(&mut self) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &self.relay) {
            Ok(()) | Err(Errno::INPROGRESS) => self.add(socket.into(), Role::Client),
            Err(error) => Err(error.into()),
        }
    }

    fn add(&mut self, socket: TcpStream, role: Role) -> io::Result<()> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let entry = self.ends.vacant_entry();
        epoll::add(&self.poller, &socket, EventData::new_u64(entry.key() as u64), interest)?;
        entry.insert(End::new(socket, role, &mut self.shared));
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        match epoll::wait(&self.poller, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (flags, data) = (event.flags, event.data.u64());
            if data == LISTENER {
                self.accept()?;
            } else {
                self.drive(data as usize, flags)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.add(socket.into(), Role::Dc)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn drive(&mut self, key: usize, ready: EventFlags) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(key) else { return Ok(()) };
        if end.drive(ready, &mut self.shared)? {
            self.ends.remove(key);
        }
        Ok(())
    }
}
