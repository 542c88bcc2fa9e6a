//! Packed `uint8` weights of Hugging Face checkpoints: four rows share a byte, a quarter of the matrix apart.
//!
//! With `R = ceil(d_out / 4)`, byte `[r, c]` of the `[R, d_in]` array holds the codes `trit + 1` of rows `r`, `r + R`,
//! `r + 2R`, `r + 3R` of column `c`, first row in the low bits. Slots of rows beyond `d_out` are written as 0, as the
//! reference does, and ignored on reading. The scale is a tensor of its own (`weight_scale`), so none is inside.

use super::{Layout, Unpacked, check_dimensions, check_len, codes, new_bytes};
use crate::{KernelError, Scale};

/// The layout; any shape.
#[derive(Debug, Clone, Copy)]
pub struct Hf;

/// Row `i` is one run: its first byte and its bit in each byte.
fn place(d_out: usize, d_in: usize) -> impl Fn(usize) -> (usize, usize) {
    let quarter = d_out.div_ceil(4);
    move |row| (row % quarter * d_in, row / quarter * 2)
}

impl Layout for Hf {
    fn name(&self) -> &'static str {
        "hf"
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        Ok(d_out.div_ceil(4) * d_in)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let mut trits = vec![0; d_out * d_in];
        codes::read_bits(bytes, &mut trits, d_in, 1, place(d_out, d_in));
        codes::check(self.name(), &trits, 1, d_in)?;
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
        codes::write_bits(trits, &mut bytes, d_in, 1, place(d_out, d_in));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_rows_take_two_byte_rows_and_surplus_slots_are_zero() {
        // Rows 0, 2, 4 and a missing one share byte 0; rows 1, 3 and two missing ones byte 1.
        let bytes = Hf
            .pack(&[1, 0, -1, 1, 0], &Scale::Tensor(1.0), 5, 1)
            .unwrap();
        assert_eq!(bytes, [0b00_01_00_10, 0b00_00_10_01]);
        // What stands in a surplus slot does not matter.
        let unpacked = Hf.unpack(&[0b11_01_00_10, 0b11_10_10_01], 5, 1).unwrap();
        assert_eq!(
            unpacked,
            Unpacked {
                trits: vec![1, 0, -1, 1, 0],
                scale: None
            }
        );
    }

    #[test]
    fn code_three_is_refused_with_its_row_and_column() {
        let error = Hf.unpack(&[0, 0, 0, 0b11_00_00], 8, 2).unwrap_err();
        assert_eq!(
            error,
            KernelError::Code {
                layout: "hf",
                row: 5,
                column: 1,
                code: 3
            }
        );
    }

    #[test]
    fn a_buffer_of_unrounded_length_is_refused() {
        let error = Hf.unpack(&[0; 4], 5, 3).unwrap_err();
        assert!(matches!(
            error,
            KernelError::Length {
                found: 4,
                expected: 6,
                ..
            }
        ));
    }
}
