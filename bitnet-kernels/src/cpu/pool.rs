//! Threads that wait for work by spinning, because a token has 200 parallel regions of 20 to 150 µs.
//!
//! A region is a function and a number of parts; the caller and whichever threads are awake take parts from one counter
//! until none is left. A thread that wakes late finds the region closed and is not waited for, so a busy machine costs
//! speed, never progress. Between regions a thread spins for a while, then sleeps.
//!
//! One region runs at a time. A caller that finds the pool taken, by another thread or by its own outer region, works
//! alone. rayon, which the rest of Burn uses, sleeps after some microseconds and takes as long to wake as a product takes.

#![allow(
    unsafe_code,
    reason = "a region's function is borrowed, threads are not"
)]

use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, TryLockError};

/// Rounds of spinning before a thread sleeps.
const SPINS: usize = 4_000;
/// Set in [`Pool::state`] while a region takes threads.
const OPEN: u64 = 1 << 31;
/// The number of threads in the region, in [`Pool::state`].
const INSIDE: u64 = OPEN - 1;
/// The number of a region begins above.
const REGION: u64 = 1 << 32;

type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// What threads of a region share. Lives on the caller's stack.
struct Region<'a> {
    body: &'a Body<'a>,
    parts: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Region<'_> {
    /// Takes parts until none is left.
    fn work(&self) {
        let work = || {
            loop {
                let part = self.next.fetch_add(1, Ordering::Relaxed);
                if part >= self.parts {
                    break;
                }
                (self.body)(part);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            // Nobody starts another part of a region that has failed.
            self.next.store(self.parts, Ordering::Relaxed);
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(panic);
        }
    }
}

struct Pool {
    /// Number of the region, whether it is open, and how many threads are inside.
    state: AtomicU64,
    /// The region. Valid while [`OPEN`] is set or a thread is inside.
    region: AtomicPtr<Region<'static>>,
    /// Threads with a number below this take part.
    wanted: AtomicUsize,
    sleepers: Mutex<usize>,
    wake: Condvar,
    /// Held by the caller of a region: the number of threads that exist.
    threads: Mutex<usize>,
}

static POOL: Pool = Pool {
    state: AtomicU64::new(0),
    region: AtomicPtr::new(std::ptr::null_mut()),
    wanted: AtomicUsize::new(0),
    sleepers: Mutex::new(0),
    wake: Condvar::new(),
    threads: Mutex::new(0),
};

/// Calls `body` with each number below `parts` once, on up to `threads` threads, the caller's among them.
///
/// # Panics
///
/// Panics if a call of `body` does, after all others have ended.
pub(super) fn run(parts: usize, threads: usize, body: &Body<'_>) {
    let helpers = threads.min(parts).saturating_sub(1);
    if helpers == 0 {
        return (0..parts).for_each(body);
    }
    let mut existing = match POOL.threads.try_lock() {
        Ok(existing) => existing,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..parts).for_each(body),
    };
    while *existing < helpers {
        let number = *existing;
        let thread = std::thread::Builder::new().name(format!("bitnet-{number}"));
        if let Err(error) = thread.spawn(move || POOL.serve(number)) {
            log::warn!(
                "no thread for ternary products, {} take part: {error}",
                number + 1
            );
            break;
        }
        *existing += 1;
    }
    let region = Region {
        body,
        parts,
        next: AtomicUsize::new(0),
        panic: Mutex::new(None),
    };
    POOL.open(&region, helpers);
    region.work();
    POOL.close();
    drop(existing);
    let panic = region.panic.into_inner();
    if let Some(panic) = panic.unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

impl Pool {
    fn open(&self, region: &Region<'_>, helpers: usize) {
        let region = std::ptr::from_ref(region).cast_mut().cast();
        self.region.store(region, Ordering::Relaxed);
        self.wanted.store(helpers, Ordering::Relaxed);
        // No thread is inside: the last region was closed by its caller, who held the lock that ours holds now.
        let number = (self.state.load(Ordering::Relaxed) / REGION).wrapping_add(1);
        self.state.store((number * REGION) | OPEN, Ordering::SeqCst);
        if *self.lock_sleepers() > 0 {
            self.wake.notify_all();
        }
    }

    /// Lets nobody in any more, and waits until everybody is out.
    fn close(&self) {
        let mut inside = self.state.fetch_and(!OPEN, Ordering::AcqRel) & INSIDE;
        let mut spins = 0;
        while inside > 0 {
            spins += 1;
            if spins % SPINS == 0 {
                std::thread::yield_now(); // the machine may have fewer cores than threads
            }
            spin_loop();
            inside = self.state.load(Ordering::Acquire) & INSIDE;
        }
    }

    /// The life of a thread.
    fn serve(&self, number: usize) {
        let mut last = 0;
        loop {
            let state = self.wait(last);
            last = state / REGION;
            if number < self.wanted.load(Ordering::Relaxed) && self.enter(state) {
                let region = self.region.load(Ordering::Relaxed);
                // SAFETY: `enter` counted this thread in while the region was open, and its caller keeps it alive until
                // all that were counted in are out again.
                unsafe { &*region }.work();
                self.state.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Counts this thread into the region that `state` shows, unless that is closed by now.
    fn enter(&self, state: u64) -> bool {
        let region = state / REGION;
        let open = |state: u64| state / REGION == region && state & OPEN != 0;
        let enter = |state: u64| open(state).then_some(state + 1);
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.state.fetch_update(success, failure, enter).is_ok()
    }

    /// A state in which a region other than `last` is open.
    fn wait(&self, last: u64) -> u64 {
        let fresh = |state: u64| state & OPEN != 0 && state / REGION != last;
        for _ in 0..SPINS {
            let state = self.state.load(Ordering::Acquire);
            if fresh(state) {
                return state;
            }
            spin_loop();
        }
        let mut sleepers = self.lock_sleepers();
        *sleepers += 1;
        loop {
            // In one total order with the store of `open`, which looks for sleepers afterwards: one sees the other.
            let state = self.state.load(Ordering::SeqCst);
            if fresh(state) {
                *sleepers -= 1;
                return state;
            }
            sleepers = self
                .wake
                .wait(sleepers)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock_sleepers(&self) -> std::sync::MutexGuard<'_, usize> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parts: usize, threads: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        run(parts, threads, &|part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_part_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            for parts in [0, 1, 2, 7, 100] {
                assert_eq!(counts(parts, threads), vec![1; parts]);
            }
        }
    }

    #[test]
    fn regions_of_many_callers_and_regions_inside_regions_end() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        run(3, 3, &|part| {
                            sum.fetch_add(counts(2, 2)[part % 2], Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 3);
                    }
                });
            }
        });
    }

    #[test]
    fn sleeping_threads_do_not_hold_up_a_region() {
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(counts(9, 3), [1; 9]);
        }
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_caller_and_the_pool_lives_on() {
        for failing in [0, 5] {
            let caught = catch_unwind(|| run(6, 3, &|part| assert_ne!(part, failing)));
            assert!(caught.is_err());
            assert_eq!(counts(5, 3), [1; 5]);
        }
    }
}
