//! Why the front does not answer a client's hello as it should: the server's own reason, or a PROXY header that one side
//! wants and the other does not.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::proto::tls::refusal::Refusal;
use crate::proxy::Shared;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answers as soon as it gets a PROXY header.
    WantsHeader,
    /// It answers as soon as it gets none.
    MindsHeader,
    /// It does not answer either way.
    Refuses(Refusal),
}

impl Fault {
    /// From what the server says as configured, and whether it answers if the PROXY header is as it is not configured.
    pub(crate) fn new(refusal: Refusal, sends_header: bool, answers_otherwise: bool) -> Self {
        match (answers_otherwise, sends_header) {
            (true, true) => Self::MindsHeader,
            (true, false) => Self::WantsHeader,
            (false, _) => Self::Refuses(refusal),
        }
    }

    /// What the owner can do.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::WantsHeader => "set domain-fronting.proxy-protocol = true",
            Self::MindsHeader => "set domain-fronting.proxy-protocol = false, or let the web server take PROXY headers",
            Self::Refuses(Refusal::UnknownName) => {
                "set domain-fronting.host to a server that has the site, or make a secret with a name that it has (mtg \
                 generate-secret HOST; the links change)"
            }
            Self::Refuses(Refusal::OldTls) => {
                "let the web server speak TLS 1.3 (nginx: ssl_protocols TLSv1.2 TLSv1.3), or choose another web site (mtg \
                 generate-secret HOST; the links change)"
            }
            Self::Refuses(_) => {
                "choose another web site (mtg generate-secret HOST; the links change), or name a server that works in \
                 domain-fronting.host"
            }
        }
    }

    /// Whether a PROXY header may be the cause of it.
    pub(crate) fn may_be_a_header(refusal: Refusal) -> bool {
        matches!(refusal, Refusal::Silent | Refusal::NotTls | Refusal::Alert(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WantsHeader => f.write_str("it wants a PROXY header, which mtg does not send it"),
            Self::MindsHeader => f.write_str("it cannot read the PROXY header that mtg sends it"),
            Self::Refuses(refusal) => refusal.fmt(f),
        }
    }
}

/// What the owner was told last, and when.
#[derive(Default)]
pub(in crate::proxy) struct LastReport(Mutex<Option<(Fault, Instant)>>);

/// Time between two lines of one fault.
const EVERY: Duration = Duration::from_secs(60 * 60);

impl LastReport {
    /// The next fault is told, whatever it is.
    pub(in crate::proxy) fn forget(&self) {
        *self.lock() = None;
    }

    /// Says whether a fault is to be told now, and takes note of it.
    fn is_news(&self, fault: Fault) -> bool {
        let mut last = self.lock();
        let is_news = last.is_none_or(|(reported, time)| reported != fault || time.elapsed() >= EVERY);
        if is_news {
            *last = Some((fault, Instant::now()));
        }
        is_news
    }

    /// A pair is never half written, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Option<(Fault, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server itself says about why a sample failed, if it was reached.
pub(in crate::proxy) fn refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref().copied()
}

/// Tells the owner why the front does not answer. `otherwise` asks it with a PROXY header if it gets none, and without
/// one if it does.
pub(in crate::proxy) async fn tell(shared: &Shared, error: &io::Error, otherwise: impl Future<Output = bool>) {
    let Some(refusal) = refusal(error).filter(|_| !shared.loops.is_found()) else { return };
    let config = shared.config();
    let answers_otherwise = Fault::may_be_a_header(refusal) && otherwise.await;
    let fault = Fault::new(refusal, config.domain_fronting.proxy_protocol, answers_otherwise);
    if shared.front_fault.is_news(fault) {
        log::warn!(
            "the front does not answer as a web site of today, which a censor can see: {fault}; {} host={}",
            fault.remedy(),
            config.secret.host()
        );
    }
}
