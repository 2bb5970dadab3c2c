//! The places of connections: their number, the share of each address, and who gives way when they run out.
//!
//! When all places are taken, the oldest connection whose client never authenticated is closed for a new one, once it
//! has had time to do so. Until then the new one waits: otherwise those who connect over and over again would keep
//! everyone else from authenticating. One that is late with the body of a known client's request gives way next. If the
//! clients of all connections are known, the one that was idle longest is ended, as an idle connection may be at any
//! time; if none is idle, the new one waits. An address may have a share of the places. Within its share it evicts its
//! own connections, so that it cannot take the places of others; if none of them gives way, the new one is closed.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::config::Network;

/// Most bytes of heads of all connections without a request in progress, without [`HEAD_BYTES_FREE`] of each.
/// *Chosen*: 340 heads of 32 KiB at once.
const HEADS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The bytes of a head that need no room. *Derived*: the buffer that every connection has.
pub(super) const HEAD_BYTES_FREE: usize = 8 * 1024;

/// The time that a new client has for its first request. *Chosen*: a round trip across the world and a half. A full
/// listener serves as many new clients in that time as it has places.
const REQUEST_DUE: Duration = Duration::from_millis(500);

/// The time after which a client gives way even while its request is handled. *Chosen*: keys may have to be fetched
/// before a token can be judged.
const IDENTITY_DUE: Duration = Duration::from_secs(10);

/// The time for the body of a request, if a new connection waits for the place. *Chosen*: a usual body arrives with its
/// head, and one of 4 MiB in a second at 32 Mbit/s; a client that gives way may send its request again.
const BODY_DUE: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    max: usize,
    per_address_max: usize,
    /// The networks whose addresses have no share.
    without_share: Vec<Network>,
    state: Mutex<State>,
    /// Notified when a place was left, or while a new connection waits, when a connection became idle or known.
    left: Notify,
    waiting: AtomicU32,
    /// Room for the heads that are larger than usual.
    pub(super) heads: Arc<Semaphore>,
    begun: Instant,
    evicted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Arc<Place>>,
    addresses: HashMap<IpAddr, AddressState>,
    /// The connections whose client is not known, the oldest first.
    strangers: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct AddressState {
    open: usize,
    /// Those of its connections whose client is not known, the oldest first.
    strangers: BTreeSet<u64>,
}

/// An order to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve requests.
    Serve,
    /// End after the request in progress.
    Finish,
    /// End at once.
    Close,
}

/// The place of one connection, which its requests share.
#[derive(Debug)]
pub struct Place {
    number: u64,
    /// The client's address, or its network.
    address: IpAddr,
    pub(super) places: Arc<Places>,
    /// The client has authenticated a request.
    is_known: AtomicBool,
    order: AtomicU8,
    waker: AtomicWaker,
    closed: Notify,
    /// When the place was taken.
    since: Instant,
    /// The number of requests so far.
    pub(super) begun: AtomicU32,
    /// The number of requests in progress, or of their responses.
    open: AtomicU32,
    /// The number of `Content-Length` headers that were read, without those of the requests so far.
    lengths: AtomicI32,
    /// The time of the last request's end, in milliseconds since the listener began.
    idle_since: AtomicU64,
    /// The time since which a body is awaited, likewise; [`NO_BODY`] if none is.
    body_since: AtomicU64,
    /// Notified when the body that is awaited is given up.
    body_given_up: Notify,
}

/// No body is awaited.
const NO_BODY: u64 = u64::MAX;

/// A connection's hold of its place. Dropping it leaves the place.
#[derive(Debug)]
pub struct TakenPlace(Arc<Place>);

/// A request in progress on a connection. A connection with one is not idle.
#[derive(Debug)]
pub struct RequestInProgress(Arc<Place>);

/// A request in progress whose body is awaited.
#[derive(Debug)]
pub struct AwaitedBody<'a>(&'a Place);

/// Counts a new connection that waits for a place.
struct Waiting<'a>(&'a AtomicU32);

enum Attempt {
    Taken(TakenPlace),
    /// The address has its share, and none of its connections gives way.
    Refused,
    /// No connection gives way yet. One does at that time, if it is known.
    Full(Option<Instant>),
}

impl Places {
    /// `max` places, at most `per_address_max` for one address that is not in `without_share`. An IPv6 address is its
    /// network of 64 bits.
    #[must_use]
    pub fn new(max: usize, per_address_max: usize, without_share: Vec<Network>) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            per_address_max: per_address_max.max(1),
            without_share,
            state: Mutex::default(),
            left: Notify::new(),
            waiting: AtomicU32::new(0),
            heads: Arc::new(Semaphore::new(HEADS_BYTES_MAX)),
            begun: Instant::now(),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// The number of connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state.lock().open.len()
    }

    /// The number of connections that gave way to others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// The number of connections that were closed unserved, because their address had its share.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a place for a client of this address; waits if no connection gives way. `None`: the address has its share,
    /// and the connection is to be closed.
    ///
    /// # Cancel safety
    /// If the future is dropped, no place was taken.
    pub async fn take(self: &Arc<Self>, address: IpAddr) -> Option<TakenPlace> {
        // Counted before the first attempt, so that a request that ends after it wakes this future.
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            match self.try_take(address) {
                Attempt::Taken(place) => return Some(place),
                Attempt::Refused => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Attempt::Full(None) => left.await,
                Attempt::Full(Some(due)) => drop(tokio::time::timeout_at(due, left).await),
            }
        }
    }

    fn try_take(self: &Arc<Self>, address: IpAddr) -> Attempt {
        let has_share = !self.without_share.iter().any(|network| network.contains(address));
        let address = Network::of_customer(address);
        let mut state = self.state.lock();
        let own = state.addresses.get(&address);
        // I6: the connections of one address are bounded, and those of all.
        if has_share && own.is_some_and(|own| own.open >= self.per_address_max) {
            let oldest = own.and_then(|own| state.first_due(&own.strangers).ok());
            let Some(oldest) = oldest else { return Attempt::Refused };
            self.evict(&mut state, oldest, Order::Close);
        }
        if state.open.len() >= self.max
            && let Err(due) = self.give_way(&mut state)
        {
            return Attempt::Full(due);
        }
        let number = state.next;
        state.next += 1;
        let place = Arc::new(Place {
            number,
            address,
            places: Arc::clone(self),
            is_known: AtomicBool::new(false),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            closed: Notify::new(),
            since: Instant::now(),
            begun: AtomicU32::new(0),
            open: AtomicU32::new(0),
            lengths: AtomicI32::new(0),
            idle_since: AtomicU64::new(self.now()),
            body_since: AtomicU64::new(NO_BODY),
            body_given_up: Notify::new(),
        });
        state.open.insert(number, Arc::clone(&place));
        state.strangers.insert(number);
        let own = state.addresses.entry(address).or_default();
        own.open += 1;
        own.strangers.insert(number);
        Attempt::Taken(TakenPlace(place))
    }

    /// Evicts the connection that gives way first.
    ///
    /// # Errors
    /// None does yet. One does at that time, if it is known.
    fn give_way(&self, state: &mut State) -> Result<(), Option<Instant>> {
        let stranger_due = match state.first_due(&state.strangers) {
            Ok(oldest) => {
                self.evict(state, oldest, Order::Close);
                return Ok(());
            }
            Err(due) => due,
        };
        let latest = state.latest_body();
        let body_due = latest.as_ref().map(|(since, _)| self.begun + Duration::from_millis(*since) + BODY_DUE);
        if let Some((_, late)) = latest.filter(|_| body_due.is_some_and(|due| due <= Instant::now())) {
            late.body_given_up.notify_one();
            self.evict(state, late.number, Order::Finish);
            return Ok(());
        }
        match state.longest_idle().filter(|_| stranger_due.is_none()) {
            Some(idle) => self.evict(state, idle, Order::Finish),
            None => return Err(stranger_due.into_iter().chain(body_due).min()),
        }
        Ok(())
    }

    fn evict(&self, state: &mut State, number: u64, order: Order) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = state.remove(number) {
            place.give(order);
        }
    }

    /// Lets every connection end after its request in progress.
    pub(super) fn stop(&self) {
        for place in self.state.lock().open.values() {
            place.give(Order::Finish);
        }
    }

    /// Lets a new connection that waits try again.
    fn wake_waiting(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.left.notify_waiters();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Arc<Place>> {
        let place = self.open.remove(&number)?;
        self.strangers.remove(&number);
        if let Some(own) = self.addresses.get_mut(&place.address) {
            own.open -= 1;
            own.strangers.remove(&number);
            if own.open == 0 {
                self.addresses.remove(&place.address);
            }
        }
        Some(place)
    }

    /// The oldest of `strangers` that had time enough.
    ///
    /// # Errors
    /// When the first of them will have had it; `None` if there are no strangers.
    fn first_due(&self, strangers: &BTreeSet<u64>) -> Result<u64, Option<Instant>> {
        let (now, mut next) = (Instant::now(), None::<Instant>);
        for number in strangers {
            let Some(place) = self.open.get(number) else { continue };
            let is_idle = place.is_idle();
            let due = place.since + if is_idle { REQUEST_DUE } else { IDENTITY_DUE };
            if due <= now {
                return Ok(*number);
            }
            next = Some(next.map_or(due, |next| next.min(due)));
            if is_idle {
                break; // All others are younger.
            }
        }
        Err(next)
    }

    /// The connection that is awaiting a body for longest, and since when.
    fn latest_body(&self) -> Option<(u64, Arc<Place>)> {
        let since = |place: &Arc<Place>| place.body_since.load(Ordering::Relaxed);
        let latest = self.open.values().map(|place| (since(place), place)).min_by_key(|(since, _)| *since);
        latest.filter(|(since, _)| *since != NO_BODY).map(|(since, place)| (since, Arc::clone(place)))
    }

    fn longest_idle(&self) -> Option<u64> {
        let idle = self.open.values().filter(|place| place.is_idle());
        idle.min_by_key(|place| place.idle_since.load(Ordering::Relaxed)).map(|place| place.number)
    }
}

impl Place {
    /// Remembers that the client has authenticated a request: the connection no longer gives way as a stranger's.
    pub fn mark_known(&self) {
        if self.is_known.load(Ordering::Relaxed) || self.is_known.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.places.state.lock();
        state.strangers.remove(&self.number);
        if let Some(own) = state.addresses.get_mut(&self.address) {
            own.strangers.remove(&self.number);
        }
        drop(state);
        self.places.wake_waiting(); // It may have been the last one that a new connection waited for.
    }

    /// Begins a request with these headers. The connection is not idle until the returned value is dropped.
    #[must_use]
    pub fn begin_request(self: &Arc<Self>, headers: &HeaderMap) -> RequestInProgress {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if headers.contains_key(header::CONTENT_LENGTH) {
            self.lengths.fetch_sub(1, Ordering::Relaxed);
        }
        self.continue_request()
    }

    /// Returns true if a `Content-Length` header was read that no request has had. During a request with
    /// `Transfer-Encoding` it is that request's, removed by the HTTP library, or that of a request that the client sent
    /// before it had the response to this one.
    #[must_use]
    pub fn has_hidden_length(&self) -> bool {
        self.lengths.load(Ordering::Relaxed) > 0
    }

    /// Continues a request beyond its response's head.
    #[must_use]
    pub fn continue_request(self: &Arc<Self>) -> RequestInProgress {
        self.open.fetch_add(1, Ordering::Relaxed);
        RequestInProgress(Arc::clone(self))
    }

    /// Notes that the body of a known client's request is awaited, until the returned value is dropped.
    #[must_use]
    pub fn await_body(&self) -> AwaitedBody<'_> {
        self.body_since.store(self.places.now(), Ordering::Relaxed);
        AwaitedBody(self)
    }

    pub(super) fn add_lengths(&self, count: i32) {
        if count > 0 {
            self.lengths.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Returns true if no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Lets `waker` be woken by the next order.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Finish,
            _ => Order::Close,
        }
    }

    /// Waits until the connection is to end at once.
    pub(super) async fn closed(&self) {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.order() == Order::Close {
                return;
            }
            closed.await;
        }
    }

    fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
        self.closed.notify_waiters();
    }
}

impl AwaitedBody<'_> {
    /// Waits until the body is given up, because it is late and another connection waits for the place.
    pub async fn given_up(&self) {
        self.0.body_given_up.notified().await;
    }
}

impl Drop for AwaitedBody<'_> {
    fn drop(&mut self) {
        self.0.body_since.store(NO_BODY, Ordering::Relaxed);
    }
}

impl TakenPlace {
    /// The place.
    #[must_use]
    pub fn place(&self) -> &Arc<Place> {
        &self.0
    }
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let places = &self.0.places;
        places.state.lock().remove(self.0.number);
        places.left.notify_waiters();
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let (place, places) = (&self.0, &self.0.places);
        place.idle_since.store(places.now(), Ordering::Relaxed);
        place.open.fetch_sub(1, Ordering::SeqCst);
        places.wake_waiting();
    }
}
