//! The log's line per minute, and the warning that clocks differ.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::event::Event;
use crate::guard::skew::{Skew, Whose};
use crate::outcome::Stranger;
use crate::proto::reason::Reason;

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(60);

/// What happened since the last line, and the clocks of clients.
pub(in crate::proxy) struct Summary {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    minute: Minute,
    skew: Skew,
}

#[derive(Default, PartialEq, Eq)]
struct Minute {
    clients: u32,
    fronted: u32,
    replays: u32,
    skewed: u32,
}

impl Default for Summary {
    fn default() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }
}

impl Summary {
    pub(in crate::proxy) fn record(&self, event: &Event) {
        match event {
            Event::Authenticated { .. } => self.lock().minute.clients += 1,
            Event::Fronting { connection, stranger } => {
                let mut state = self.lock();
                state.minute.fronted += 1;
                match stranger {
                    Stranger::Rejected(Reason::Replay) => state.minute.replays += 1,
                    Stranger::Rejected(Reason::ClockSkew(secs)) => {
                        state.minute.skewed += 1;
                        state.skew.note_refused(connection.client.ip(), *secs, self.now_secs());
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Takes note of the clock of a client that has gone on to Telegram.
    pub(in crate::proxy) fn note_clock(&self, client: IpAddr, skew_secs: i64) {
        // 'mtg doctor --health' comes from here again and again and has our own clock, right or wrong.
        if !client.is_loopback() || skew_secs.abs() > 1 {
            self.lock().skew.note(client, skew_secs, self.now_secs());
        }
    }

    /// Writes into the log for as long as it is polled.
    pub(in crate::proxy) async fn log_forever(&self) {
        loop {
            Timer::after(EVERY).await;
            self.log();
        }
    }

    fn log(&self) {
        let (minute, wrong_clock) = {
            let mut state = self.lock();
            (std::mem::take(&mut state.minute), state.skew.verdict(self.now_secs()))
        };
        if minute != Minute::default() {
            let Minute { clients, fronted, replays, skewed } = minute;
            log::info!("the last minute clients={clients} fronted={fronted} replays={replays} skewed={skewed}");
        }
        let Some((whose, secs)) = wrong_clock else { return };
        match whose {
            Whose::Ours { clients } => log::warn!(
                "the clock of this machine is wrong: it differs from the clocks of all clients; set it by NTP clients={clients} ahead_secs={}",
                -secs
            ),
            Whose::Theirs { client } => {
                log::warn!(
                    "the clock of a client is wrong, those of others agree with ours ip={client} ahead_secs={secs}"
                );
            }
            Whose::Either { client } => log::warn!(
                "the clocks of a client and of this machine differ, 'mtg doctor' tells whether ours is wrong ip={client} ahead_secs={secs}"
            ),
            Whose::Nobody { hellos } => log::warn!(
                "nobody gets in: whoever has the secret is turned away, because the clocks differ from that of this machine; 'mtg doctor' tells whether ours is wrong, then set it by NTP hellos={hellos} ahead_secs={secs}"
            ),
        }
    }

    fn now_secs(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
