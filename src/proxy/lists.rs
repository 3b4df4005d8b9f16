//! The lists of who may and who may not connect, kept up to date beside the connections.
//!
//! Each source keeps its last good copy for as long as no better one can be had, so a list server's trouble neither
//! lets anybody in nor shuts anybody out. A list that is off is never looked at. An allowlist that is on and of which
//! nothing has been loaded yet lets nobody in: whoever wrote it wanted to be sure of that.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_lite::future::zip;

use super::web::Web;
use super::{Shared, Signal};
use crate::config::{Defense, IpListSource, ListUrl};
use crate::event::{self, Event};
use crate::guard::iplist::{BadLines, Builder, Fault, IpList};
use crate::net::fetch::{self, Fetched, Page, Validators};
use crate::net::lan;
use crate::net::url::Url;
use crate::outcome::Outcome;

/// Pauses after failures of a source: each is twice the one before, up to the time between updates.
const RETRY: Duration = Duration::from_secs(10);
/// For one download, however slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(10 * 60);
/// The largest list, bytes.
const SIZE_MAX: u64 = 128 << 20;
/// Bytes of a file read at once.
const CHUNK: usize = 64 << 10;

/// Both lists.
pub(super) struct Lists {
    block: List,
    allow: List,
}

struct List {
    kind: event::IpList,
    state: Mutex<State>,
    /// Sent after a change of the settings.
    changed: Signal,
}

struct State {
    is_on: bool,
    update_each: Duration,
    concurrency: usize,
    sources: Vec<Arc<Source>>,
}

/// A file or a URL, and what was last loaded from it.
struct Source {
    place: ListUrl,
    copy: Mutex<Copy>,
}

struct Copy {
    list: Option<Arc<IpList>>,
    validators: Validators,
    bad: BadLines,
    /// When it is to be loaded.
    due: Instant,
    /// Pause after the next failure.
    retry: Duration,
    has_failed: bool,
}

impl Lists {
    /// Lists of which nothing is loaded yet.
    pub(super) fn new(defense: &Defense) -> Self {
        let lists = Self { block: List::new(event::IpList::Block), allow: List::new(event::IpList::Allow) };
        lists.apply(defense);
        lists
    }

    /// Takes settings. What was loaded from a source that stays is kept.
    pub(super) fn apply(&self, defense: &Defense) {
        self.block.apply(&defense.blocklist);
        self.allow.apply(&defense.allowlist);
    }

    /// Why an address may not connect, if so.
    pub(super) fn refusal(&self, ip: IpAddr) -> Option<Outcome> {
        if self.allow.contains(ip) == Some(false) {
            return Some(Outcome::NotAllowlisted);
        }
        (self.block.contains(ip) == Some(true)).then_some(Outcome::Blocklisted)
    }
}

/// Loads the lists whenever it is time to; never ends.
pub(super) async fn keep_fresh(shared: &Shared) {
    zip(shared.lists.block.keep_fresh(shared), shared.lists.allow.keep_fresh(shared)).await;
}

impl List {
    fn new(kind: event::IpList) -> Self {
        let state = State { is_on: false, update_each: Duration::ZERO, concurrency: 1, sources: Vec::new() };
        Self { kind, state: Mutex::new(state), changed: Signal::default() }
    }

    fn apply(&self, settings: &IpListSource) {
        let mut state = self.lock();
        let old = std::mem::take(&mut state.sources);
        let known = |place: &ListUrl| old.iter().find(|source| source.place == *place).cloned();
        *state = State {
            is_on: settings.enabled,
            update_each: settings.update_each,
            concurrency: settings.download_concurrency.into(),
            sources: settings
                .urls
                .iter()
                .filter(|_| settings.enabled)
                .map(|place| known(place).unwrap_or_else(|| Arc::new(Source::new(place.clone()))))
                .collect(),
        };
        self.changed.send();
    }

    /// Whether an address is in the list; none if the list is off.
    fn contains(&self, ip: IpAddr) -> Option<bool> {
        let state = self.lock();
        let is_in = |source: &Arc<Source>| source.lock().list.as_ref().is_some_and(|list| list.contains(ip));
        state.is_on.then(|| state.sources.iter().any(is_in))
    }

    async fn keep_fresh(&self, shared: &Shared) {
        let mut was_warned = false;
        loop {
            let (sources, update_each, concurrency, is_on) = {
                let state = self.lock();
                (state.sources.clone(), state.update_each, state.concurrency, state.is_on)
            };
            let now = Instant::now();
            let due = sources.iter().filter(|source| source.lock().due <= now).cloned().collect();
            if self.load_all(shared, due, update_each, concurrency).await {
                let entries = sources.iter().filter_map(|source| Some(source.lock().list.as_ref()?.networks())).sum();
                shared.recorder.record(&Event::ListLoaded { list: self.kind, entries });
            }
            let is_empty = sources.iter().all(|source| source.lock().list.is_none());
            if self.kind == event::IpList::Allow && is_on && is_empty && !was_warned {
                was_warned = true;
                log::warn!("the allowlist could not be loaded yet, NOBODY may connect until it is");
            }
            let due = sources.iter().map(|source| source.lock().due).min();
            let timer = due.map_or_else(Timer::never, Timer::at);
            self.changed.wait().or(async { _ = timer.await }).await;
        }
    }

    /// Loads sources, not more than `concurrency` at the same time, and says whether any has brought a new list.
    async fn load_all(
        &self,
        shared: &Shared,
        due: Vec<Arc<Source>>,
        update_each: Duration,
        concurrency: usize,
    ) -> bool {
        let has_changed = AtomicBool::new(false);
        let count = concurrency.clamp(1, due.len().max(1));
        let queue = Mutex::new(due.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let worker = || async {
            while let Some(source) = next() {
                if source.refresh(shared, self.kind, update_each).await {
                    has_changed.store(true, Ordering::Relaxed);
                }
            }
        };
        let mut workers: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
        workers.extend((0..count).map(|_| Box::pin(worker()) as Pin<Box<_>>));
        poll_fn(|context| {
            workers.retain_mut(|worker| worker.as_mut().poll(context).is_pending());
            if workers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(workers);
        has_changed.into_inner()
    }

    /// The settings are whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a source had for us.
enum Loaded {
    Unchanged,
    New(IpList, BadLines, Validators),
}

impl Source {
    fn new(place: ListUrl) -> Self {
        let copy = Copy {
            list: None,
            validators: Validators::default(),
            bad: BadLines::default(),
            due: Instant::now(),
            retry: RETRY,
            has_failed: false,
        };
        Self { place, copy: Mutex::new(copy) }
    }

    /// Loads the list and decides when to do so again. Says whether there is a new one.
    async fn refresh(&self, shared: &Shared, kind: event::IpList, update_each: Duration) -> bool {
        let loaded = match &self.place {
            ListUrl::File(path) => {
                let path = path.clone();
                smol::unblock(move || read_file(&path)).await
            }
            ListUrl::Url(text) => self.download(shared, text).await,
        };
        let (place, mut copy) = (self.shown(), self.lock());
        match loaded {
            Ok(loaded) => {
                let is_new = matches!(loaded, Loaded::New(..));
                if let Loaded::New(list, bad, validators) = loaded {
                    let networks = list.networks();
                    log::info!("list loaded list={kind} source={place} networks={networks} bytes={}", list.bytes());
                    if bad.count > 0 && bad != copy.bad {
                        let BadLines { count, first } = bad;
                        log::warn!(
                            "a list has lines that are no network, they are left out list={kind} source={place} lines={count} first={first}"
                        );
                    }
                    if kind == event::IpList::Block {
                        warn_of_lan(&list, &place, shared.config().bind_to);
                    }
                    *copy = Copy { list: Some(Arc::new(list)), validators, bad, ..*copy };
                }
                (copy.retry, copy.has_failed) = (RETRY, false);
                copy.due = Instant::now() + update_each;
                is_new
            }
            Err(error) => {
                let kept = if copy.list.is_some() { "the last good copy stays" } else { "there is no copy of it" };
                if copy.has_failed {
                    log::debug!("cannot load a list, {kept} list={kind} source={place} error={error}");
                } else {
                    log::warn!("cannot load a list, {kept} list={kind} source={place} error={error}");
                }
                copy.has_failed = true;
                copy.due = Instant::now() + copy.retry.min(update_each);
                copy.retry = copy.retry.saturating_mul(2);
                false
            }
        }
    }

    async fn download(&self, shared: &Shared, text: &str) -> Result<Loaded, String> {
        let url = Url::parse(text).ok_or("the URL cannot be asked for")?;
        let known = self.lock().validators.clone();
        let patience = shared.config().network.timeout.http;
        let page = Page { url: &url, known: &known, patience, limit: DOWNLOAD_LIMIT, size_max: SIZE_MAX };
        let mut builder = Builder::default();
        match fetch::fetch(&Web(shared), &page, &mut |part| builder.feed(part)).await {
            Ok(Fetched::Unchanged) => Ok(Loaded::Unchanged),
            Ok(Fetched::New(validators)) => {
                let (list, bad) = smol::unblock(move || builder.finish()).await.map_err(explained)?;
                // A file without a line is the owner's wish, a page without one is a server's mishap.
                if list.networks() == 0 {
                    return Err("there is nothing in it".to_owned());
                }
                Ok(Loaded::New(list, bad, validators))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// For logs: a URL without its password.
    fn shown(&self) -> String {
        match &self.place {
            ListUrl::File(path) => path.display().to_string(),
            ListUrl::Url(text) => Url::parse(text).map(|url| url.to_string()).unwrap_or_default(),
        }
    }

    /// A copy is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file; on a thread where that may take its time.
fn read_file(path: &Path) -> Result<Loaded, String> {
    use std::io::Read as _;
    let explain = |error: std::io::Error| error.to_string();
    // Opening a pipe would wait for somebody who writes.
    let length = std::fs::metadata(path).map_err(explain)?;
    if !length.is_file() {
        return Err("this is not a file".to_owned());
    }
    let mut file = std::fs::File::open(path).map_err(explain)?.take(SIZE_MAX + 1);
    let (mut builder, mut chunk, mut total) = (Builder::default(), vec![0; CHUNK], 0u64);
    loop {
        let count = file.read(&mut chunk).map_err(explain)?;
        total += count as u64;
        match count {
            0 => break,
            _ if total > SIZE_MAX => return Err("the file is too large".to_owned()),
            count => builder.feed(chunk.get(..count).unwrap_or_default()),
        }
    }
    let (list, bad) = builder.finish().map_err(explained)?;
    Ok(Loaded::New(list, bad, Validators::default()))
}

fn explained(fault: Fault) -> String {
    match fault {
        Fault::Garbage => "this is no list of networks".to_owned(),
        Fault::TooLarge => "the list has too many networks".to_owned(),
    }
}

/// Lists of addresses that nobody should come from contain the private ones: people at home come from there.
fn warn_of_lan(list: &IpList, place: &str, bind_to: SocketAddr) {
    let served = lan::served(bind_to);
    if let Some((first, last)) = served.into_iter().find(|&(first, last)| list.overlaps(first.into(), last.into())) {
        log::warn!(
            "the blocklist shuts out a network of this machine, whoever is in it cannot connect source={place} network={first}-{last}"
        );
    }
}
