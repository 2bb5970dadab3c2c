//! What the ring and the scribe find under the names of `src/audit/sync.rs` here: shuttle's lock and condition, Tokio's
//! `Notify` with a step before each of its operations, and a clock that stands still or passes by chance.
//!
//! Where time stands still a wait ends only by being woken: a lost wake-up is a deadlock, which shuttle reports. Where
//! it passes, every timed wait may end at any moment.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::sync::LockResult;
use std::sync::atomic::{AtomicUsize as Counter, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant as Wall};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::sync::atomic::AtomicUsize;
use shuttle::{Config, Runner};

/// Whether timed waits end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Stands,
    Passes,
}

thread_local! {
    // A run is one OS thread, so these are the run's.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static TIME: Cell<Time> = const { Cell::new(Time::Stands) };
}

/// How many schedules a test tries by chance, unless `SHUTTLE_ITERATIONS` says otherwise. *Chosen*: some seconds each.
const ITERATIONS: usize = 3_000;

/// How many preemptions the PCT scheduler puts at the worst places. *Chosen*: two more than a lost wake-up needs.
const PREEMPTIONS: usize = 4;

/// Runs `body` under schedules by chance: half of them uniform, half with a few preemptions at chosen places.
/// `SHUTTLE_REPLAY` runs the one schedule that a failure has printed.
pub fn explore(time: Time, body: impl Fn() + Send + Sync + Clone + 'static) {
    if let Ok(schedule) = std::env::var("SHUTTLE_REPLAY") {
        run(time, ReplayScheduler::new_from_encoded(&schedule), body);
        return;
    }
    let iterations = std::env::var("SHUTTLE_ITERATIONS").map_or(ITERATIONS, |count| count.parse().unwrap());
    run(time, RandomScheduler::new(iterations.div_ceil(2)), body.clone());
    run(time, PctScheduler::new(PREEMPTIONS, iterations.div_ceil(2)), body);
}

/// Runs `body`, which must make no random choices, under every possible schedule. Fails if there are more than `most`.
pub fn exhaust(most: usize, body: impl Fn() + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("SHUTTLE_REPLAY") {
        run(Time::Stands, ReplayScheduler::new_from_encoded(&schedule), body);
        return;
    }
    let tried = run(Time::Stands, DfsScheduler::new(Some(most), false), body);
    assert!(tried < most, "more than {most} schedules");
}

fn run(time: Time, scheduler: impl Scheduler + 'static, body: impl Fn() + Send + Sync + 'static) -> usize {
    static TRIED: Counter = Counter::new(0);
    let (before, begun) = (TRIED.load(Ordering::Relaxed), Wall::now());
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        NOW.set(Duration::ZERO);
        TIME.set(time);
        TRIED.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let tried = TRIED.load(Ordering::Relaxed) - before;
    println!("{tried} schedules in {:?}", begun.elapsed());
    tried
}

/// Chance in the test's own code: true once in `of` times.
pub fn chance(of: u32) -> bool {
    thread_rng().gen_ratio(1, of)
}

/// A moment of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub fn now() -> Self {
        Self(NOW.get())
    }

    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

#[derive(Debug)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Knows its lock, so that a timed wait can let go of it.
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    held: shuttle::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Ok(MutexGuard { lock: self, held: self.0.lock().unwrap() })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

#[derive(Debug)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let MutexGuard { lock, held } = guard;
        Ok(MutexGuard { lock, held: self.0.wait(held).unwrap() })
    }

    /// Where time passes: ends after some steps, woken or late.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        patience: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        if TIME.get() == Time::Stands {
            return Ok((self.wait(guard).unwrap(), false));
        }
        let MutexGuard { lock, held } = guard;
        drop(held);
        while !chance(3) {
            shuttle::thread::yield_now();
        }
        let late = chance(2);
        if late {
            NOW.set(NOW.get() + patience);
        }
        Ok((lock.lock().unwrap(), late))
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Tokio's, whose operations shuttle would not see: another task may run before each.
#[derive(Debug)]
pub struct Notify {
    inner: tokio::sync::Notify,
    step: AtomicUsize,
}

impl Notify {
    pub fn new() -> Self {
        Self { inner: tokio::sync::Notify::new(), step: AtomicUsize::new(0) }
    }

    fn step(&self) -> &tokio::sync::Notify {
        self.step.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }

    pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.step().notified()
    }

    pub fn notify_one(&self) {
        self.step().notify_one();
    }

    pub fn notify_waiters(&self) {
        self.step().notify_waiters();
    }
}

/// Time was over.
#[derive(Debug)]
pub struct Elapsed;

/// Ends `future` where time passes and chance wants it.
pub async fn timeout<F: Future>(_patience: Duration, future: F) -> Result<F::Output, Elapsed> {
    gives_up(future, || TIME.get() == Time::Passes && chance(4)).await.ok_or(Elapsed)
}

/// Polls `future` until it is ready, or drops it at the first pending poll for which `when` holds: `None`.
pub async fn gives_up<F: Future>(future: F, mut when: impl FnMut() -> bool) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if when() {
            return Poll::Ready(None);
        }
        if TIME.get() == Time::Passes {
            // Asked again, so that time may be over at any moment.
            context.waker().wake_by_ref();
            shuttle::thread::yield_now();
        }
        Poll::Pending
    })
    .await
}
