//! Who may import whom, as the crate's map says.

use std::fs;
use std::path::{Path, PathBuf};

/// A layer and what it may import of the crate's others.
const LAYERS: [(&str, &[&str]); 11] = [
    ("proto", &[]),
    ("guard", &["proto"]),
    ("net", &["proto"]),
    ("outcome", &["proto"]),
    ("log", &["proto"]),
    ("event", &["proto", "outcome"]),
    ("config", &["proto"]),
    ("stats", &["proto", "outcome", "event", "net", "config", "log"]),
    ("proxy", &["proto", "outcome", "event", "guard", "net", "config", "log", "stats"]),
    ("daemon", &["proto", "outcome", "event", "guard", "net", "config", "log", "stats", "proxy"]),
    ("cli", &["proto", "outcome", "event", "guard", "net", "config", "log", "stats", "proxy", "daemon"]),
];

/// What code without I/O does not name.
const NO_IO: [&str; 9] = [
    "smol",
    "async_io",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime",
    "getrandom",
    "log::",
    "std::env",
];

#[test]
fn every_layer_imports_only_what_lies_below_it() {
    let mut files = 0;
    for (layer, allowed) in LAYERS {
        for file in sources(layer) {
            files += 1;
            for (number, line) in code(&file) {
                for imported in line.split("crate::").skip(1) {
                    let module: String = imported.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let is_allowed = module == layer || allowed.contains(&module.as_str());
                    assert!(is_allowed, "{}:{number}: {layer} may not import {module}: {line}", file.display());
                }
            }
        }
    }
    assert!(files > 30, "only {files} files were found");
}

#[test]
fn the_protocol_and_the_guards_do_no_io() {
    let mut lines = 0;
    for file in ["proto", "guard"].into_iter().flat_map(sources) {
        if file.ends_with("testing.rs") {
            continue;
        }
        for (number, line) in code(&file) {
            lines += 1;
            for banned in NO_IO {
                assert!(!line.contains(banned), "{}:{number}: {banned} has no place here: {line}", file.display());
            }
        }
    }
    assert!(lines > 500, "only {lines} lines were read");
}

#[test]
fn the_configuration_opens_no_socket() {
    for file in sources("config") {
        for (number, line) in code(&file) {
            for banned in ["TcpStream", "TcpListener", "UdpSocket", "to_socket_addrs", "async_io", "smol"] {
                assert!(!line.contains(banned), "{}:{number}: {banned} has no place here: {line}", file.display());
            }
        }
    }
}

/// async-io waits only where a call would block, so what a loop does with a socket goes through `net::turn`, or a peer
/// that sends fast enough stops everything else.
#[test]
fn every_operation_on_a_socket_is_done_in_its_turn() {
    let mut turns = 0;
    let is_exempt =
        |file: &Path| file.ends_with("net/turn.rs") || file.components().any(|part| part.as_os_str() == "relay");
    let files = ["net", "stats", "proxy", "cli"].into_iter().flat_map(sources).filter(|file| !is_exempt(file));
    for file in files {
        for (number, line) in code(&file) {
            let is_turn = ["turn::take(", "turn::write_all("].iter().any(|turn| line.contains(turn));
            turns += usize::from(is_turn);
            for operation in ["socket.read(", "socket.recv(", ".read_exact(&mut", "socket.write(", "socket.write_all("]
            {
                let is_async = line.contains(operation) && line.contains(".await");
                // A stream of `net::stream` does that itself.
                let is_wrapped = line.contains("stream.read_exact(&mut ")
                    && (file.ends_with("name_server.rs") || file.ends_with("doctor/web.rs"));
                let is_wrapped = is_wrapped || line.contains("stream.read_exact(&mut message).await");
                assert!(!is_async || is_turn || is_wrapped, "{}:{number}: not in turn: {line}", file.display());
            }
        }
    }
    assert!(turns > 10, "only {turns} operations were found");
}

/// The files of a module: `src/NAME.rs` or all below `src/NAME`.
fn sources(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let single = root.join(format!("{module}.rs"));
    if single.exists() {
        return vec![single];
    }
    let (mut folders, mut files) = (vec![root.join(module)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// The lines above a file's tests, without comments.
fn code(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap();
    let above_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = above_tests.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines.map(|(index, line)| (index + 1, line.to_owned())).collect()
}
