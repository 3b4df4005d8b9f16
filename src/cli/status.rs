//! `mtg status`: how the running proxy fares.

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::args::{Command, Flag, Words};
use super::json::Json;
use super::{Failure, config_path, doctor, print};
use crate::clock::UnixTime;
use crate::config::Config;
use crate::daemon::status::{self, Status};
use crate::log as logging;

pub(crate) static COMMAND: Command = Command {
    name: "status",
    arguments: &["[CONFIG]"],
    about: "show how the running proxy fares",
    flags: &[&JSON],
    notes,
    act,
};

static JSON: Flag = Flag { short: "", long: "--json", value: "", about: "the same for programs" };

fn act(mut words: Words) -> Result<(), Failure> {
    let as_json = words.switch(&JSON);
    let [config] = words.positionals()?;
    let path = config_path(config);
    let address = Config::load(&path)?.0.bind_to;
    match status::ask(address) {
        Ok(status) => print(&if as_json { json(address, Some(&status)) } else { text(address, &status) }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            if as_json {
                print(&json(address, None))?;
            }
            Err(Failure::Work(format!(
                "no mtg runs at {address}, the bind-to of {0}; 'mtg doctor {0}' says what is there",
                path.display()
            )))
        }
        Err(error) => Err(Failure::Work(format!("the mtg at {address} gives no answer, try again: {error}"))),
    }
}

/// The clock may have been set since the start, so this is by the clock of today.
fn since(status: &Status) -> u64 {
    UnixTime::now().secs_since_1970().saturating_sub(status.uptime_secs)
}

fn json(address: SocketAddr, status: Option<&Status>) -> String {
    let mut json = Json::new();
    json.boolean("running", status.is_some());
    json.string("bind_to", &address.to_string());
    if let Some(status) = status {
        json.string("version", &status.version);
        json.number("since", since(status));
        json.number("uptime_secs", status.uptime_secs);
        for (name, value) in status.clone().figures.each() {
            json.number(name, *value);
        }
        json.string("congestion_control", &status.congestion_control);
        json.string("bbr_command", &doctor::bbr_command(&status.congestion_control).unwrap_or_default());
    }
    json.finish()
}

fn text(address: SocketAddr, status: &Status) -> String {
    let Status { version, congestion_control, uptime_secs, figures } = status;
    let better = doctor::bbr_command(congestion_control)
        .map(|command| format!("; bbr is 5 to 90 times as fast on lines with loss: {command}"))
        .unwrap_or_default();
    format!(
        "running             mtg {version} at {address} since {}, {}\n\
         clients now         {} connections\n\
         strangers now       {} at the front, {} not known yet\n\
         traffic             {} to clients, {} from clients\n\
         memory              {}\n\
         congestion control  {congestion_control}{better}\n",
        logging::utc(since(status)),
        duration(*uptime_secs),
        figures.clients,
        figures.strangers,
        figures.arriving,
        bytes(figures.bytes_to_clients),
        bytes(figures.bytes_from_clients),
        bytes(figures.memory_bytes),
    )
}

/// Its two largest units.
fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// In the unit that leaves one to three digits before the point.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    let (mut tenths, mut unit) = (count / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    match UNITS.get(unit) {
        Some(name) if count >= 1000 => format!("{}.{} {name}", tenths / 10, tenths % 10),
        _ => format!("{count} bytes"),
    }
}

fn notes() -> String {
    "CONFIG is /etc/mtg.conf if it is left out: the file that the proxy was started with. Its bind-to\n\
     says which proxy is meant, and the metrics need not be on. The exit code is 1 if none runs.\n\
     Traffic is counted from the start."
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::with_step;
    use crate::stats::Figures;

    #[test]
    fn numbers_are_for_people() {
        for (count, shown) in
            [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (999_999, "999.9 KB"), (12_345_678, "12.3 MB")]
        {
            assert_eq!(bytes(count), shown);
        }
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        for (secs, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
            (8_640_000, "100 d 0 h"),
        ] {
            assert_eq!(duration(secs), shown);
        }
    }

    #[test]
    fn the_start_is_shown_by_the_clock_of_today() {
        let status = Status { uptime_secs: 7_200, ..Status::default() };
        let before = since(&status);
        let after = with_step(86_400, || since(&status));
        assert!((86_400..86_460).contains(&(after - before)), "{before} {after}");
        assert_eq!(with_step(-(1 << 40), || since(&status)), 0, "a router that does not know the time yet");
    }

    #[test]
    fn both_forms_have_what_there_is_to_say() {
        let figures =
            Figures { clients: 3, strangers: 2, arriving: 1, bytes_to_clients: 5_000_000, ..Figures::default() };
        let status = Status { version: "1.2.3".into(), congestion_control: "bbr".into(), uptime_secs: 7_200, figures };
        let address = "0.0.0.0:8443".parse().unwrap();
        let shown = text(address, &status);
        for part in [
            "mtg 1.2.3 at 0.0.0.0:8443 since ",
            ", 2 h 0 min\n",
            " 3 connections\n",
            " 2 at the front, 1 not",
            "5.0 MB to",
            "  bbr\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let shown = json(address, Some(&status));
        for part in ["\"running\": true", "\"uptime_secs\": 7200", "\"clients\": 3", "\"bbr_command\": \"\"\n"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(json(address, None), "{\n  \"running\": false,\n  \"bind_to\": \"0.0.0.0:8443\"\n}\n");
    }
}
