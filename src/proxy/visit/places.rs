//! The places of connections: who has to give way is for `guard::limits` to say; here they learn of it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::FutureExt as _;

use crate::guard::limits::{Caps, Limits, Preemption, Ticket};
use crate::log::Limited;
use crate::proxy::relay::Seat;

/// All places; clones have the same.
#[derive(Clone)]
pub(in crate::proxy) struct Places(Arc<Mutex<State>>);

struct State {
    limits: Limits,
    /// One for each ticket that there ever was.
    bells: Vec<Bell>,
}

/// How a connection learns that it has to give way.
#[derive(Default)]
enum Bell {
    /// It asks when it is ready to.
    #[default]
    Silent,
    /// It waits for it.
    Waker(Waker),
    /// The relay has it.
    Seat(Arc<Seat>),
    /// It has not asked yet.
    Rung(Preemption),
}

/// A connection's place. Dropping it frees the place.
pub(in crate::proxy) struct Place {
    places: Places,
    ticket: Ticket,
}

impl Places {
    pub(in crate::proxy) fn new(caps: Caps) -> Self {
        Self(Arc::new(Mutex::new(State { limits: Limits::new(caps), bells: Vec::new() })))
    }

    /// Gives a new connection its place, if there is one.
    pub(in crate::proxy) fn admit(&self, address: IpAddr) -> Option<Place> {
        let ticket = self.change(|state| {
            let ticket = state.limits.admit(address)?;
            state.bells.resize_with(state.bells.len().max(ticket.number() + 1), Bell::default);
            state.set_bell(ticket, Bell::Silent);
            Some(ticket)
        });
        if ticket.is_none() {
            warn_none();
        }
        ticket.map(|ticket| Place { places: self.clone(), ticket })
    }

    /// Connections that are not closed yet.
    pub(in crate::proxy) fn total(&self) -> usize {
        self.change(|state| state.limits.total())
    }

    /// Makes a change and rings the bells of those who have to give way because of it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, mut ringing) = {
            // The state is whole whenever the lock is free, so a poisoned lock is as good as any.
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (change(&mut state), state.ring())
        };
        // Not under the lock, for what is told may end at once.
        while let Some((bell, preemption)) = ringing.pop_front() {
            // Who is outweighed waits for a front that cannot be reached, and of that the owner is told.
            if preemption == Preemption::Evicted {
                warn_full();
            }
            match bell {
                Bell::Waker(waker) => waker.wake(),
                Bell::Seat(seat) => seat.cut(),
                Bell::Silent | Bell::Rung(_) => {}
            }
        }
        result
    }
}

impl State {
    /// The bells of those who have to give way.
    fn ring(&mut self) -> VecDeque<(Bell, Preemption)> {
        let mut ringing = VecDeque::new();
        while let Some((ticket, preemption)) = self.limits.next_preempted() {
            if let Some(bell) = self.bells.get_mut(ticket.number()) {
                ringing.push_back((std::mem::replace(bell, Bell::Rung(preemption)), preemption));
            }
        }
        ringing
    }

    /// Takes back a bell that has not been heard and says no more than that the connection counts as one at the front,
    /// now that it is known what it counts as. That it has no place any more stays to be heard.
    fn forget_decision(&mut self, ticket: Ticket) {
        if let Some(bell) = self.bells.get_mut(ticket.number())
            && matches!(bell, Bell::Rung(Preemption::AddressLimited | Preemption::MemoryLimited))
        {
            *bell = Bell::Silent;
        }
    }

    fn set_bell(&mut self, ticket: Ticket, wanted: Bell) {
        if let Some(bell) = self.bells.get_mut(ticket.number()) {
            *bell = wanted;
        }
    }
}

impl Place {
    /// Counts the place for the address that it is known to be of now.
    pub(in crate::proxy) fn identify(&self, address: IpAddr) {
        self.places.change(|state| {
            state.limits.identify(self.ticket, address);
            state.forget_decision(self.ticket);
        });
    }

    /// Takes note of how many bytes of a hello are kept.
    pub(in crate::proxy) fn hold(&self, bytes: usize) {
        self.places.change(|state| state.limits.hold(self.ticket, bytes));
    }

    /// The connection turned out to be one for the front, which keeps its place, with so many bytes for it; says whether
    /// it still has one.
    pub(in crate::proxy) fn fronted(&self, bytes: usize) -> bool {
        self.places.change(|state| {
            let has_place = state.limits.fronted(self.ticket) && state.limits.carry(self.ticket, bytes);
            state.forget_decision(self.ticket);
            has_place
        })
    }

    /// The connection's hello was a client's, or a recording of one: few take its place from it before it goes on.
    pub(in crate::proxy) fn answered(&self, address: IpAddr) {
        self.places.change(|state| {
            state.limits.answered(self.ticket, address);
            state.set_bell(self.ticket, Bell::Silent);
        });
    }

    /// The connection turned out to be a client's: nobody takes its place from it.
    pub(in crate::proxy) fn authenticated(&self) {
        self.places.change(|state| {
            state.limits.authenticated(self.ticket);
            state.set_bell(self.ticket, Bell::Silent);
        });
    }

    /// A connection at the front has moved bytes.
    pub(in crate::proxy) fn moved(&self) {
        self.places.change(|state| state.limits.moved(self.ticket));
    }

    /// The relay takes the connection; says whether it still has its place.
    pub(in crate::proxy) fn take_seat(&self, seat: Arc<Seat>) -> bool {
        self.places.change(|state| {
            let has_place = state.limits.fronted(self.ticket) && state.limits.carry(self.ticket, 0);
            state.set_bell(self.ticket, Bell::Seat(seat));
            has_place
        })
    }

    /// Waits for `future`, unless the connection has to give way before that.
    pub(in crate::proxy) async fn unless_preempted<T>(&self, future: impl Future<Output = T>) -> Result<T, Preemption> {
        async { Ok(future.await) }.or(async { Err(poll_fn(|context| self.poll_preempted(context)).await) }).await
    }

    fn poll_preempted(&self, context: &mut Context<'_>) -> Poll<Preemption> {
        self.places.change(|state| {
            let Some(bell) = state.bells.get_mut(self.ticket.number()) else { return Poll::Pending };
            if let Bell::Rung(preemption) = *bell {
                *bell = Bell::Silent;
                return Poll::Ready(preemption);
            }
            *bell = Bell::Waker(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.change(|state| state.limits.release(self.ticket));
    }
}

fn warn_none() {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!(
            "all places are taken by clients, so that nobody else can connect; with more 'concurrency' or, on a small \
             machine, 'memory' there are more places{left_out}"
        );
    }
}

/// Tells the owner that an address has as many connections as it may have that nobody knows yet.
pub(in crate::proxy) fn warn_of_cap(address: IpAddr) {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!(
            "one address has as many connections as 'handshakes-per-ip' lets it have before they turn out to be clients': \
             if all visitors come from it, a router or Docker's proxy hides theirs (host networking or \
             proxy-protocol-listener shows them), else somebody tries out the proxy ip={address}{left_out}"
        );
    }
}

fn warn_full() {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!(
            "strangers have all the places that they may have, so whoever has most of them gives way to newcomers; \
             clients are not affected, but with more 'memory' or 'concurrency' there are more places{left_out}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn one_place() -> (Places, Place) {
        let places = Places::new(Caps { total: 20, strangers: 1, undecided_per_address: 1, hello_bytes: 1 });
        let place = places.admit([192, 0, 2, 1].into()).unwrap();
        (places, place)
    }

    /// The same of an address that may have one undecided.
    fn one_undecided(address: [u8; 4]) -> (Places, Place) {
        let places = Places::new(Caps { total: 20, strangers: 10, undecided_per_address: 1, hello_bytes: 1 });
        let place = places.admit(address.into()).unwrap();
        (places, place)
    }

    /// What a place learns that does not wait for long.
    fn ask(place: &Place) -> Poll<Result<(), Preemption>> {
        pin!(place.unless_preempted(std::future::pending::<()>())).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_is_at_the_front_anyway_hears_no_bell_that_would_send_it_there() {
        let (places, place) = one_undecided([192, 0, 2, 1]);
        let _newcomer = places.admit([192, 0, 2, 1].into()).unwrap();
        assert!(place.fronted(0));
        assert_eq!(ask(&place), Poll::Pending);
        // Nobody's memory is less either.
        let larger = places.admit([192, 0, 2, 2].into()).unwrap();
        larger.hold(2);
        assert!(larger.fronted(0));
        assert_eq!(ask(&larger), Poll::Pending);
        // Who has lost its place has to know.
        let (places, place) = one_place();
        let _newcomer = places.admit([192, 0, 2, 2].into()).unwrap();
        assert!(!place.fronted(0));
        assert_eq!(ask(&place), Poll::Ready(Err(Preemption::Evicted)));
    }

    #[test]
    fn a_bell_for_the_balancers_count_is_none_of_the_clients_business() {
        let (places, place) = one_undecided([192, 0, 2, 1]);
        let _newcomer = places.admit([192, 0, 2, 1].into()).unwrap();
        place.identify([198, 51, 100, 1].into());
        assert_eq!(ask(&place), Poll::Pending);
        // Its own address' count is.
        let other = places.admit([192, 0, 2, 2].into()).unwrap();
        other.identify([198, 51, 100, 1].into());
        assert_eq!(ask(&place), Poll::Ready(Err(Preemption::AddressLimited)));
        // Who has lost its place has to know.
        let (places, place) = one_place();
        let _newcomer = places.admit([192, 0, 2, 2].into()).unwrap();
        place.identify([198, 51, 100, 1].into());
        assert_eq!(ask(&place), Poll::Ready(Err(Preemption::Evicted)));
    }

    #[test]
    fn who_waits_is_woken_and_learns_why() {
        let (places, place) = one_place();
        let woken = Arc::new(Woken::default());
        let mut waiting = pin!(place.unless_preempted(std::future::pending::<()>()));
        let waker = woken.clone().into();
        let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending() && !woken.0.load(Ordering::Relaxed));
        let _newcomer = places.admit([192, 0, 2, 2].into()).unwrap();
        assert!(woken.0.load(Ordering::Relaxed));
        assert_eq!(poll(), Poll::Ready(Err(Preemption::Evicted)));
        assert!(!place.fronted(0));
    }

    #[test]
    fn who_is_not_waiting_learns_it_when_it_asks() {
        let (places, place) = one_place();
        let newcomer = places.admit([192, 0, 2, 2].into()).unwrap();
        let ended = async_io::block_on(place.unless_preempted(std::future::pending::<()>()));
        assert_eq!(ended, Err(Preemption::Evicted));
        // The next of this number has a bell of its own.
        drop(place);
        newcomer.authenticated();
        let next = places.admit([192, 0, 2, 1].into()).unwrap();
        assert!(
            pin!(next.unless_preempted(std::future::pending::<()>()))
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(places.total(), 2);
    }
}
