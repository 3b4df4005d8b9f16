//! The lists of who may and who may not connect, kept up to date beside the connections.
//!
//! Each source keeps its last good copy for as long as no better one can be had, so a list server's trouble neither
//! lets anybody in nor shuts anybody out. A list that is off is never looked at. An allowlist that is on and of which
//! nothing has been loaded yet lets nobody in: whoever wrote it wanted to be sure of that.

use std::fmt;
use std::future::{Future, pending, poll_fn};
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
use smol::lock::Semaphore;

use crate::config::{Defense, IpListSource, ListUrl};
use crate::event::{self, Event};
use crate::guard::iplist::{BadLines, Builder, Fault, IpList, Room};
use crate::net::fetch::{self, Fetched, Page, Validators};
use crate::net::lan;
use crate::outcome::Outcome;
use crate::proto::url::Url;
use crate::proxy::Shared;
use crate::proxy::signal::Signal;
use crate::proxy::telegram::detour::Detour;

/// Pauses after failures of a source: each is twice the one before, up to the time between updates.
const RETRY: Duration = Duration::from_secs(10);
/// How long a source that is loaded counts among those that are loaded at the same time.
const SLOW: Duration = Duration::from_secs(10);
/// For one download, however slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(10 * 60);
/// The largest list, bytes.
const SIZE_MAX: u64 = 128 << 20;
/// Bytes of a file read at once.
const CHUNK: usize = 64 << 10;

/// Both lists.
pub(in crate::proxy) struct Lists {
    block: List,
    allow: List,
    /// Memory for the copies that there are and for those that are read.
    room: Room,
    /// What the copies may have of it. As much again is for new ones, which are read while the old ones serve.
    copies_max: usize,
}

struct List {
    kind: event::IpList,
    has_warned: AtomicBool,
    state: Mutex<State>,
    /// Sent after a change of the settings.
    changed: Signal,
}

struct State {
    is_on: bool,
    update_each: Duration,
    /// For sources that are loaded.
    places: Arc<Semaphore>,
    sources: Vec<Arc<Source>>,
}

/// A file or a URL, and what was last loaded from it.
struct Source {
    place: ListUrl,
    copy: Mutex<Copy>,
    /// Sent when the settings are taken anew.
    reloaded: Signal,
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
    /// Lists of which nothing is loaded yet, and the bytes that they may take.
    pub(in crate::proxy) fn new(defense: &Defense, memory: usize) -> Self {
        let (block, allow) = (List::new(event::IpList::Block), List::new(event::IpList::Allow));
        let lists = Self { block, allow, room: Room::new(memory), copies_max: memory / 2 };
        lists.apply(defense);
        lists
    }

    /// Takes settings. What was loaded from a source that stays is kept, and is loaded anew if that may be wanted.
    pub(in crate::proxy) fn apply(&self, defense: &Defense) {
        self.block.apply(&defense.blocklist);
        self.allow.apply(&defense.allowlist);
    }

    /// Reads a copy of a source, for which others leave it room.
    fn builder(&self, source: &Source) -> Builder {
        let others = self.block.bytes_without(source) + self.allow.bytes_without(source);
        Builder::new(self.room.clone(), self.copies_max.saturating_sub(others))
    }

    /// Why an address may not connect, if so.
    pub(in crate::proxy) fn refusal(&self, ip: IpAddr) -> Option<Outcome> {
        if self.allow.contains(ip) == Some(false) {
            return Some(Outcome::NotAllowlisted);
        }
        (self.block.contains(ip) == Some(true)).then_some(Outcome::Blocklisted)
    }
}

/// Loads the lists whenever it is time to; never ends.
pub(in crate::proxy) async fn keep_fresh(shared: &Shared) {
    zip(shared.lists.block.keep_fresh(shared), shared.lists.allow.keep_fresh(shared)).await;
}

impl List {
    fn new(kind: event::IpList) -> Self {
        let places = Arc::new(Semaphore::new(1));
        let state = State { is_on: false, update_each: Duration::ZERO, places, sources: Vec::new() };
        Self { kind, has_warned: AtomicBool::new(false), state: Mutex::new(state), changed: Signal::default() }
    }

    fn apply(&self, settings: &IpListSource) {
        let mut state = self.lock();
        let old = std::mem::take(&mut state.sources);
        old.iter().for_each(|source| source.reloaded.send());
        let known = |place: &ListUrl| old.iter().find(|source| source.place == *place).cloned();
        *state = State {
            is_on: settings.enabled,
            update_each: settings.update_each,
            places: Arc::new(Semaphore::new(usize::from(settings.download_concurrency).max(1))),
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

    /// Each source goes its own way, so that none waits for another that is slow.
    async fn keep_fresh(&self, shared: &Shared) {
        let mut running: Vec<(Arc<Source>, Refreshing<'_>)> = Vec::new();
        loop {
            let sources = self.lock().sources.clone();
            let before = running.len();
            running.retain(|(source, _)| sources.iter().any(|wanted| Arc::ptr_eq(wanted, source)));
            if running.len() < before {
                self.tell_size(shared);
            }
            for source in sources {
                if !running.iter().any(|(known, _)| Arc::ptr_eq(known, &source)) {
                    running.push((source.clone(), Box::pin(self.keep_source_fresh(shared, source))));
                }
            }
            self.warn_of_empty();
            let all = poll_fn(|context| {
                running.iter_mut().for_each(|(_, refreshing)| _ = refreshing.as_mut().poll(context));
                Poll::Pending
            });
            self.changed.wait().or(all).await;
        }
    }

    async fn keep_source_fresh(&self, shared: &Shared, source: Arc<Source>) {
        loop {
            source.wait_until_due(|| self.lock().update_each).await;
            let loaded = self.in_place(source.load(shared)).await;
            let update_each = self.lock().update_each;
            if source.take(loaded, self.kind, update_each, shared.config().bind_to) {
                self.tell_size(shared);
            }
            self.warn_of_empty();
        }
    }

    fn tell_size(&self, shared: &Shared) {
        shared.recorder.record(&Event::ListLoaded { list: self.kind, entries: self.networks() });
    }

    /// Loads when it is its turn. Who is slow does not count any more after a while.
    async fn in_place<T>(&self, load: impl Future<Output = T>) -> T {
        let places = self.lock().places.clone();
        let place = places.acquire_arc().await;
        let late = async {
            Timer::after(SLOW).await;
            drop(place);
            pending().await
        };
        load.or(late).await
    }

    fn networks(&self) -> usize {
        let state = self.lock();
        state.sources.iter().filter_map(|source| Some(source.lock().list.as_ref()?.networks())).sum()
    }

    /// Bytes of what is loaded from other sources than that.
    fn bytes_without(&self, source: &Source) -> usize {
        let state = self.lock();
        let others = state.sources.iter().filter(|other| !std::ptr::eq(Arc::as_ptr(other), source));
        others.filter_map(|other| Some(other.lock().list.as_ref()?.bytes())).sum()
    }

    /// Warns once of an allowlist that lets nobody in because all of its sources have failed.
    fn warn_of_empty(&self) {
        let state = self.lock();
        let has_failed = |source: &Arc<Source>| {
            let copy = source.lock();
            copy.has_failed && copy.list.is_none()
        };
        if self.kind == event::IpList::Allow
            && state.is_on
            && state.sources.iter().all(has_failed)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            log::warn!("the allowlist could not be loaded yet, NOBODY may connect until it is");
        }
    }

    /// The settings are whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source that is kept fresh; it never ends.
type Refreshing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Why there is no new copy.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// Only for the moment.
    Crowded,
    Other(String),
}

/// What a source had for us.
enum Loaded {
    Unchanged,
    New(Arc<IpList>, BadLines, Validators),
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
        Self { place, copy: Mutex::new(copy), reloaded: Signal::default() }
    }

    /// Waits for the time at which it is to be loaded, which a reload may bring forward. One that comes while it is
    /// loaded counts afterwards.
    async fn wait_until_due(&self, update_each: impl Fn() -> Duration) {
        loop {
            let due = self.lock().due;
            let is_reloaded = async {
                self.reloaded.wait().await;
                true
            };
            let is_due = async {
                Timer::at(due).await;
                false
            };
            if !is_reloaded.or(is_due).await {
                return;
            }
            self.bring_forward(update_each());
        }
    }

    /// After a reload: its owner wants to see at once what has been done to a file, and that a failure is mended.
    fn bring_forward(&self, update_each: Duration) {
        let (now, mut copy) = (Instant::now(), self.lock());
        // The pause has grown since the last good load.
        let has_failed = copy.retry > RETRY;
        let is_wanted = has_failed || matches!(self.place, ListUrl::File(_));
        copy.due = if is_wanted { now } else { copy.due.min(now + update_each) };
        // Another failure is news to its owner.
        (copy.retry, copy.has_failed) = (RETRY, false);
    }

    async fn load(&self, shared: &Shared) -> Result<Loaded, Trouble> {
        let builder = shared.lists.builder(self);
        match &self.place {
            ListUrl::File(path) => {
                let path = path.clone();
                smol::unblock(move || read_file(&path, builder)).await
            }
            ListUrl::Url(url) => self.download(shared, url, builder).await,
        }
    }

    /// Takes what was loaded and decides when to load again. Says whether there is a new list.
    fn take(
        &self,
        loaded: Result<Loaded, Trouble>,
        kind: event::IpList,
        update_each: Duration,
        bind_to: SocketAddr,
    ) -> bool {
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
                        warn_of_lan(&list, &place, bind_to);
                    }
                    *copy = Copy { list: Some(list), validators, bad, ..*copy };
                }
                (copy.retry, copy.has_failed) = (RETRY, false);
                copy.due = Instant::now() + update_each;
                is_new
            }
            Err(trouble) => {
                let kept = if copy.list.is_some() { "the last good copy stays" } else { "there is no copy of it" };
                let is_known = copy.has_failed || trouble == Trouble::Crowded;
                let level = if is_known { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "cannot load a list, {kept} list={kind} source={place} error={trouble}");
                copy.has_failed |= trouble != Trouble::Crowded;
                copy.due = Instant::now() + copy.retry.min(update_each);
                copy.retry = copy.retry.saturating_mul(2);
                false
            }
        }
    }

    async fn download(&self, shared: &Shared, url: &Url, mut builder: Builder) -> Result<Loaded, Trouble> {
        let known = self.lock().validators.clone();
        let patience = shared.config().network.timeout.http;
        let page = Page { url, known: &known, patience, limit: DOWNLOAD_LIMIT, size_max: SIZE_MAX };
        let fetched = fetch::fetch(&Detour(shared), &page, &mut |part| builder.feed(part)).await;
        if matches!(fetched, Ok(Fetched::Unchanged)) {
            return Ok(Loaded::Unchanged);
        }
        if let Err(error) = fetched {
            // Why it takes no more says more than that it does not.
            return Err(builder.fault().map_or_else(|| Trouble::Other(error.to_string()), Trouble::from));
        }
        let (list, bad) = builder.finish()?;
        // A file without a line is the owner's wish, a page without one is a server's mishap.
        match fetched {
            Ok(Fetched::New(validators)) if list.networks() > 0 => Ok(Loaded::New(Arc::new(list), bad, validators)),
            _ => Err(Trouble::Other("there is nothing in it".to_owned())),
        }
    }

    /// For logs: a URL without its password.
    fn shown(&self) -> String {
        match &self.place {
            ListUrl::File(path) => path.display().to_string(),
            ListUrl::Url(url) => url.to_string(),
        }
    }

    /// A copy is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file; on a thread where that may take its time.
fn read_file(path: &Path, mut builder: Builder) -> Result<Loaded, Trouble> {
    use std::io::Read as _;
    let explain = |error: std::io::Error| Trouble::Other(error.to_string());
    // Opening a pipe would wait for somebody who writes.
    let length = std::fs::metadata(path).map_err(explain)?;
    if !length.is_file() {
        return Err(Trouble::Other("this is not a file".to_owned()));
    }
    let mut file = std::fs::File::open(path).map_err(explain)?.take(SIZE_MAX + 1);
    let (mut chunk, mut total) = (vec![0; CHUNK], 0u64);
    loop {
        let count = file.read(&mut chunk).map_err(explain)?;
        total += count as u64;
        if total > SIZE_MAX {
            return Err(Trouble::Other("the file is too large".to_owned()));
        }
        if count == 0 || !builder.feed(chunk.get(..count).unwrap_or_default()) {
            break;
        }
    }
    let (list, bad) = builder.finish()?;
    Ok(Loaded::New(Arc::new(list), bad, Validators::default()))
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Garbage => Self::Other("this is no list of networks".to_owned()),
            Fault::TooLarge { limit } => Self::Other(format!(
                "it takes more than the {} KB that are left for it, give mtg more (memory) or choose a shorter list",
                limit >> 10
            )),
            Fault::Crowded => Self::Crowded,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crowded => "other lists are loaded now, there is no memory for this one at the same time",
            Self::Other(text) => text,
        })
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
