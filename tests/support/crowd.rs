//! Servers for crowds: one thread each, whatever the number of connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this test, and the proxies that it starts, have so many files open.
pub fn allow_open_files(count: u64) {
    let wanted = Rlimit { current: Some(count), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, wanted).unwrap();
}

/// A server that takes every connection, never says a word and reads nothing; and what it has taken.
pub fn patient_server() -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    allow_open_files(16_384);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, kept) = (listener.local_addr().unwrap(), <Arc<Mutex<Vec<TcpStream>>>>::default());
    thread::spawn({
        let kept = kept.clone();
        move || listener.incoming().for_each(|stream| kept.lock().unwrap().push(stream.unwrap()))
    });
    (address, kept)
}

/// A server that sends as much as is taken to whoever has sent it something; and how many there were at most.
pub fn endless_server() -> (SocketAddr, Arc<AtomicUsize>) {
    allow_open_files(16_384);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    listener.set_nonblocking(true).unwrap();
    let count = served.clone();
    thread::spawn(move || {
        let (mut silent, mut served, block) = (Vec::new(), Vec::<TcpStream>::new(), vec![0x55; 64 << 10]);
        loop {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                silent.push(stream);
            }
            let (spoken, left): (Vec<_>, Vec<_>) =
                silent.into_iter().partition(|stream: &TcpStream| stream.peek(&mut [0]).is_ok_and(|count| count > 0));
            (silent, served) = (left, served.into_iter().chain(spoken).collect());
            let is_there = |stream: &mut TcpStream| {
                let _ = stream.read(&mut [0; 4096]);
                // How much of it is written does not matter.
                let Err(error) = stream.write_all(&block) else { return true };
                error.kind() == ErrorKind::WouldBlock
            };
            served.retain_mut(is_there);
            count.fetch_max(served.len(), Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
        }
    });
    (address, served)
}

/// Writes until nothing more is taken, `limit` bytes at most.
pub fn stuff(stream: &mut TcpStream, limit: usize) {
    stream.set_nonblocking(true).unwrap();
    let block = [0x55; 16 << 10];
    let mut written = 0;
    while written < limit {
        match stream.write(&block) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
}
