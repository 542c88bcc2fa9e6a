//! How many tasks a product is split into, and how an output is shared out among them.
//!
//! Tasks run on the threads of [`pool`]. Results do not depend on the number of tasks.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::pool;

/// Limits the tasks of a product.
const THREADS_VARIABLE: &str = "BITNET_THREADS";
/// Multiply-adds of the smallest task: small, as a thread that spins begins at once.
const WORK_PER_TASK: usize = 1 << 19;

/// Most parts for each task.
const SHARES: usize = 4;

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

/// Parts of equal size worth making for this many multiply-adds: several for each task where they are large, so that a
/// thread that was interrupted leaves its rest to the others.
pub(super) fn shares(work: usize) -> usize {
    let tasks = tasks(work);
    let spare = work / WORK_PER_TASK / tasks;
    if tasks == 1 {
        1
    } else {
        tasks * spare.min(SHARES)
    }
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
    let share = width.div_ceil(shares(work)).next_multiple_of(unit);
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

/// Runs every job, on the calling thread and on others if there is more than one job.
pub(super) fn run<J: Send>(jobs: Vec<J>, body: impl Fn(J) + Sync) {
    if jobs.len() <= 1 {
        return jobs.into_iter().for_each(body);
    }
    let jobs: Vec<_> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    pool::run(jobs.len(), threads(), &|number| {
        let job = jobs[number].lock().ok().and_then(|mut job| job.take());
        body(job.expect("each job is taken once"));
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
