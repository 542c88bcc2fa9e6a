//! The largest products of a float table, found through its screen: one read of int8 numbers, and of the few floats that
//! stand behind the largest.
//!
//! Method: `screen` bounds each product from both sides. What is above in its worst case as often as products are asked for
//! is the floor; a row whose best case is below it cannot be among them. The others are multiplied by
//! [`table_linear`](super::table_linear)'s own loops, so they have its bits.

use super::digits::{self, FEW_DIGITS, MOST_COLUMNS};
use super::table::{Split, table_linear, tile_sums, work};
use super::{Kernel, simd::compiled, threads};
use crate::TableView;
use crate::screen::ScreenView;

/// Rows whose largest bound is looked at together.
const CHUNK: usize = 64;
/// Rows of floats in one task.
const SHARE: usize = 32;

/// y = x · Wᵀ where y may be among the `leading` largest of its row, −∞ elsewhere. All of the largest are there, ties too, with
/// the bits that `table_linear` gives them. A row that has no finite bound is computed whole.
///
/// # Shapes
///
/// - x: `[count, columns]`
/// - out: `[count, rows]`
///
/// # Panics
///
/// Panics if a length does not fit, or `leading` is 0.
pub fn table_leading(
    kernel: &dyn Kernel,
    x: &[f32],
    table: &TableView<'_>,
    screen: &ScreenView<'_>,
    leading: usize,
    out: &mut [f32],
) {
    assert!(leading > 0, "nothing is asked for");
    let fits = screen.check(table);
    fits.unwrap_or_else(|error| panic!("{error}"));
    screened(kernel, x, &screen.table, out);
    let (rows, columns) = (table.rows(), table.columns());
    let mut maxima = Vec::with_capacity(rows.div_ceil(CHUNK));
    let mut running = Vec::new();
    for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(rows)) {
        let error = Error::of(x, screen);
        maxima.clear();
        running.clear();
        let done = compiled(
            kernel,
            #[inline(always)]
            || {
                let floor = error.floor(out, leading, &mut maxima)?;
                error.keep(floor, out, &mut running);
                Some(())
            },
        );
        match done {
            Some(()) => multiply(kernel, x, table, &running, out),
            None => table_linear(kernel, x, table, out),
        }
    }
}

/// Products with the screen, of as few digits of x as tell its rows apart, where there are kernels for digits.
fn screened(kernel: &dyn Kernel, x: &[f32], screen: &TableView<'_>, out: &mut [f32]) {
    match kernel.digits() {
        Some(bytes) if screen.columns() <= MOST_COLUMNS && !x.is_empty() => {
            let work = work(x.len() / screen.columns(), screen);
            digits::table_linear::<FEW_DIGITS>(kernel, bytes, x, screen, work, out);
        }
        _ => table_linear(kernel, x, screen, out),
    }
}

/// By how much products of one x with the screen can be wrong: `min(l2 · error, l1 · scale) + slack · scale` for each row.
struct Error<'a> {
    scale: &'a [f32],
    error: &'a [f32],
    l2: f32,
    l1: f32,
    slack: f32,
}

impl<'a> Error<'a> {
    fn of(x: &[f32], screen: &ScreenView<'a>) -> Self {
        let (mut l1, mut squares, mut largest) = (0.0, 0.0, 0f64);
        for x in x {
            let x = f64::from(*x);
            l1 += x.abs();
            squares += x * x;
            largest = largest.max(x.abs());
        }
        let up = 1.0 + 1e-6;
        // Half a unit each, and the division that found it: up to 127 units, rounded in f32.
        let half = 0.5 + 127.0 / f64::from(1 << 22);
        // Both products are sums of numbers up to 128 units in f32: in the worst order each addition loses 2⁻²⁴ of all.
        let roundings = 128.0 * (2 * x.len() + 16) as f64 / f64::from(1 << 24);
        // Half of the last digit's unit for each number of x.
        let digits = 128.0 * x.len() as f64 * largest * 0.500_001 / digits::most::<FEW_DIGITS>();
        Self {
            scale: screen.table.scales(),
            error: screen.error,
            l2: (squares.sqrt() * up) as f32,
            l1: (half * l1 * up) as f32,
            slack: ((roundings * l1 + digits) * up) as f32,
        }
    }

    /// At the rows of a chunk.
    #[inline(always)]
    fn at(&self, scale: f32, error: f32) -> f32 {
        // Where a scale underflowed, numbers are no larger than it.
        let scale = if scale > f32::MIN_POSITIVE {
            scale
        } else {
            f32::MIN_POSITIVE
        };
        let (l2, l1) = (self.l2 * error, self.l1 * scale);
        (if l2 < l1 { l2 } else { l1 }) + self.slack * scale
    }

    /// A number that at least `leading` products reach; −∞ if there are too few to tell. `None` if one is not finite, or its
    /// error.
    ///
    /// The `leading`-th largest of the chunks' largest: as many different products are above.
    #[inline(always)]
    fn floor(&self, products: &[f32], leading: usize, maxima: &mut Vec<f32>) -> Option<f32> {
        const LANES: usize = 16;
        let mut sum = [0.0; LANES]; // finite if all are, up to overflow
        for (start, chunk) in (0..).step_by(CHUNK).zip(products.chunks(CHUNK)) {
            let (scale, error) = (
                &self.scale[start..][..chunk.len()],
                &self.error[start..][..chunk.len()],
            );
            let mut most = [f32::NEG_INFINITY; LANES];
            let lanes = chunk
                .chunks(LANES)
                .zip(scale.chunks(LANES))
                .zip(error.chunks(LANES));
            for ((products, scale), error) in lanes {
                for lane in 0..products.len().min(LANES) {
                    let least = products[lane] - self.at(scale[lane], error[lane]);
                    most[lane] = if least > most[lane] {
                        least
                    } else {
                        most[lane]
                    };
                    sum[lane] += least * f32::MIN_POSITIVE;
                }
            }
            maxima.push(most.into_iter().fold(f32::NEG_INFINITY, f32::max));
        }
        if !sum.iter().sum::<f32>().is_finite() {
            return None;
        }
        if maxima.len() < leading {
            return Some(f32::NEG_INFINITY);
        }
        let (_, floor, _) = maxima.select_nth_unstable_by(leading - 1, |a, b| b.total_cmp(a));
        Some(*floor)
    }

    /// Lists the rows that may reach the floor, and drops the products of the others.
    #[inline(always)]
    fn keep(&self, floor: f32, products: &mut [f32], running: &mut Vec<usize>) {
        for (start, chunk) in (0..).step_by(CHUNK).zip(products.chunks_mut(CHUNK)) {
            let (scale, error) = (
                &self.scale[start..][..chunk.len()],
                &self.error[start..][..chunk.len()],
            );
            let mut kept = 0;
            for ((product, scale), error) in chunk.iter_mut().zip(scale).zip(error) {
                let keep = *product + self.at(*scale, *error) >= floor;
                *product = if keep { *product } else { f32::NEG_INFINITY };
                kept += u32::from(keep);
            }
            if kept > 0 {
                let rows = (start..).zip(&*chunk);
                running.extend(
                    rows.filter(|(_, y)| **y > f32::NEG_INFINITY)
                        .map(|(row, _)| row),
                );
            }
        }
    }
}

/// The products of some rows, alone.
fn multiply(
    kernel: &dyn Kernel,
    x: &[f32],
    table: &TableView<'_>,
    rows: &[usize],
    out: &mut [f32],
) {
    let split = Split::new(x, table.columns());
    let (whole, tail) = split.rows(&(0..1));
    let mut sums = vec![0.0; rows.len()];
    threads::run(
        rows.chunks(SHARE).zip(sums.chunks_mut(SHARE)).collect(),
        |(rows, sums): (&[usize], &mut [f32])| {
            for (&row, sum) in rows.iter().zip(sums.chunks_exact_mut(1)) {
                tile_sums(kernel, table, row..row + 1, &whole, &tail, sum);
            }
        },
    );
    for (&row, sum) in rows.iter().zip(sums) {
        out[row] = sum;
    }
}
