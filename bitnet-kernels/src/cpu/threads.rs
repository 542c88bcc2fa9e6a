//! How many tasks a product is split into, and the one place that runs them.
//!
//! Tasks go to rayon's current pool, the one Burn's Flex uses, and the caller works on the first of them itself: one
//! wake-up less per product, which counts when a product takes 50 µs. Results do not depend on the number of tasks.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Limits the tasks of a product.
const THREADS_VARIABLE: &str = "BITNET_THREADS";
/// Multiply-adds of the smallest task, 5 to 15 µs of one core; to wake another takes as long. A row times 640 x 2560 is
/// faster on one core, a row times 2560 x 2560 on two.
const WORK_PER_TASK: usize = 1 << 21;

/// What [`set_threads`] was given; 0 if nothing.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Splits products into at most `count` tasks from now on; 1 runs them on the caller, 0 restores the default.
pub fn set_threads(count: usize) {
    THREADS.store(count, Ordering::Relaxed);
}

/// Most tasks that a product is split into: [`set_threads`], else `BITNET_THREADS`, else as many as rayon has threads.
pub fn threads() -> usize {
    static VARIABLE: OnceLock<Option<usize>> = OnceLock::new();
    match THREADS.load(Ordering::Relaxed) {
        0 => VARIABLE
            .get_or_init(variable)
            .unwrap_or_else(rayon::current_num_threads),
        count => count,
    }
}

/// The number in `BITNET_THREADS`, if it is one.
fn variable() -> Option<usize> {
    let text = std::env::var(THREADS_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())?;
    let count = text.parse().ok().filter(|&count| count > 0);
    if count.is_none() {
        log::warn!(
            "{THREADS_VARIABLE}={text}: expected a number from 1 up; using one task per thread of rayon's pool"
        );
    }
    count
}

/// Tasks worth making for this many multiply-adds.
pub(super) fn tasks(work: usize) -> usize {
    threads().min(work / WORK_PER_TASK).max(1)
}

/// Shares the columns of a dense `[rows, width]` output out among tasks, in multiples of `unit` columns. Each task gets its
/// range and that part of every row.
pub(super) fn split<T: Send>(
    out: &mut [T],
    width: usize,
    unit: usize,
    work: usize,
    body: impl Fn(Range<usize>, Vec<&mut [T]>) + Sync,
) {
    let share = width.div_ceil(tasks(work)).next_multiple_of(unit);
    let rows = out.len() / width;
    let mut jobs: Vec<_> = (0..width)
        .step_by(share)
        .map(|at| (at..(at + share).min(width), Vec::with_capacity(rows)))
        .collect();
    for row in out.chunks_exact_mut(width) {
        for (columns, (_, parts)) in row.chunks_mut(share).zip(&mut jobs) {
            parts.push(columns);
        }
    }
    run(jobs, |(range, parts)| body(range, parts));
}

/// Runs every job, the first on the calling thread.
pub(super) fn run<J: Send>(jobs: Vec<J>, body: impl Fn(J) + Sync) {
    let mut jobs = jobs.into_iter();
    let Some(first) = jobs.next() else { return };
    if jobs.len() == 0 {
        return body(first);
    }
    let body = &body;
    rayon::in_place_scope(|scope| {
        for job in jobs {
            scope.spawn(move |_| body(job));
        }
        body(first);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once() {
        let sum = AtomicUsize::new(0);
        run((1..=10).collect(), |n: usize| {
            sum.fetch_add(n, Ordering::Relaxed);
        });
        run(Vec::new(), |n: usize| {
            sum.fetch_add(n, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 55);
    }

    #[test]
    fn columns_are_shared_out_in_whole_units() {
        let mut out = [0; 3 * 10];
        split(&mut out, 10, 4, usize::MAX, |range, parts| {
            assert!(range.start % 4 == 0 && parts.len() == 3);
            for part in parts {
                part.iter_mut()
                    .zip(range.clone())
                    .for_each(|(value, at)| *value = at);
            }
        });
        assert!(
            out.iter()
                .enumerate()
                .all(|(index, &value)| value == index % 10)
        );
    }

    #[test]
    fn small_work_is_one_task() {
        assert_eq!(tasks(0), 1);
        assert_eq!(tasks(WORK_PER_TASK), 1);
        assert!(tasks(usize::MAX) >= 1);
    }
}
