//! Rows of a cache on the host: numbers to words and back.
//!
//! Words are read as the smaller numbers they hold, the first in the low bits. Halves become floats in plain arithmetic, which is
//! compiled for the kernel's vectors.

use half::f16;

use crate::cpu::threads;
use crate::quantize::{EPSILON, INT8_MAX};
use crate::{AttentionShape, CacheFormat};

const _: () = assert!(cfg!(target_endian = "little"), "words are read in place");

/// Floats of a decoded row are a multiple of this, the rest zero: any kernel's vector, and no tails.
pub(super) const ALIGN: usize = 16;

/// Stored rows of all heads.
pub(super) struct Rows<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    format: CacheFormat,
    capacity: usize,
    head_dim: usize,
}

/// Stored rows of one head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    words: &'a [u32],
    /// One for each position, or none.
    scales: &'a [f32],
    format: CacheFormat,
    head_dim: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        shape: AttentionShape,
        format: CacheFormat,
        words: &'a [u32],
        scales: &'a [f32],
    ) -> Self {
        Self {
            words,
            scales,
            format,
            capacity: shape.capacity,
            head_dim: shape.head_dim,
        }
    }

    pub(super) fn head(&self, head: usize) -> Head<'a> {
        let width = self.capacity * self.format.words(self.head_dim);
        let scales = if self.format.scaled() {
            &self.scales[head * self.capacity..][..self.capacity]
        } else {
            &[]
        };
        Head {
            words: &self.words[head * width..][..width],
            scales,
            format: self.format,
            head_dim: self.head_dim,
        }
    }
}

impl Head<'_> {
    /// The scales of `len` positions from `first` on, if the format has them.
    pub(super) fn scales(&self, first: usize, len: usize) -> Option<&[f32]> {
        self.format
            .scaled()
            .then(|| &self.scales[first..first + len])
    }

    /// Numbers of the rows from `first` on, before their scales: as many as `tile [rows, padded head_dim]` has room for.
    #[inline(always)]
    pub(super) fn decode(&self, first: usize, tile: &mut [f32]) {
        let width = self.format.words(self.head_dim);
        let stride = padded(self.head_dim);
        let words = &self.words[first * width..][..tile.len() / stride * width];
        if width * self.format.per_word() == stride {
            decode(self.format, words, tile);
        } else {
            for (words, row) in words.chunks_exact(width).zip(tile.chunks_exact_mut(stride)) {
                let (row, rest) = row.split_at_mut(width * self.format.per_word());
                decode(self.format, words, row);
                rest.fill(0.0);
            }
        }
    }
}

/// Floats of a decoded row.
pub(super) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(ALIGN)
}

#[inline(always)]
fn decode(format: CacheFormat, words: &[u32], numbers: &mut [f32]) {
    match format {
        CacheFormat::F32 => numbers.copy_from_slice(bytemuck::cast_slice(words)),
        CacheFormat::F16 => {
            for (number, &half) in numbers
                .iter_mut()
                .zip(bytemuck::cast_slice::<u32, u16>(words))
            {
                *number = widen(half);
            }
        }
        CacheFormat::Int8 => {
            for (number, &q) in numbers
                .iter_mut()
                .zip(bytemuck::cast_slice::<u32, i8>(words))
            {
                *number = f32::from(q);
            }
        }
    }
}

/// The float of a half, exactly; NaN stays NaN. 0.8 ns for 16 of them, 2.2 with a call of `half`'s for each eight.
///
/// Moved to where a float has them, exponent and mantissa mean 2⁻¹¹² of the half, subnormal or not.
#[inline(always)]
fn widen(half: u16) -> f32 {
    const UNIT: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(half);
    let number = f32::from_bits((bits & 0x7fff) << 13) * UNIT;
    // Infinity and NaN have all bits of the exponent set.
    let special = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(number.to_bits() | special | (bits & 0x8000) << 16)
}

/// Stores `new [batch, seq, n_kv_heads, head_dim]` at `starts`, as far as there is room.
pub(super) fn write(
    shape: AttentionShape,
    format: CacheFormat,
    new: &[f32],
    starts: &[i32],
    words: &mut [u32],
    scales: &mut [f32],
) {
    let AttentionShape {
        capacity, head_dim, ..
    } = shape;
    let width = format.words(head_dim);
    let heads = shape.batch * shape.n_kv_heads;
    assert_eq!(words.len(), heads * capacity * width, "words of a cache");
    // Without scales there is one dummy, which no head gets.
    let span = if format.scaled() { capacity } else { 0 };
    assert!(scales.len() >= heads * span, "scales of a cache");
    let mut scales = scales;
    let mut jobs = Vec::with_capacity(heads);
    for (head, words) in words.chunks_exact_mut(capacity * width).enumerate() {
        let start = (starts[head / shape.n_kv_heads] as usize).min(capacity);
        let len = shape.seq.min(capacity - start);
        // The rows of a head are `n_kv_heads` rows apart.
        let (row, head) = (head / shape.n_kv_heads, head % shape.n_kv_heads);
        let new = &new[(row * shape.seq * shape.n_kv_heads + head) * head_dim..];
        let (own, rest) = scales.split_at_mut(span);
        scales = rest;
        let own = if format.scaled() {
            &mut own[start..start + len]
        } else {
            own
        };
        jobs.push((new, &mut words[start * width..][..len * width], own));
    }
    let write = |(new, words, scales): (&[f32], &mut [u32], &mut [f32])| {
        let mut scales = scales.iter_mut();
        for (row, words) in new
            .chunks(shape.n_kv_heads * head_dim)
            .zip(words.chunks_exact_mut(width))
        {
            let scale = encode(format, &row[..head_dim], words);
            if let Some(place) = scales.next() {
                *place = scale;
            }
        }
    };
    if threads::tasks(8 * new.len()) == 1 {
        jobs.into_iter().for_each(write);
    } else {
        threads::run(jobs, write);
    }
}

/// Stores one row; returns its scale, 1 for a format without.
fn encode(format: CacheFormat, row: &[f32], words: &mut [u32]) -> f32 {
    match format {
        CacheFormat::F32 => {
            words.copy_from_slice(bytemuck::cast_slice(row));
            1.0
        }
        CacheFormat::F16 => {
            let halves = bytemuck::cast_slice_mut::<u32, u16>(words);
            halves[row.len()..].fill(0);
            let (max, min) = (f16::MAX.to_f32(), f16::MIN.to_f32());
            for (half, &x) in halves.iter_mut().zip(row) {
                *half = f16::from_f32(x.clamp(min, max)).to_bits();
            }
            1.0
        }
        CacheFormat::Int8 => {
            // Without their sign, floats order like their bits, infinity above all numbers and NaN above infinity.
            let largest = row
                .iter()
                .fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
            let largest = f32::from_bits(largest);
            let largest = if largest.is_nan() {
                largest
            } else {
                largest.max(EPSILON)
            };
            let inverse = INT8_MAX / largest;
            let bytes = bytemuck::cast_slice_mut::<u32, i8>(words);
            bytes[row.len()..].fill(0);
            for (q, x) in bytes.iter_mut().zip(row) {
                *q = (x * inverse).round_ties_even().clamp(-INT8_MAX, INT8_MAX) as i8;
            }
            largest * (1.0 / INT8_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_in_the_low_bits_and_the_rest_of_the_last_word_is_zero() {
        let row = [1.0, -2.0, 127.0, 0.5, 1.5];
        let mut words = [u32::MAX; 3];
        assert_eq!(encode(CacheFormat::F16, &row, &mut words), 1.0);
        assert_eq!(words, [0xC000_3C00, 0x3800_57F0, 0x3E00]);
        let mut words = [u32::MAX; 2];
        assert_eq!(
            encode(CacheFormat::Int8, &row, &mut words),
            127.0 * (1.0 / 127.0)
        );
        assert_eq!(words, [0x007F_FE01, 0x02]);
    }

    #[test]
    fn every_half_becomes_its_float() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (widen(bits), f16::from_bits(bits).to_f32());
            let equal = found.to_bits() == expected.to_bits();
            assert!(
                equal || found.is_nan() && expected.is_nan(),
                "{bits:#x}: {found}"
            );
        }
    }

    #[test]
    fn large_numbers_saturate_and_damaged_rows_keep_their_mark() {
        let row = [1e6, f32::NEG_INFINITY, f32::NAN, 65519.0];
        let mut words = [0; 2];
        encode(CacheFormat::F16, &row, &mut words);
        let mut numbers = [0.0; 4];
        decode(CacheFormat::F16, &words, &mut numbers);
        assert_eq!(
            (numbers[0], numbers[1], numbers[3]),
            (65504.0, -65504.0, 65504.0)
        );
        assert!(numbers[2].is_nan());
        assert!(encode(CacheFormat::Int8, &row, &mut [0]).is_nan());
        assert_eq!(
            encode(CacheFormat::Int8, &row[..2], &mut [0]),
            f32::INFINITY
        );
    }
}
