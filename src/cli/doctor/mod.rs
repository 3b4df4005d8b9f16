//! `mtg doctor`: finds out what keeps the proxy from working, and says what to do.
//!
//! The checks run side by side. Each returns findings and never more than an address or a host name of the
//! configuration: what doctor prints is made to be shown to others.

mod candidates;
mod clock;
mod entrance;
mod front;
mod hellos;
mod lines;
mod machine;
mod telegram;
#[cfg(feature = "web")]
mod web;
#[cfg(feature = "web")]
mod web_session;
#[cfg(feature = "web")]
mod web_visitor;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smol::Executor;

use super::args::{Command, Flag, Words};
use super::json::Json;
use super::{Failure, check_threads, config_path, print};
use crate::config::{Config, Warnings};
use crate::net::connect::Dialer;
use crate::net::deadline;
use crate::net::resolve::Resolver;
use crate::proxy::telegram_dialer;
use crate::proxy::upkeep::names;

pub(super) use lines::bbr_command;

pub(crate) static COMMAND: Command = Command {
    name: "doctor",
    arguments: &["[CONFIG]"],
    about: "find out what keeps the proxy from working",
    flags: &[&JSON, &HEALTH, &FRONT, &SKIP_NATIVE, &TIME_SERVER],
    notes,
    act,
};

static JSON: Flag = Flag { short: "", long: "--json", value: "", about: "findings for programs" };
static HEALTH: Flag =
    Flag { short: "", long: "--health", value: "", about: "only see whether the proxy answers on its port" };
static FRONT: Flag = Flag {
    short: "",
    long: "--front",
    value: "HOST",
    about: "only grade this web site as a front; repeatable, or with commas",
};
static SKIP_NATIVE: Flag =
    Flag { short: "", long: "--skip-native-check", value: "", about: "do not try Telegram without a SOCKS5 proxy" };
static TIME_SERVER: Flag =
    Flag { short: "", long: "--time-server", value: "HOST[:PORT]", about: "ask this one for the time (SNTP)" };

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(15);

/// What all checks know.
struct Case {
    /// The file of the configuration.
    path: PathBuf,
    config: Config,
    warnings: Warnings,
    time_server: Option<String>,
    /// Nothing counts but that the proxy runs.
    only_health: bool,
    /// Telegram is not tried without a SOCKS5 proxy.
    skips_native: bool,
    resolver: Resolver,
    /// Takes the way of the proxy's connections to Telegram.
    telegram_dialer: Dialer,
    /// Takes the usual way, as the proxy's connections to the front and visitors do.
    dialer: Dialer,
    deadline: Instant,
    /// Data centres that are still being asked.
    asking: AtomicUsize,
    /// How far Telegram's clock is ahead of ours, seconds, once a data centre has answered.
    telegram_clock: Mutex<Option<i64>>,
}

/// What a check found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    subject: String,
    grade: Grade,
    text: String,
    /// What to do; empty if nothing.
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// A check: what it looks at, and the look.
type Check = (String, Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>);

fn act(mut words: Words) -> Result<(), Failure> {
    let time_server = words.text(&TIME_SERVER)?;
    let fronts = words.texts(&FRONT)?;
    let as_json = words.switch(&JSON);
    let only_health = words.switch(&HEALTH);
    let skips_native = words.switch(&SKIP_NATIVE);
    let [config] = words.positionals()?;
    check_threads()?;
    if !fronts.is_empty() {
        let hosts = fronts.iter().flat_map(|hosts| hosts.split(',')).map(str::trim);
        return report(&candidates::grade_all(hosts, config.map(PathBuf::from).as_deref())?, as_json);
    }
    let path = config_path(config);
    let (config, warnings) = Config::load(&path)?;
    let (resolver, telegram_dialer) = (names::resolver(&config), telegram_dialer(&config.network));
    let case = Arc::new(Case {
        path,
        config,
        warnings,
        time_server,
        only_health,
        skips_native,
        resolver,
        telegram_dialer,
        dialer: Dialer::brief(),
        deadline: Instant::now() + LIMIT,
        asking: AtomicUsize::new(telegram::NUMBERS.len()),
        telegram_clock: Mutex::default(),
    });
    let shows_progress = !as_json && io::stdout().is_terminal();
    let findings = async_io::block_on(examine(&case, shows_progress));
    report(&findings, as_json)
}

fn report(findings: &[Finding], as_json: bool) -> Result<(), Failure> {
    print(&if as_json { json(findings) } else { text(findings) })?;
    match findings.iter().filter(|finding| finding.grade == Grade::Fail).count() {
        0 => Ok(()),
        1 => Err(Failure::Work("one check failed".to_owned())),
        count => Err(Failure::Work(format!("{count} checks failed"))),
    }
}

/// All checks, in the order of the report.
fn checks(case: &Arc<Case>) -> Vec<Check> {
    fn check<F: Future<Output = Vec<Finding>> + Send + 'static>(
        case: &Arc<Case>,
        subject: &str,
        look: fn(Arc<Case>) -> F,
    ) -> Check {
        (subject.to_owned(), Box::pin(look(case.clone())))
    }
    let port = check(case, "port", entrance::port);
    if case.only_health {
        return vec![port];
    }
    let mut checks = vec![
        check(case, "configuration", machine::configuration),
        check(case, "open files", machine::open_files),
        check(case, "congestion control", lines::congestion_control),
        check(case, "way out", lines::way_out),
        check(case, "clock", clock::check),
        port,
        check(case, "public address", entrance::public_address),
        check(case, "front", front::check),
    ];
    #[cfg(feature = "web")]
    if case.config.web.bind_to.is_some() {
        checks.push(check(case, web::SUBJECT, web::chain));
    }
    checks.extend(telegram::checks(case));
    checks
}

/// Runs all checks side by side.
async fn examine(case: &Arc<Case>, shows_progress: bool) -> Vec<Finding> {
    let running = Mutex::new(Vec::new());
    let executor = Executor::new();
    let tasks: Vec<_> = checks(case)
        .into_iter()
        .map(|(subject, look)| {
            note(&running, |subjects| subjects.push(subject.clone()), shows_progress);
            let running = &running;
            executor.spawn(async move {
                let found = deadline::until(case.deadline, look).await;
                note(running, |subjects| subjects.retain(|other| *other != subject), shows_progress);
                found.unwrap_or_else(|| {
                    let text = format!("no result within {} seconds", LIMIT.as_secs());
                    vec![Finding::fail(
                        &subject,
                        &text,
                        "see whether the internet works on this machine, then try again",
                    )]
                })
            })
        })
        .collect();
    let all = async {
        let mut findings = Vec::new();
        for task in tasks {
            findings.extend(task.await);
        }
        findings
    };
    executor.run(all).await
}

/// Changes what is running and shows it in a line of its own, which the report overwrites.
fn note(running: &Mutex<Vec<String>>, change: impl FnOnce(&mut Vec<String>), shows: bool) {
    let mut running = running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    change(&mut running);
    if shows {
        let line = if running.is_empty() { String::new() } else { format!("checking: {}", running.join(", ")) };
        let line: String = line.chars().take(78).collect();
        let _ = write!(io::stdout(), "\r\x1b[K{line}");
        let _ = io::stdout().flush();
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut findings = findings.iter().peekable();
    while let Some(Finding { subject, grade, text: found, advice }) = findings.next() {
        text += &format!("{:<4} {subject}: {found}\n", grade.as_str());
        // What helps against several in a row is said once.
        if !advice.is_empty() && findings.peek().is_none_or(|next| next.advice != *advice) {
            text += &format!("     -> {advice}\n");
        }
    }
    text
}

fn json(findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    let mut json = Json::new();
    json.string("result", worst.as_str());
    json.array("findings", findings, |json, finding| {
        json.string("subject", &finding.subject);
        json.string("grade", finding.grade.as_str());
        json.string("text", &finding.text);
        json.string("advice", &finding.advice);
    });
    json.finish()
}

fn notes() -> String {
    "CONFIG is /etc/mtg.conf if it is left out. Each finding is ok, warn or fail, and says what to do.\n\
     It takes 15 seconds at most. The exit code is 1 if anything fails. No secret and no password is\n\
     shown. The proxy may be running or not. With --health only the port is looked at, and a proxy\n\
     that does not run is a failure: for the health checks of containers. With --front the sites\n\
     named are graded as fronts, the best first; CONFIG need not be there, but tells the own address\n\
     and the resolver if it is given."
        .to_owned()
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    fn ok(subject: &str, text: &str) -> Self {
        Self::new(Grade::Ok, subject, text, "")
    }

    fn warn(subject: &str, text: &str, advice: &str) -> Self {
        Self::new(Grade::Warn, subject, text, advice)
    }

    fn fail(subject: &str, text: &str, advice: &str) -> Self {
        Self::new(Grade::Fail, subject, text, advice)
    }

    fn new(grade: Grade, subject: &str, text: &str, advice: &str) -> Self {
        Self { subject: subject.to_owned(), grade, text: text.to_owned(), advice: advice.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_say_what_to_do() {
        let findings = [Finding::ok("clock", "right"), Finding::fail("front", "it is \"away\"", "bring it back")];
        assert_eq!(text(&findings), "ok   clock: right\nfail front: it is \"away\"\n     -> bring it back\n");
        let both = [Finding::fail("a", "gone", "look"), Finding::warn("b", "gone", "look"), Finding::ok("c", "there")];
        assert_eq!(text(&both), "fail a: gone\nwarn b: gone\n     -> look\nok   c: there\n");
        let expected = r#"{
  "result": "fail",
  "findings": [
    {
      "subject": "clock",
      "grade": "ok",
      "text": "right",
      "advice": ""
    },
    {
      "subject": "front",
      "grade": "fail",
      "text": "it is \"away\"",
      "advice": "bring it back"
    }
  ]
}
"#;
        assert_eq!(json(&findings), expected);
    }
}
