//! Who may import whom, as the crate's map says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A layer and what it may import of the crate's others.
const LAYERS: [(&str, &[&str]); 12] = [
    ("proto", &[]),
    ("guard", &["proto"]),
    ("net", &["proto"]),
    ("clock", &[]),
    ("outcome", &["proto"]),
    ("log", &["proto", "clock"]),
    ("event", &["proto", "outcome"]),
    ("config", &["proto"]),
    ("stats", &["proto", "outcome", "event", "net", "config", "log"]),
    ("proxy", &["proto", "clock", "outcome", "event", "guard", "net", "config", "log", "stats"]),
    ("daemon", &["proto", "clock", "outcome", "event", "guard", "net", "config", "log", "stats", "proxy"]),
    ("cli", &["proto", "clock", "outcome", "event", "guard", "net", "config", "log", "stats", "proxy", "daemon"]),
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

/// What a file of `proxy` is given that all of them share, and so knows them all: a part of `proxy/mod.rs` for its length.
const SHARED: &str = "proxy/shared";

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
fn the_time_of_day_is_asked_for_in_one_place() {
    let asks = |file: &Path| code(file).iter().filter(|(_, line)| line.contains("SystemTime::now(")).count();
    let files: Vec<_> = sources("").into_iter().filter(|file| asks(file) > 0).collect();
    assert!(files.len() == 1 && files[0].ends_with("src/clock.rs") && asks(&files[0]) == 1, "{files:?}");
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
                let is_wrapped = line.contains("stream.read_exact(&mut ") && file.ends_with("name_server.rs");
                let is_wrapped = is_wrapped || line.contains("stream.read_exact(&mut message).await");
                assert!(!is_async || is_turn || is_wrapped, "{}:{number}: not in turn: {line}", file.display());
            }
        }
    }
    assert!(turns > 10, "only {turns} operations were found");
}

/// Files and folders that lie side by side form no circle. A folder's own files may know its `mod.rs`, and what is
/// brought in there counts where it comes from.
#[test]
fn nothing_that_lies_side_by_side_forms_a_circle() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let edges = sources.edges();
    assert!(edges.len() > 300, "only {} imports were found", edges.len());
    let circles = circles(&edges);
    assert!(circles.is_empty(), "these know each other:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let with = |text: &str| {
        let files = [
            file("a", "mod b;\nmod c;\npub(crate) use b::Thing;\nfn own() {}"),
            file("a/b", "use super::c::{self, Other as Another};\npub struct Thing;"),
            file("a/c", text),
            file("d", "use crate::a::b::Thing;"),
        ];
        circles(&Sources(files.into_iter().collect()).edges())
    };
    let circle = ["a/b -> a/c -> a/b"];
    assert_eq!(with("use super::b::Thing;"), circle);
    assert_eq!(with("use super::{own, b};"), circle);
    assert_eq!(with("use crate::{e::F, a::{own, b::Thing}};"), circle);
    assert_eq!(with("fn f() { super::b::g() }"), circle);
    assert_eq!(with("use super::Thing;"), circle, "a re-export counts where it comes from");
    assert_eq!(with("use super::own;\nuse crate::d;"), ["a -> d -> a"], "a file within a folder counts for the folder");
    assert!(with("use super::own;\n#[cfg(test)]\nmod tests {\n    use super::super::b;\n}").is_empty());
}

#[test]
fn every_file_of_tests_is_built_and_run() {
    let suite = include_str!("main.rs");
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testsuite")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("main.rs") {
            let declared = format!("\nmod {};", path.file_stem().unwrap().display());
            assert!(suite.contains(&declared), "{}: main.rs lacks{declared}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} files were found");
}

/// Whoever opens a file shall be able to read it; the story is what newcomers read first.
#[test]
fn no_file_is_longer_than_can_be_read() {
    let files = sources("");
    assert!(files.len() > 150, "only {} files were found", files.len());
    for file in files {
        let lines = code(&file).into_iter().filter(|(_, line)| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{}: {lines} lines of code, of 400 at most", file.display());
    }
    let story = include_str!("../../src/proxy/mod.rs").lines().count();
    assert!(story <= 220, "src/proxy/mod.rs: {story} lines, of 220 at most");
}

/// The files of a module: `src/NAME.rs` or all below `src/NAME`; without a name, all.
fn sources(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let single = root.join(format!("{module}.rs"));
    if !module.is_empty() && single.exists() {
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
    let starts = ["mod tests {", "pub(crate) mod tests {"].map(|start| format!("#[cfg(test)]\n{start}"));
    let end = starts.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let above_tests = &text[..end];
    let lines = above_tests.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines.map(|(index, line)| (index + 1, line.to_owned())).collect()
}

/// The text of each file above its tests, without comments, by its module's path: `proxy/front` for
/// `src/proxy/front/mod.rs`.
struct Sources(BTreeMap<String, String>);

impl Sources {
    fn read(root: &Path) -> Self {
        let (mut folders, mut modules) = (vec![root.to_owned()], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(root).unwrap().with_extension("");
                    let name = name.to_str().unwrap().trim_end_matches("/mod").to_owned();
                    let text: Vec<_> = code(&path).into_iter().map(|(_, line)| line).collect();
                    modules.insert(name, text.join("\n"));
                }
            }
        }
        Self(modules)
    }

    /// Who names whom, each once.
    fn edges(&self) -> BTreeSet<(String, String)> {
        let mut edges = BTreeSet::new();
        for (module, text) in &self.0 {
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for path in paths(text) {
                if let Some(target) = self.resolve(module, &path, 0).filter(|target| target != SHARED) {
                    edges.insert((module.clone(), target));
                }
            }
        }
        edges
    }

    /// The module that a path leads to; none for what is no module of ours.
    fn resolve(&self, module: &str, path: &[String], depth: usize) -> Option<String> {
        assert!(depth < 8, "{module}: {path:?} leads in a circle");
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (String::new(), &path[1..]),
            "super" | "self" => (module.to_owned(), path),
            first => {
                let child = format!("{module}/{first}").trim_start_matches('/').to_owned();
                if !self.0.contains_key(&child) {
                    return None;
                }
                (child, &path[1..])
            }
        };
        while let Some(first) = rest.first() {
            match first.as_str() {
                "self" => {}
                "super" => at = at.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_owned()),
                name => {
                    let child = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
                    if !self.0.contains_key(&child) {
                        return Some(self.re_exported(&at, name, depth).unwrap_or(at));
                    }
                    at = child;
                }
            }
            rest = &rest[1..];
        }
        Some(at)
    }

    /// Where a module has a name from that it brings in.
    fn re_exported(&self, module: &str, name: &str, depth: usize) -> Option<String> {
        let text = self.0.get(if module.is_empty() { "lib" } else { module })?;
        let brought_in = uses(text).into_iter().find(|path| path.last().is_some_and(|last| last == name));
        brought_in.and_then(|path| self.resolve(module, &path, depth + 1))
    }
}

/// The paths of a text: those of its `use` lines and those that begin with `crate` or `super` elsewhere.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut paths = uses(text);
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            // What goes on from elsewhere has been found from its beginning.
            if !text[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_alphanumeric()) {
                let path = text[at..].split(|c: char| c != ':' && c != '_' && !c.is_alphanumeric()).next().unwrap();
                paths.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    paths
}

/// The paths of the `use` lines, each to its end; the last part is the name that it has here.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut statement = String::new();
    for line in text.lines() {
        let words = line.trim_start();
        let words = words.strip_prefix("pub").map_or(words, |rest| {
            let rest = rest.trim_start();
            if rest.starts_with('(') { rest.split_once(')').map_or(rest, |(_, rest)| rest.trim_start()) } else { rest }
        });
        if !statement.is_empty() || words.starts_with("use ") {
            statement.push_str(if statement.is_empty() { &words[4..] } else { words });
            if let Some((tree, _)) = statement.split_once(';') {
                leaves(&[], tree, &mut found);
                statement.clear();
            }
        }
    }
    found
}

/// Adds the paths of a tree `a::{b, c::d}`.
fn leaves(before: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let (path, group) = tree.split_once('{').map_or((tree, None), |(path, group)| {
        (path, Some(group.trim_end().strip_suffix('}').expect("a group has an end")))
    });
    let path = path.split(" as ").next().unwrap();
    let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty() && *part != "*");
    let before: Vec<String> = before.iter().cloned().chain(parts.map(str::to_owned)).collect();
    let Some(group) = group else { return found.push(before) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[start..at].trim().is_empty() {
                    leaves(&before, group[start..at].trim(), found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The circles among those that lie side by side, one for each place where there are any.
fn circles(edges: &BTreeSet<(String, String)>) -> Vec<String> {
    // Who names whom, seen from the folder that both lie in.
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in edges {
        let (from, to): (Vec<_>, Vec<_>) = (from.split('/').collect(), to.split('/').collect());
        let same = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        // A folder and what lies in it are no neighbours.
        if same < from.len() && same < to.len() {
            known.entry(from[..=same].join("/")).or_default().insert(to[..=same].join("/"));
        }
    }
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for start in known.keys() {
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in known.get(*way.last().unwrap()).into_iter().flatten() {
                if next == start {
                    let folder = start.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let way: Vec<_> = way.iter().chain([&start]).map(|name| name.as_str()).collect();
                    found.entry(folder).or_insert_with(|| way.join(" -> "));
                } else if seen.insert(next) {
                    ways.push(way.iter().copied().chain([next]).collect());
                }
            }
        }
    }
    found.into_values().collect()
}
