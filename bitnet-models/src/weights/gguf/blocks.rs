//! ggml's block-quantized floats, widened: what embeddings and heads are stored as beside ternary projections.
//!
//! A row is whole blocks; each block holds its numbers and one or more f16 factors. Layouts as in ggml's
//! `ggml-quants.c`; checked against the `gguf` Python package.

use half::f16;

/// One such encoding.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Numbers in a block.
    pub(super) len: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Appends the numbers of one block.
    widen: fn(&[u8], &mut dyn FnMut(f32)),
}

impl Blocks {
    /// The little-endian f32 numbers of whole blocks.
    pub(super) fn widen(&self, bytes: &[u8]) -> Vec<u8> {
        let mut wide = Vec::with_capacity(bytes.len() / self.bytes * self.len * 4);
        for block in bytes.chunks_exact(self.bytes) {
            (self.widen)(block, &mut |value| wide.extend(value.to_le_bytes()));
        }
        wide
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// f16 d, 32 × i8: `w = d·q`.
pub(super) static Q8_0: Blocks = Blocks {
    len: 32,
    bytes: 34,
    widen: |block, push| {
        let d = half(block);
        for &q in &block[2..] {
            push(d * f32::from(q as i8));
        }
    },
};

/// f16 d, 16 bytes: low nibbles first, then high nibbles; `w = d·(q - 8)`.
pub(super) static Q4_0: Blocks = Blocks {
    len: 32,
    bytes: 18,
    widen: |block, push| {
        let d = half(block);
        for shift in [0, 4] {
            for &byte in &block[2..] {
                push(d * (f32::from(byte >> shift & 15) - 8.0));
            }
        }
    },
};

/// f16 d, f16 m, 12 bytes with eight pairs of 6-bit factors, 128 bytes of nibbles: 64 numbers from 32 bytes, low nibbles
/// first; `w = d·factor·q - m·minimum`, one pair for 32 numbers.
pub(super) static Q4_K: Blocks = Blocks {
    len: 256,
    bytes: 144,
    widen: |block, push| {
        let (d, m) = (half(block), half(&block[2..]));
        let six = &block[4..16];
        // The first four pairs have a byte each; of the others the upper two bits lie in the top bits of those.
        let pair = |j: usize| match j {
            0..4 => (six[j] & 63, six[j + 4] & 63),
            _ => (
                six[j + 4] & 15 | six[j - 4] >> 6 << 4,
                six[j + 4] >> 4 | six[j] >> 6 << 4,
            ),
        };
        for (j, nibbles) in (0..8).map(|j| (j, &block[16 + j / 2 * 32..][..32])) {
            let (factor, minimum) = pair(j);
            let (factor, minimum) = (d * f32::from(factor), m * f32::from(minimum));
            for &byte in nibbles {
                push(factor * f32::from(byte >> (j % 2 * 4) & 15) - minimum);
            }
        }
    },
};

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 × i8 factors, f16 d; `w = d·factor·(q - 32)`, one factor for
/// 16 numbers.
pub(super) static Q6_K: Blocks = Blocks {
    len: 256,
    bytes: 210,
    widen: |block, push| {
        let d = half(&block[208..]);
        for i in 0..256 {
            // Two halves of four runs of 32; runs 0 and 2, and 1 and 3, share their low bytes.
            let (part, run, l) = (i / 128, i % 128 / 32, i % 32);
            let low = block[part * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
            let high = block[128 + part * 32 + l] >> (run * 2) & 3;
            let factor = block[192 + i / 16] as i8;
            push(d * f32::from(factor) * (f32::from(low | high << 4) - 32.0));
        }
    },
};
