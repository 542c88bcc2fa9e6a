//! IQ1_BN, IQ2_BN and IQ2_BN_R4 of ik_llama.cpp (GGUF types 134, 135, 335): a scale per row, before the row's codes.
//!
//! IQ2_BN: f32 scale; 64 columns in 16 bytes, four runs of 16, the first in the low bits.
//! IQ2_BN_R4: four rows together, their four f32 scales first; 64 columns of the four rows in 64 bytes, see `place`.
//! IQ1_BN: f16 scale; 64 columns in 13 bytes of base-3 digits, first weight least significant. Decoding is total.

use super::{Layout, Unpacked, check_dimensions, check_len, check_shape, codes, new_bytes, scales};
use crate::{Granularity, KernelError, Scale};

/// The layout, by its GGUF type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IqBn {
    /// IQ1_BN: 1.625 bits per weight.
    Iq1,
    /// IQ2_BN: 2 bits per weight.
    Iq2,
    /// IQ2_BN_R4: IQ2_BN of four rows interleaved.
    Iq2Rows4,
}

impl IqBn {
    /// Rows that are stored together.
    const fn rows(self) -> usize {
        if matches!(self, Self::Iq2Rows4) { 4 } else { 1 }
    }

    /// Bytes of a scale.
    const fn scale_len(self) -> usize {
        if matches!(self, Self::Iq1) { 2 } else { 4 }
    }

    /// Bytes of the codes of 64 columns of a row.
    const fn block_len(self) -> usize {
        if matches!(self, Self::Iq1) { 13 } else { 16 }
    }

    /// Bytes of the rows that are stored together, with and without their codes.
    const fn lens(self, d_in: usize) -> (usize, usize) {
        let head = self.rows() * self.scale_len();
        (head + self.rows() * (d_in / 64) * self.block_len(), head)
    }

    /// Decodes rows that are stored together.
    fn read(self, bytes: &[u8], trits: &mut [i8], d_in: usize) {
        match self {
            Self::Iq1 => codes::read_digits(bytes, trits, iq1_place),
            Self::Iq2 => codes::read_bits(bytes, trits, 16, 1, iq2_place),
            Self::Iq2Rows4 => codes::read_bits(bytes, trits, 4, 1, iq2_rows4_place(d_in)),
        }
    }

    /// Encodes rows that are stored together.
    fn write(self, trits: &[i8], bytes: &mut [u8], d_in: usize) {
        match self {
            Self::Iq1 => codes::write_digits(trits, bytes, iq1_place),
            Self::Iq2 => codes::write_bits(trits, bytes, 16, 1, iq2_place),
            Self::Iq2Rows4 => codes::write_bits(trits, bytes, 4, 1, iq2_rows4_place(d_in)),
        }
    }

    fn scale_bytes(self, bytes: &mut [u8], row: usize, value: f32) -> Result<(), KernelError> {
        match self {
            Self::Iq1 => bytes.copy_from_slice(&scales::f16_bytes(self.name(), row, value)?),
            Self::Iq2 | Self::Iq2Rows4 => bytes.copy_from_slice(&value.to_le_bytes()),
        }
        Ok(())
    }
}

/// Byte of column `i`, and the power of three of its digit: per 16 columns three bytes of five, and a last byte with
/// the sixteenth columns.
const fn iq1_place(i: usize) -> (usize, usize) {
    let (block, group, l) = (i / 64, i % 64 / 16, i % 16);
    let (byte, power) = if l == 15 {
        (12, group)
    } else {
        (3 * group + l / 5, l % 5)
    };
    (13 * block + byte, power)
}

/// First byte of run `i` of 16 columns, and its bit in each byte.
const fn iq2_place(i: usize) -> (usize, usize) {
    (i / 4 * 16, i % 4 * 2)
}

/// First byte of run `i` of 4 columns, and its bit: the four runs of 16 columns share four bytes, row after row.
fn iq2_rows4_place(d_in: usize) -> impl Fn(usize) -> (usize, usize) {
    move |i| {
        let (row, run) = (i / (d_in / 4), i % (d_in / 4));
        (run / 4 * 16 + row * 4, run % 4 * 2)
    }
}

impl Layout for IqBn {
    fn name(&self) -> &'static str {
        match self {
            Self::Iq1 => "iq1_bn",
            Self::Iq2 => "iq2_bn",
            Self::Iq2Rows4 => "iq2_bn_r4",
        }
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        let fits = d_in.is_multiple_of(64) && d_out.is_multiple_of(self.rows());
        let rule = match self {
            Self::Iq1 | Self::Iq2 => "d_in must be a multiple of 64",
            Self::Iq2Rows4 => "d_in must be a multiple of 64 and d_out of 4",
        };
        check_shape(self.name(), d_out, d_in, fits, rule)?;
        Ok(d_out / self.rows() * self.lens(d_in).0)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let (len, head) = self.lens(d_in);
        let mut trits = vec![0; d_out * d_in];
        let mut values = Vec::with_capacity(d_out);
        let rows = trits.chunks_exact_mut(self.rows() * d_in);
        for (bytes, trits) in bytes.chunks_exact(len).zip(rows) {
            let (head, codes) = bytes.split_at(head);
            let read = if *self == Self::Iq1 {
                scales::read_f16
            } else {
                scales::read_f32
            };
            values.extend(head.chunks_exact(self.scale_len()).map(read));
            self.read(codes, trits, d_in);
        }
        codes::check(self.name(), &trits, 1, d_in)?;
        let granularity = Granularity::Row;
        let scale = scales::read_blocks(self.name(), &mut trits, granularity, values, d_out, d_in)?;
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
        let holds = "one scale per row";
        let shape = (d_out, d_in);
        let values =
            scales::write_blocks(self.name(), trits, scale, Granularity::Row, holds, shape)?;
        let (len, head) = self.lens(d_in);
        let rows = trits.chunks_exact(self.rows() * d_in);
        for (unit, (bytes, trits)) in bytes.chunks_exact_mut(len).zip(rows).enumerate() {
            let (head, codes) = bytes.split_at_mut(head);
            for (r, bytes) in head.chunks_exact_mut(self.scale_len()).enumerate() {
                let row = unit * self.rows() + r;
                self.scale_bytes(bytes, row, values[row])?;
            }
            self.write(trits, codes, d_in);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iq2_bn_puts_weights_16_apart_into_a_byte_low_bits_first() {
        let mut trits = [0; 128];
        (trits[64 + 3], trits[64 + 3 + 48]) = (1, -1);
        let bytes = IqBn::Iq2.pack(&trits, &Scale::Tensor(1.5), 1, 128).unwrap();
        assert_eq!(bytes[..4], 1.5_f32.to_le_bytes());
        assert_eq!(bytes[4 + 16 + 3], 0b00_01_01_10);
    }

    #[test]
    fn iq2_bn_r4_interleaves_four_rows() {
        let mut trits = [0; 4 * 64];
        // Row 2, columns 16·3 + 1 and 8 further.
        (trits[2 * 64 + 49], trits[2 * 64 + 57]) = (1, -1);
        let bytes = IqBn::Iq2Rows4
            .pack(&trits, &Scale::Tensor(2.0), 4, 64)
            .unwrap();
        assert_eq!(bytes.len(), 16 + 64);
        assert_eq!(bytes[8..12], 2.0_f32.to_le_bytes());
        assert_eq!(bytes[16 + 16 * 3 + 4 * 2 + 1], 0b01_00_01_10);
        assert_eq!(IqBn::Iq2Rows4.unpack(&bytes, 4, 64).unwrap().trits, trits);
    }

    #[test]
    fn iq1_bn_stores_the_first_weight_as_the_least_significant_digit() {
        let mut trits = [-1; 64];
        // n = 1 + 2·81 = 163 in byte 3·1 + 0, 2·9 = 18 in byte 12.
        (trits[16], trits[20], trits[47]) = (0, 1, 1);
        let bytes = IqBn::Iq1.pack(&trits, &Scale::Tensor(1.0), 1, 64).unwrap();
        let found: Vec<_> = bytes
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte != 0)
            .collect();
        // f16 1.0 = 0x3c00; ceil(163·256/243) = 172, ceil(18·256/243) = 19.
        assert_eq!(found, [(1, &0x3c), (2 + 3, &172), (2 + 12, &19)]);
        assert_eq!(IqBn::Iq1.unpack(&bytes, 1, 64).unwrap().trits, trits);
    }

    #[test]
    fn row_scales_come_back_and_finer_ones_are_refused() {
        let scale = Scale::Row(vec![0.5, 1.0, 0.5, 2.0]);
        for layout in [IqBn::Iq1, IqBn::Iq2, IqBn::Iq2Rows4] {
            let bytes = layout.pack(&[1; 256], &scale, 4, 64).unwrap();
            assert_eq!(
                layout.unpack(&bytes, 4, 64).unwrap().scale,
                Some(scale.clone())
            );
            let finer = Scale::Group {
                size: 32,
                values: (1..=8).map(|i| i as f32).collect(),
            };
            let error = layout.pack(&[1; 256], &finer, 4, 64).unwrap_err();
            assert!(matches!(error, KernelError::Granularity { .. }));
        }
        let scale = Scale::Row(vec![0.5, 0.1]);
        assert!(IqBn::Iq2.pack(&[1; 128], &scale, 2, 64).is_ok());
        let error = IqBn::Iq1.pack(&[1; 128], &scale, 2, 64).unwrap_err();
        assert!(matches!(error, KernelError::Scale { index: 1, .. }));
    }

    #[test]
    fn partial_blocks_and_row_groups_are_refused() {
        assert!(matches!(
            IqBn::Iq1.byte_len(1, 32),
            Err(KernelError::Shape { .. })
        ));
        assert!(matches!(
            IqBn::Iq2Rows4.byte_len(6, 64),
            Err(KernelError::Shape { .. })
        ));
    }
}
