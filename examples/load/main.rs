//! Load for `scripts/bench`: clients on one side of a relay, the data centre on its other side, one thread.
//!
//! It talks FakeTLS and obfuscated2, or, with `--plain`, nothing of these, for relays that know only TCP. To be lighter
//! than what it measures, it encrypts nothing and looks at no payload; `check` does, and measures nothing.
//! It prints one line of JSON. With `--pause` it first prints "ready" once all connections stand and waits for a line.

mod check;
mod end;
mod engine;
mod gauge;

#[allow(dead_code, unreachable_pub, reason = "the tests use more of it")]
mod support;

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use end::Scenario;
use engine::Engine;
use gauge::Gauge;

const USAGE: &str = "usage: load download|upload|pingpong|connect|idle|check --relay ADDRESS --dc ADDRESS --pid PID
            [--plain] [--pause] [--connections N] [--amount N]
--amount: KiB in all (download, upload, check), round trips in all (pingpong), connections in all (connect)";

/// Connections that are being opened at the same time.
const OPENING: usize = 128;
/// Time for the relay to notice that everybody has left.
const SETTLE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("load: {error}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Box<dyn std::error::Error>> {
    let mut words = pico_args::Arguments::from_env();
    let scenario = words.subcommand()?.unwrap_or_default();
    let relay: SocketAddr = words.value_from_str("--relay")?;
    let dc: SocketAddr = words.value_from_str("--dc")?;
    let gauge = Gauge::new(words.value_from_str("--pid")?);
    let (is_plain, pauses) = (words.contains("--plain"), words.contains("--pause"));
    let connections: usize = words.opt_value_from_str("--connections")?.unwrap_or(1);
    let amount: u64 = words.opt_value_from_str("--amount")?.unwrap_or(1);
    let each = |all: u64| (all / connections.max(1) as u64).max(1);
    let scenario = match scenario.as_str() {
        "download" => Scenario::Download(each(amount << 10)),
        "upload" => Scenario::Upload(each(amount << 10)),
        "pingpong" => Scenario::PingPong(each(amount)),
        "connect" => Scenario::Connect(amount),
        "idle" => Scenario::Idle,
        "check" => return Ok(check::run(relay, dc, connections, amount << 10)),
        other => return Err(format!("no scenario is called {other:?}").into()),
    };
    let strange = words.finish();
    if !strange.is_empty() {
        return Err(format!("what is {strange:?}?").into());
    }
    let mut engine = Engine::new(relay, dc, is_plain, scenario)?;
    let fresh = gauge.resident()?;
    if !matches!(scenario, Scenario::Connect(_)) {
        engine.open(connections, OPENING)?;
    }
    if pauses {
        println!("ready");
        std::io::stdin().lock().read_line(&mut String::new())?;
    }
    let (began, before) = (Instant::now(), gauge.cpu()?);
    match scenario {
        Scenario::Connect(all) => engine.open_and_finish(usize::try_from(all)?, connections)?,
        _ => engine.finish()?,
    }
    let (cpu, wall) = (gauge.cpu()? - before, began.elapsed());
    let mut line =
        format!("{{\"cpu\": {}, \"wall\": {}, \"bytes\": {}", cpu.as_secs_f64(), wall.as_secs_f64(), engine.bytes());
    if scenario == Scenario::Idle {
        let during = gauge.resident()?;
        engine.close_all();
        sleep(SETTLE);
        line += &format!(", \"fresh\": {fresh}, \"during\": {during}, \"after\": {}", gauge.resident()?);
    }
    Ok(line + "}")
}
