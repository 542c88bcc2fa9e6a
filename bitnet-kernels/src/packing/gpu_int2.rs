//! The int2 tiles of Microsoft's GPU checkpoints (`model_state_int2.pt`): codes `trit + 2`, scales stored elsewhere.
//!
//! Tiles of 16 rows x 32 columns, in row order. Inside a tile: row half of 8, column half of 16, row; then the 16 codes of
//! that row as one little-endian word, code `e` at bit `8·(e mod 4) + 2·(e div 4)`. Code 0 (-2) is refused.

use super::{Layout, Unpacked, check_dimensions, check_len, check_shape, codes, new_bytes};
use crate::{KernelError, Scale};

/// The layout; `d_out` a multiple of 16, `d_in` of 32.
#[derive(Debug, Clone, Copy)]
pub struct GpuInt2;

/// Four consecutive columns lie in the four bytes of a word.
const RUN: usize = 4;
/// The code of trit 0.
const ZERO: i8 = 2;

/// First byte of run `i`, and its bit in each byte.
fn place(d_in: usize) -> impl Fn(usize) -> (usize, usize) {
    move |i| {
        let (row, column) = (i / (d_in / RUN), i % (d_in / RUN) * RUN);
        let tile = row / 16 * (d_in / 32) + column / 32;
        let (row_half, column_half) = (row % 16 / 8, column % 32 / 16);
        let word = ((tile * 2 + row_half) * 2 + column_half) * 8 + row % 8;
        (4 * word, column % 16 / RUN * 2)
    }
}

impl Layout for GpuInt2 {
    fn name(&self) -> &'static str {
        "gpu-int2"
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        let fits = d_out.is_multiple_of(16) && d_in.is_multiple_of(32);
        let rule = "d_out must be a multiple of 16 and d_in of 32";
        check_shape(self.name(), d_out, d_in, fits, rule)?;
        Ok(d_out * d_in / 4)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let mut trits = vec![0; d_out * d_in];
        codes::read_bits(bytes, &mut trits, RUN, ZERO, place(d_in));
        codes::check(self.name(), &trits, ZERO, d_in)?;
        Ok(Unpacked { trits, scale: None })
    }

    fn pack(
        &self,
        trits: &[i8],
        _: &Scale,
        d_out: usize,
        d_in: usize,
    ) -> Result<Vec<u8>, KernelError> {
        let mut bytes = new_bytes(self, trits, d_out, d_in)?;
        codes::write_bits(trits, &mut bytes, RUN, ZERO, place(d_in));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_lies_in_its_tile_halves_row_and_word() {
        let (row, column) = (16 + 9, 32 + 16 + 7);
        let mut trits = vec![0; 32 * 64];
        trits[row * 64 + column] = 1;
        let bytes = GpuInt2.pack(&trits, &Scale::Tensor(1.0), 32, 64).unwrap();
        // Tile 3, second row half, second column half, row 1 of 8; element 7 of 16: byte 3, bit 2.
        let at = 3 * 128 + 64 + 32 + 4 + 3;
        let found: Vec<_> = bytes
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte != 0xaa)
            .collect();
        assert_eq!(found, [(at, &0b10_10_11_10)]);
    }

    #[test]
    fn code_zero_is_refused_with_its_row_and_column() {
        let mut bytes = [0b01_01_01_01; 128];
        bytes[32 + 4 + 1] = 0b01_00_01_01;
        let error = GpuInt2.unpack(&bytes, 16, 32).unwrap_err();
        let expected = KernelError::Code {
            layout: "gpu-int2",
            row: 1,
            column: 16 + 9,
            code: 0,
        };
        assert_eq!(error, expected);
    }

    #[test]
    fn partial_tiles_are_refused() {
        assert!(matches!(
            GpuInt2.byte_len(8, 32),
            Err(KernelError::Shape { .. })
        ));
        assert!(matches!(
            GpuInt2.byte_len(16, 16),
            Err(KernelError::Shape { .. })
        ));
    }
}
