//! Products with float activations: y = x · W̃ᵀ and dx = dy · W̃, with W̃ = scale · T.
//!
//! A tile of weight rows at a time becomes floats and goes to `gemm`; there is never a float copy of the whole weight.
//! Tiles lie at fixed places, so results do not depend on the threads. Tried: direct loops for one to four rows of
//! activations: slower than `gemm`, which chooses its instruction set at run time.

use std::ops::Range;

use super::{Codes, threads};
use crate::Granularity;
use crate::packing::words::{CODE_MASK, CODES_PER_WORD, words_per_row};

/// Weight rows that are floats at a time.
const TILE_ROWS: usize = 64;
/// Columns of the weight that are floats at a time, in the product for dx.
const TILE_WORDS: usize = 16;
/// Columns whose codes one shift and mask select.
const QUAD: usize = 4;

/// y = x · W̃ᵀ, without quantizing x.
///
/// # Shapes
///
/// - x: `[rows, d_in]`
/// - codes: canonical words or base-3 bytes of `[d_out, d_in]`; base 3 is unpacked into words first
/// - scale: as `granularity` says
/// - out: `[rows, d_out]`
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn ternary_linear_float<'a>(
    x: &[f32],
    codes: impl Into<Codes<'a>>,
    d_out: usize,
    d_in: usize,
    granularity: Granularity,
    scale: &[f32],
    out: &mut [f32],
) {
    let words = codes.into().into_words(d_out, d_in);
    let weight = Weight::new(&words, d_out, d_in, granularity, scale);
    let rows = rows(x, d_in, out, d_out);
    let columns = 0..words_per_row(d_in);
    let width = columns.len() * CODES_PER_WORD;
    split(out, rows, d_out, d_in, TILE_ROWS, |range, mut out| {
        let mut tile = vec![0.0; TILE_ROWS * width];
        let mut y = vec![0.0; rows * TILE_ROWS];
        for n in range.clone().step_by(TILE_ROWS) {
            let len = TILE_ROWS.min(range.end - n);
            for (n, tile) in (n..n + len).zip(tile.chunks_exact_mut(width)) {
                weight.dequantize(n, columns.clone(), tile);
            }
            let x = View {
                values: x,
                shape: [rows, d_in],
                strides: [d_in, 1],
            };
            let tile = View {
                values: &tile,
                shape: [d_in, len],
                strides: [1, width],
            };
            product(x, tile, &mut y[..rows * len], false);
            for (y, out) in y.chunks_exact(len).zip(&mut out) {
                out[n - range.start..][..len].copy_from_slice(y);
            }
        }
    });
}

/// dx = dy · W̃, the gradient of the input.
///
/// # Shapes
///
/// - dy: `[rows, d_out]`
/// - codes: canonical words or base-3 bytes of `[d_out, d_in]`; base 3 is unpacked into words first
/// - scale: as `granularity` says
/// - dx: `[rows, d_in]`
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn ternary_linear_dx<'a>(
    dy: &[f32],
    codes: impl Into<Codes<'a>>,
    d_out: usize,
    d_in: usize,
    granularity: Granularity,
    scale: &[f32],
    dx: &mut [f32],
) {
    let words = codes.into().into_words(d_out, d_in);
    let weight = Weight::new(&words, d_out, d_in, granularity, scale);
    let rows = rows(dy, d_out, dx, d_in);
    let width = TILE_WORDS * CODES_PER_WORD;
    split(dx, rows, d_in, d_out, width, |range, mut dx| {
        let mut tile = vec![0.0; TILE_ROWS * width];
        let mut sums = vec![0.0; rows * width];
        for k in range.clone().step_by(width) {
            let len = width.min(range.end - k);
            let columns = k / CODES_PER_WORD..(k + len).div_ceil(CODES_PER_WORD);
            let sums = &mut sums[..rows * len];
            for n in (0..d_out).step_by(TILE_ROWS) {
                let depth = TILE_ROWS.min(d_out - n);
                for (n, tile) in (n..n + depth).zip(tile.chunks_exact_mut(width)) {
                    weight.dequantize(n, columns.clone(), tile);
                }
                let dy = View {
                    values: &dy[n..],
                    shape: [rows, depth],
                    strides: [d_out, 1],
                };
                let tile = View {
                    values: &tile,
                    shape: [depth, len],
                    strides: [width, 1],
                };
                product(dy, tile, sums, n > 0);
            }
            for (sums, dx) in sums.chunks_exact(len).zip(&mut dx) {
                dx[k - range.start..][..len].copy_from_slice(sums);
            }
        }
    });
}

/// Number of rows, with both lengths proven.
fn rows(input: &[f32], input_width: usize, output: &[f32], output_width: usize) -> usize {
    let rows = input.len() / input_width;
    assert_eq!(
        input.len(),
        rows * input_width,
        "the input is [rows, {input_width}]"
    );
    assert_eq!(
        output.len(),
        rows * output_width,
        "the output is [rows, {output_width}]"
    );
    rows
}

/// Shares the columns of `out` out among tasks in whole tiles; each gets its columns of every row.
fn split(
    out: &mut [f32],
    rows: usize,
    width: usize,
    depth: usize,
    tile: usize,
    body: impl Fn(Range<usize>, Vec<&mut [f32]>) + Sync,
) {
    if rows > 0 {
        // Float products cost several times what integer ones do.
        threads::split(out, width, tile, 4 * rows * width * depth, body);
    }
}

/// A ternary matrix with its scales, lengths proven.
struct Weight<'a> {
    words: &'a [u32],
    width: usize,
    d_in: usize,
    granularity: Granularity,
    scale: &'a [f32],
}

impl<'a> Weight<'a> {
    fn new(
        words: &'a [u32],
        d_out: usize,
        d_in: usize,
        granularity: Granularity,
        scale: &'a [f32],
    ) -> Self {
        let width = words_per_row(d_in);
        assert_eq!(
            words.len(),
            d_out * width,
            "canonical words of {d_out} x {d_in}"
        );
        assert_eq!(scale.len(), granularity.count(d_out, d_in), "{granularity}");
        Self {
            words,
            width,
            d_in,
            granularity,
            scale,
        }
    }

    /// Writes scale · trit for some words of row `n`, 16 values for each word.
    fn dequantize(&self, n: usize, columns: Range<usize>, out: &mut [f32]) {
        let words = &self.words[n * self.width..][columns.clone()];
        let out = out.as_chunks_mut::<CODES_PER_WORD>().0;
        match self.granularity {
            Granularity::Tensor => dequantize(words, self.scale[0], out),
            Granularity::Row => dequantize(words, self.scale[n], out),
            Granularity::Group(size) => {
                let groups = self.d_in.div_ceil(size);
                let scale = &self.scale[n * groups..][..groups];
                for ((word, at), out) in words.iter().zip(columns).zip(out) {
                    // Padding may lie beyond the last group; its trits are zero.
                    let scale = scale[(at * CODES_PER_WORD / size).min(groups - 1)];
                    dequantize(std::slice::from_ref(word), scale, std::slice::from_mut(out));
                }
            }
        }
    }
}

fn dequantize(words: &[u32], scale: f32, out: &mut [[f32; CODES_PER_WORD]]) {
    for (word, out) in words.iter().zip(out) {
        for (plane, out) in out.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
            let codes = ((word >> (2 * plane)) & CODE_MASK).wrapping_mul(GATHER) >> 24;
            *out = TRITS[codes as usize].map(|trit| trit * scale);
        }
    }
}

/// Times this, four codes, one per byte, stand side by side in the upper byte; the other terms do not overlap.
const GATHER: u32 = (1 << 24) | (1 << 18) | (1 << 12) | (1 << 6);

/// Four trits as floats for each value of four codes. A code 3 does not occur.
static TRITS: [[f32; QUAD]; 256] = {
    let mut table = [[0.0; QUAD]; 256];
    let mut codes = 0;
    while codes < table.len() {
        let mut at = 0;
        while at < QUAD {
            table[codes][at] = ((codes >> (2 * at)) & 3) as f32 - 1.0;
            at += 1;
        }
        codes += 1;
    }
    table
};

/// A matrix inside a slice.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl View<'_> {
    /// Panics if an element lies outside the slice.
    fn check(&self) {
        let last = (self.shape[0] - 1) * self.strides[0] + (self.shape[1] - 1) * self.strides[1];
        assert!(
            last < self.values.len(),
            "matrix {:?} {:?} in {}",
            self.shape,
            self.strides,
            self.values.len()
        );
    }
}

/// out = lhs · rhs, or out += lhs · rhs, on the calling thread. `out` is dense.
#[allow(unsafe_code)]
fn product(lhs: View<'_>, rhs: View<'_>, out: &mut [f32], add: bool) {
    let ([m, k], [depth, n]) = (lhs.shape, rhs.shape);
    assert!(k == depth && out.len() == m * n);
    lhs.check();
    rhs.check();
    // SAFETY: every element of the three matrices lies in its slice: checked above, `out` by its length. `out` is borrowed
    // mutably, so it does not overlap the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            lhs.values.as_ptr(),
            lhs.strides[1] as isize,
            lhs.strides[0] as isize,
            rhs.values.as_ptr(),
            rhs.strides[1] as isize,
            rhs.strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
