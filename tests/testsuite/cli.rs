//! The command line as a user meets it: the binary's output, its error lines and its exit codes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

const COMMANDS: [&str; 6] = ["run", "simple-run", "generate-secret", "access", "status", "doctor"];

fn mtg<S: AsRef<OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtg")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs to a failure: the exit code, and the error lines without their prefix.
fn failure<S: AsRef<OsStr>>(args: &[S]) -> (Option<i32>, Vec<String>) {
    let output = mtg(args);
    assert_eq!(stdout(&output), "");
    let lines = stderr(&output).lines().map(|line| line.strip_prefix("mtg: error: ").expect(line).to_owned()).collect();
    (output.status.code(), lines)
}

/// Writes a configuration of its own for each test.
fn config(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.conf"));
    std::fs::write(&path, text).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[test]
fn help_goes_to_stdout_and_names_every_command() {
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let output = mtg(args);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
        for name in COMMANDS {
            assert!(stdout(&output).contains(&format!("\n  {name} ")), "{name}");
        }
    }
}

#[test]
fn each_command_has_its_help() {
    for name in COMMANDS {
        for args in [[name, "--help"], [name, "-h"], ["help", name]] {
            let output = mtg(&args);
            assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
            assert!(stdout(&output).contains(&format!("Usage: mtg {name} [FLAGS] ")), "{}", stdout(&output));
        }
    }
    assert!(stdout(&mtg(&["run", "--help"])).contains("bind-to"));
    assert!(stdout(&mtg(&["simple-run", "--help"])).contains("-s, --socks5-proxy URL"));
}

#[test]
fn questions_about_help_and_version_are_answered_in_any_wording() {
    for args in [&["help", "help"][..], &["help", "--help"], &["--help"]] {
        assert!(stdout(&mtg(args)).contains("Usage: mtg COMMAND"), "{args:?}");
    }
    for args in [&["version", "--help"][..], &["help", "version"], &["version", "-h"]] {
        assert!(stdout(&mtg(args)).contains("Usage: mtg version"), "{args:?}");
    }
}

#[test]
fn a_secret_need_not_stand_on_the_command_line() {
    let simple_run = |more: &[&str], variable: &str, line: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mtg"))
            .args(["simple-run", "somewhere:443"])
            .args(more)
            .env("MTG_SECRET", variable)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        stderr(&output).to_owned()
    };
    let good = SECRET;
    // Only an address without a name can be listened on, so a good secret leads to the next complaint.
    for (more, variable, line, complaint) in [
        (&[][..], good, "", "BIND: "),
        (&[], "ee00", "", "the secret has 1 bytes after 'ee'"),
        (&["-"], "", "ee00\n", "the secret has 1 bytes after 'ee'"),
        (&["-"], "ee00", SECRET, "BIND: "),
        (&[good], "ee00", "", "BIND: "),
    ] {
        let errors = simple_run(more, variable, line);
        assert!(errors.starts_with(&format!("mtg: error: {complaint}")), "{errors}");
        assert!(!errors.contains(&SECRET[2..20]), "{errors}");
    }
}

#[test]
fn version_is_one_line() {
    for args in [["--version"], ["-v"], ["-V"], ["version"]] {
        let output = mtg(&args);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).starts_with(concat!("mtg ", env!("CARGO_PKG_VERSION"), " (")));
        assert_eq!(stdout(&output).lines().count(), 1);
    }
}

#[test]
fn no_command_is_help_on_stderr() {
    let output = mtg::<&str>(&[]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(64), ""));
    assert!(stderr(&output).contains("Usage: mtg COMMAND"));
}

#[test]
fn wrong_command_lines_exit_with_64_and_one_line() {
    for (args, part) in [
        (&["rnu"][..], "did you mean \"run\"?"),
        (&["run", "--chekc"], "did you mean \"--check\"?"),
        (&["run", "a", "b"], "takes at most one argument"),
        (&["generate-secret"], "takes one argument (HOST), 0 were given"),
        (&["simple-run"], "takes at least one argument (BIND [SECRET_OR_HOST]), 0 were given"),
        (&["simple-run", "0.0.0.0:443"], "takes a secret: as the second argument"),
        (&["-c", "lots", "simple-run", "0.0.0.0:443", SECRET], "concurrency"),
        (&["simple-run", "-dclots", "0.0.0.0:443", SECRET], "concurrency"),
        (&["simple-run", "0.0.0.0:443", "ee00"], "the secret has 1 bytes after 'ee'"),
        (&["simple-run", "0.0.0.0:443", "192.0.2.1"], "is an IP address"),
        (&["simple-run", "somewhere:443", SECRET], "BIND: \"somewhere:443\" is not ip:port"),
        (&["simple-run", "-c", "lots", "0.0.0.0:443", SECRET], "concurrency"),
        (&["access", "-p", "0"], "--port: \"0\" is not a port from 1 to 65535"),
        (&["access", "-p", "65536"], "is not a port"),
        (&["access", "-i", "2001:db8::1"], "--ipv4: \"2001:db8::1\" is not an IPv4 address"),
        (&["access", "-I", "192.0.2.1"], "is not an IPv6 address"),
    ] {
        let (code, lines) = failure(args);
        assert_eq!((code, lines.len()), (Some(64), 1), "{args:?} {lines:?}");
        assert!(lines[0].contains(part), "{args:?} {lines:?}");
    }
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    let (code, lines) = failure(&[OsStr::new("run"), OsStr::from_bytes(b"/etc/\xff")]);
    assert_eq!((code, lines), (Some(64), vec!["argument 2 is not valid UTF-8".to_owned()]));
}

#[test]
fn generated_secrets_have_both_forms() {
    let (base64, hex) = (mtg(&["generate-secret", "front.example"]), mtg(&["generate-secret", "front.example", "-x"]));
    assert_eq!((base64.status.code(), hex.status.code()), (Some(0), Some(0)));
    assert!(stdout(&base64).starts_with('7') && stdout(&base64).len() == 40 + 1, "{}", stdout(&base64));
    assert!(
        stdout(&hex).starts_with("ee") && stdout(&hex).ends_with("66726f6e742e6578616d706c65\n"),
        "{}",
        stdout(&hex)
    );
    assert_ne!(hex.stdout, mtg(&["generate-secret", "--hex", "front.example"]).stdout);
}

#[test]
fn of_a_web_address_the_host_is_taken_and_that_is_said() {
    let output = mtg(&["generate-secret", "-x", "https://front.example/"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("66726f6e742e6578616d706c65\n"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "mtg: of the address, only the host name counts: front.example\n");
}

#[test]
fn generate_secret_refuses_what_is_no_host_name() {
    for host in ["", "192.0.2.1", "2001:db8::1", "a b", "example.com:443", &"a.".repeat(92)] {
        let (code, lines) = failure(&["generate-secret", host]);
        assert_eq!((code, lines.len()), (Some(64), 1), "{host}");
        assert!(lines[0].starts_with("the host name "), "{lines:?}");
    }
}

#[test]
fn check_reports_a_good_file_in_one_line() {
    let path = config("good", &format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\n"));
    let output = mtg(&["run", "--check", &path]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert_eq!(stdout(&output), format!("{path}: ok\n"));
}

#[test]
fn check_says_which_changes_take_a_restart() {
    let lines = format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\n");
    let old = config("against-old", &lines);
    for (name, more, said) in [
        ("same", "", ""),
        ("live", "log-level = info\n", ""),
        ("fixed", "threads = 2\nmemory = 8MB\n", "take a restart: threads, memory\n"),
    ] {
        let new = config(&format!("against-{name}"), &format!("{lines}{more}"));
        let output = mtg(&["run", "--check", "--against", &old, &new]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
        assert_eq!(stdout(&output), format!("{new}: ok\n{said}"));
    }
    let output = mtg(&["run", "--check", "--against", "/nowhere", &old]);
    assert_eq!(stdout(&output), format!("{old}: ok\ntake a restart: all keys\n"));
    let (code, lines) = failure(&["run", "--against", &old, &old]);
    assert_eq!((code, lines), (Some(64), vec!["run: --against goes with --check".into()]));
}

/// `mtg run` with a file to lock; the second is the same file, to be looked at.
fn run_with_lock(name: &str, address: &str) -> (Child, File) {
    let lock = config(&format!("{name}-lock"), "");
    let path = config(name, &format!("secret = {SECRET}\nbind-to = {address}\ndomain-fronting.host = 127.0.0.1\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtg"));
    command.args(["run", "--lock", &lock, &path]).stderr(Stdio::null());
    (command.spawn().unwrap(), File::open(lock).unwrap())
}

fn is_locked(file: &File) -> bool {
    // As scripts look, so that two who do are not in each other's way.
    file.try_lock_shared().is_err() || file.unlock().is_err()
}

#[test]
fn a_file_is_locked_for_as_long_as_clients_can_come_in() {
    // One that nobody has had a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut running, lock) = run_with_lock("lock-good", &address.to_string());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_locked(&lock) {
        assert!(Instant::now() < deadline && running.try_wait().unwrap().is_none(), "never locked");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Not even SIGKILL leaves it behind.
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(!is_locked(&lock));
}

#[test]
fn nothing_is_locked_by_who_cannot_listen() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut running, lock) = run_with_lock("lock-taken", &taken.local_addr().unwrap().to_string());
    while running.try_wait().unwrap().is_none() {
        assert!(!is_locked(&lock));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!is_locked(&lock));
}

#[test]
fn the_status_of_a_proxy_that_does_not_run_is_a_failure() {
    // Taken, but not by mtg.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let path = config("status", &format!("secret = {SECRET}\nbind-to = {address}\n"));
    let (code, lines) = failure(&["status", &path]);
    assert_eq!(code, Some(1));
    let said = format!("no mtg runs at {address}, the bind-to of {path}; 'mtg doctor {path}' says what is there");
    assert_eq!(lines, std::slice::from_ref(&said));
    let output = mtg(&["status", "--json", &path]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), &*format!("mtg: error: {said}\n")));
    assert_eq!(stdout(&output), format!("{{\n  \"running\": false,\n  \"bind_to\": \"{address}\"\n}}\n"));
}

#[test]
fn check_reports_all_errors_of_a_file() {
    let path = config("bad", &format!("secret = dd{}\nbind-to = here\nconcurrency = lots\n", &SECRET[2..34]));
    for args in [&["run", "--check", &path][..], &["run", &path], &["access", &path]] {
        let (code, lines) = failure(args);
        assert_eq!((code, lines.len()), (Some(78), 3), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with(&format!("{path}:3: concurrency: \"lots\""))), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains(&SECRET[2..34])), "{lines:?}");
    }
}

#[test]
fn a_missing_file_is_a_configuration_error() {
    let (code, lines) = failure(&["run", "/nonexistent/mtg.conf"]);
    assert_eq!((code, lines.len()), (Some(78), 1));
    assert!(lines[0].contains("/nonexistent/mtg.conf"), "{lines:?}");
}

#[test]
fn access_prints_the_links_of_a_file() {
    let path = config("access", &format!("secret = {SECRET}\nbind-to = 127.0.0.1:3128\npublic-ipv4 = 203.0.113.5\n"));
    let output = mtg(&["access", "-p", "443", "-x", "-I", "2001:db8::5", &path]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let (v4, v6) = (
        format!("tg://proxy?port=443&secret={SECRET}&server=203.0.113.5\""),
        format!("https://t.me/proxy?port=443&secret={SECRET}&server=2001%3Adb8%3A%3A5\""),
    );
    assert!(stdout(&output).contains(&v4) && stdout(&output).contains(&v6), "{}", stdout(&output));
    assert!(stdout(&output).starts_with("{\n  \"ipv4\": {\n    \"ip\": \"203.0.113.5\",\n    \"port\": 443,\n"));
}

#[test]
fn access_puts_the_host_name_into_links() {
    let path = config("host", &format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\npublic-host = home.example\n"));
    let output = mtg(&["access", &path]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("&server=home.example\""), "{}", stdout(&output));
}

#[test]
fn without_any_address_there_is_no_link_and_that_is_a_failure() {
    // Nobody answers there, and a listener on loopback has no address of its own on the internet.
    let nobody = "network.stun-servers = 127.0.0.1:9\nnetwork.public-ip-urls = http://127.0.0.1:9\n";
    let path = config("nowhere", &format!("secret = {SECRET}\nbind-to = 127.0.0.1:3128\n{nobody}"));
    for (args, part) in [(&["access", &path][..], "\"secret\": {"), (&["access", "--qr", &path], "server=ADDRESS")] {
        let output = mtg(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains(part), "{}", stdout(&output));
        let error = "mtg: error: no public address is known, so there is no link: set public-host, public-ipv4 or";
        assert!(stderr(&output).starts_with(error), "{}", stderr(&output));
    }
}

#[test]
fn where_no_thread_may_be_started_that_is_said() {
    let path = config("threads", &format!("secret = {SECRET}\nbind-to = 127.0.0.1:1\n"));
    // Root has no such limit; a user that nobody else is has it for himself.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=48731", "--regid=48731", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    let readable = std::env::temp_dir().join(format!("mtg-threads-{}", std::process::id()));
    std::fs::create_dir_all(&readable).unwrap();
    let (program, file) = (readable.join("mtg"), readable.join("threads.conf"));
    // Not by ourselves: what has a program open for writing, as each child of other tests would for a moment, keeps it
    // from being run.
    let copied = Command::new("cp").args([env!("CARGO_BIN_EXE_mtg"), &path]).arg(&readable).status().unwrap();
    assert!(copied.success());
    let output = command.args(["prlimit", "--nproc=1:1"]).arg(&program).arg("run").arg(&file).output().unwrap();
    std::fs::remove_dir_all(&readable).unwrap();
    let errors = stderr(&output);
    assert!(errors.starts_with("mtg: error: the system lets mtg start no thread ("), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mtg"))
        .args(["run", "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn what_a_missing_file_is_answered_with_makes_a_good_one() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("made-by-advice.conf");
    let _ = std::fs::remove_file(&path);
    let path = path.to_str().unwrap();
    for args in [&["run", path][..], &["run", "--check", path], &["access", path], &["doctor", "--health", path]] {
        let (code, lines) = failure(args);
        assert_eq!((code, lines.len()), (Some(78), 1), "{lines:?}");
    }
    let (_, lines) = failure(&["run", path]);
    let (what, command) = lines[0].split_once("; this makes one: ").unwrap();
    assert!(what.starts_with(&format!("{path}: cannot be read: No such file")), "{what}");
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_mtg")).parent().unwrap();
    let programs = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    assert!(Command::new("sh").args(["-c", command]).env("PATH", programs).status().unwrap().success());
    assert_eq!(mtg(&["run", "--check", path]).status.code(), Some(0));
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "others can read the secret");
    std::fs::remove_file(path).unwrap();
}

#[test]
#[cfg(not(feature = "web"))]
fn the_small_build_says_that_it_has_no_web_proxy_to_look_at() {
    let path = config("web", &format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\nweb.bind-to = 127.0.0.1:8081\n"));
    let (code, lines) = failure(&["doctor", &path]);
    assert_eq!(code, Some(78), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("web.conf:3: ") && line.contains("mtg-tls")), "{lines:?}");
}

#[test]
fn an_empty_file_and_a_folder_explain_themselves() {
    let (code, lines) = failure(&["run", &config("empty", "")]);
    assert_eq!((code, lines.len()), (Some(78), 2));
    assert!(lines.iter().any(|line| line.contains("make one with 'mtg generate-secret HOST'")), "{lines:?}");
    let (code, lines) = failure(&["run", env!("CARGO_TARGET_TMPDIR")]);
    assert_eq!(code, Some(78));
    assert!(lines[0].contains("container engines make a folder where the file to mount is missing"), "{lines:?}");
}

#[test]
fn a_url_that_cannot_be_asked_for_is_refused_with_its_line_and_without_its_password() {
    const URL_KEYS: [(&str, &str); 6] = [
        ("defense.blocklist.urls", "is not a file or an http:// or https:// URL"),
        ("defense.allowlist.urls", "is not a file or an http:// or https:// URL"),
        ("defense.doppelganger.urls", "is not an https:// URL"),
        ("network.public-ip-urls", "is not an http:// or https:// URL"),
        ("network.dns", "is not system, udp://"),
        ("network.proxies", "is not a URL socks5://"),
    ];
    for scheme in ["http", "https", "socks5", "udp"] {
        let bad = [
            "u%zz:hush@h/",
            "u:hush%4@h/",
            "u:hush@h:0/",
            "u:hush@h:+80/",
            "u:hush@/",
            "u:hush@[::1/",
            "u:hush@1.2.3/",
        ];
        let bad = bad.into_iter().chain(["u:hush@::1/", "u:hush@-h/", "u:hush@h /", "u:hush@h/ä b"]);
        for url in bad.map(|rest| format!("{scheme}://{rest}")) {
            for (key, allowed) in URL_KEYS {
                let on = "defense.blocklist.enabled = true\ndefense.allowlist.enabled = true\ndefense.doppelganger.enabled = true\n";
                let text = format!("secret = {SECRET}\nbind-to = 127.0.0.1:1\n{on}{key} = '{url}'\n");
                let path = config("url", &text);
                let (code, lines) = failure(&["run", "--check", &path]);
                assert_eq!((code, lines.len()), (Some(78), 1), "{key} = {url}: {lines:?}");
                assert!(lines[0].starts_with(&format!("{path}:6: {key}: ")), "{url}: {lines:?}");
                assert!(lines[0].contains(allowed) && !lines[0].contains("hush"), "{url}: {lines:?}");
            }
        }
    }
}
