//! I2_S of bitnet.cpp (GGUF type 36): two bits per weight, then one f32 scale for the tensor.
//!
//! `d_out·d_in / 4` bytes of codes `trit + 1`, the scale, 28 bytes of padding (zeros here; ignored on reading). Four
//! runs of consecutive weights share their bytes, the first in the top bits. Three writers use three run lengths under
//! the same type number and nothing in a file tells them apart, so the caller chooses; published files are `Block128`.
//! Checked against files of the reference tools (tests/packing.rs).

use super::{Layout, Unpacked, check_dimensions, check_len, check_shape, codes, new_bytes, scales};
use crate::{KernelError, Scale};

/// Bytes after the codes: the scale and its padding.
const TAIL: usize = 32;

/// The layout, by its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum I2S {
    /// Blocks of 128 weights of the flat matrix in 32 bytes, across row borders: every published file, x86 builds and
    /// the Python converter. Refuses shapes whose number of weights is not a multiple of 128.
    Block128,
    /// Blocks of 64 weights in 16 bytes: files quantized by an ARM build. Refuses numbers of weights that are not a
    /// multiple of 64.
    Block64,
    /// Four consecutive rows in the bytes of one: builds without activation parallelism. Refuses a `d_out` that is not a
    /// multiple of 4.
    Rows4,
}

impl I2S {
    /// Consecutive weights in consecutive bytes; four such runs share their bytes.
    const fn run(self, d_in: usize) -> usize {
        match self {
            Self::Block128 => 32,
            Self::Block64 => 16,
            Self::Rows4 => d_in,
        }
    }
}

/// First byte of run `i`, and its bit in each byte.
fn place(run: usize) -> impl Fn(usize) -> (usize, usize) {
    move |i| (i / 4 * run, 6 - i % 4 * 2)
}

impl Layout for I2S {
    fn name(&self) -> &'static str {
        match self {
            Self::Block128 => "i2_s",
            Self::Block64 => "i2_s-block64",
            Self::Rows4 => "i2_s-rows4",
        }
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        let fits = (d_out * d_in).is_multiple_of(4 * self.run(d_in));
        let rule = match self {
            Self::Block128 => "the number of weights must be a multiple of 128",
            Self::Block64 => "the number of weights must be a multiple of 64",
            Self::Rows4 => "d_out must be a multiple of 4",
        };
        check_shape(self.name(), d_out, d_in, fits, rule)?;
        Ok(d_out * d_in / 4 + TAIL)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let run = self.run(d_in);
        let mut trits = vec![0; d_out * d_in];
        codes::read_bits(bytes, &mut trits, run, 1, place(run));
        codes::check(self.name(), &trits, 1, d_in)?;
        let scale = scales::read_tensor(self.name(), bytes, trits.len() / 4)?;
        Ok(Unpacked {
            trits,
            scale: Some(scale),
        })
    }

    fn pack(
        &self,
        trits: &[i8],
        scale: &Scale,
        d_out: usize,
        d_in: usize,
    ) -> Result<Vec<u8>, KernelError> {
        let mut bytes = new_bytes(self, trits, d_out, d_in)?;
        let scale = scales::tensor_value(self.name(), scale, d_out, d_in)?;
        let run = self.run(d_in);
        codes::write_bits(trits, &mut bytes, run, 1, place(run));
        bytes[trits.len() / 4..][..4].copy_from_slice(&scale.to_le_bytes());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs a matrix of -1 with a +1 at each of `ones`, and returns the bytes that are not 0.
    fn marks(layout: I2S, ones: &[usize], d_out: usize, d_in: usize) -> Vec<(usize, u8)> {
        let mut trits = vec![-1; d_out * d_in];
        for &at in ones {
            trits[at] = 1;
        }
        let bytes = layout
            .pack(&trits, &Scale::Tensor(0.0), d_out, d_in)
            .unwrap();
        bytes
            .into_iter()
            .enumerate()
            .filter(|&(_, byte)| byte != 0)
            .collect()
    }

    #[test]
    fn weights_stand_32_or_16_or_one_row_apart_first_on_top() {
        assert_eq!(
            marks(I2S::Block128, &[3, 35, 99], 1, 128),
            [(3, 0b10_10_00_10)]
        );
        assert_eq!(
            marks(I2S::Block64, &[3, 19, 51], 1, 64),
            [(3, 0b10_10_00_10)]
        );
        assert_eq!(marks(I2S::Rows4, &[1, 4, 10], 4, 3), [(1, 0b10_10_00_10)]);
    }

    #[test]
    fn blocks_run_across_row_borders_and_the_scale_follows_the_codes() {
        // Weight 130 of the flat matrix is row 1, column 66: byte 2 of block 1.
        assert_eq!(marks(I2S::Block128, &[130], 4, 64), [(34, 0b10_00_00_00)]);
        let bytes = I2S::Block128
            .pack(&[0; 128], &Scale::Tensor(1.5), 2, 64)
            .unwrap();
        assert_eq!(bytes[..32], [0b01_01_01_01; 32]);
        assert_eq!(bytes[32..36], 1.5_f32.to_le_bytes());
        assert_eq!(bytes[36..], [0; 28]);
    }

    #[test]
    fn padding_is_ignored_and_code_three_and_a_bad_scale_are_refused() {
        let mut bytes = I2S::Rows4.pack(&[0; 8], &Scale::Tensor(1.0), 4, 2).unwrap();
        bytes[6..].fill(0xee);
        assert_eq!(
            I2S::Rows4.unpack(&bytes, 4, 2).unwrap().scale,
            Some(Scale::Tensor(1.0))
        );
        bytes[1] |= 0b11_00;
        let error = I2S::Rows4.unpack(&bytes, 4, 2).unwrap_err();
        assert_eq!(
            error,
            KernelError::Code {
                layout: "i2_s-rows4",
                row: 2,
                column: 1,
                code: 3
            }
        );
        bytes[1] = 0;
        bytes[2..6].fill(0xff);
        assert!(matches!(
            I2S::Rows4.unpack(&bytes, 4, 2),
            Err(KernelError::Scale { index: 0, .. })
        ));
    }

    #[test]
    fn shapes_without_whole_blocks_are_refused() {
        for (layout, d_out, d_in) in [
            (I2S::Block128, 3, 64),
            (I2S::Block64, 3, 32),
            (I2S::Rows4, 6, 64),
        ] {
            assert!(matches!(
                layout.byte_len(d_out, d_in),
                Err(KernelError::Shape { .. })
            ));
        }
    }
}
