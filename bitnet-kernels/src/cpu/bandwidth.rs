//! How fast memory is read: the limit of one-token products, to be measured beside them.
//!
//! A plain loop that adds up words, on the threads that run products. On a shared machine the rate changes from second
//! to second, so it says something only about what was measured just before or after.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::simd::compiled;
use super::{kernel, pool};

/// What [`read_bandwidth`] reads: eight times the third-level cache of a group of Zen 5 cores.
const BUFFER: usize = 256 << 20;
/// How long it reads.
const TIME: Duration = Duration::from_millis(200);
/// Words of a part: many for each thread, so that one that was interrupted leaves its rest to the others.
const PART: usize = (1 << 20) / size_of::<u32>();
/// Words added at a time: four vectors of the widest kernel.
const STEP: usize = 64;
/// Steps ahead of the sum that are asked for, as kernels do: 4 KiB. Without, one Zen 5 core reads 18 instead of 25 GB/s.
const AHEAD: usize = 16;

/// Bytes a second that so many threads together read from a buffer much larger than the caches, over 0.2 s.
pub fn read_bandwidth(threads: usize) -> f64 {
    // Not of zeros: pages of zeros that nobody wrote to may all be the same one.
    let buffer = vec![1; BUFFER / size_of::<u32>()];
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < TIME {
        black_box(sum(&buffer, threads));
        bytes += BUFFER;
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes a second that so many threads together read these words with, once.
pub fn read_rate(words: &[u32], threads: usize) -> f64 {
    let begun = Instant::now();
    black_box(sum(words, threads));
    size_of_val(words) as f64 / begun.elapsed().as_secs_f64()
}

/// Sum of all words, modulo 2³².
fn sum(words: &[u32], threads: usize) -> u32 {
    let (kernel, total) = (kernel(), AtomicU32::new(0));
    pool::run(words.len().div_ceil(PART), threads, &|part| {
        let words = &words[part * PART..words.len().min((part + 1) * PART)];
        let sum = compiled(
            kernel,
            #[inline(always)]
            || {
                let (steps, rest) = words.as_chunks::<STEP>();
                let mut sums = [0u32; STEP];
                for (at, step) in steps.iter().enumerate() {
                    if let (Some(panels), Some(next)) = (kernel.panels(), steps.get(at + AHEAD)) {
                        panels.prefetch(next);
                    }
                    for (sum, word) in sums.iter_mut().zip(step) {
                        *sum = sum.wrapping_add(*word);
                    }
                }
                sums.iter().chain(rest).copied().fold(0, u32::wrapping_add)
            },
        );
        total.fetch_add(sum, Ordering::Relaxed);
    });
    total.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once_whatever_the_number_of_threads() {
        for len in [0, 1, STEP, PART - 1, PART, 2 * PART + STEP + 3] {
            let words: Vec<u32> = (0..len as u32)
                .map(|at| at.wrapping_mul(0x9e37_79b9))
                .collect();
            let expected = words.iter().copied().fold(0, u32::wrapping_add);
            for threads in [1, 2, 3] {
                assert_eq!(
                    sum(&words, threads),
                    expected,
                    "{len} words, {threads} threads"
                );
            }
        }
    }
}
