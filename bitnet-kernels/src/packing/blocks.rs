//! What ggml's block layouts have in common: each block of a row holds its codes and one f16 scale `d`.
//!
//! A matrix is its blocks in row order, so a row must be whole blocks. Weight = `d · trit`.

use super::{Layout, Unpacked, check_dimensions, check_len, check_shape, codes, new_bytes, scales};
use crate::{Granularity, KernelError, Scale};

/// A layout of blocks, described by the file that owns it.
#[derive(Debug)]
pub struct Blocks {
    pub(super) name: &'static str,
    /// Weights per block, with the two sentences that say so.
    pub(super) size: usize,
    pub(super) rule: &'static str,
    pub(super) holds: &'static str,
    /// Bytes of codes, and where they start.
    pub(super) code_len: usize,
    pub(super) codes_at: usize,
    /// Where `d` starts.
    pub(super) scale_at: usize,
    /// Decodes and encodes the codes of one block.
    pub(super) read: fn(&[u8], &mut [i8]),
    pub(super) write: fn(&[i8], &mut [u8]),
}

impl Blocks {
    const fn block_len(&self) -> usize {
        self.code_len + 2
    }

    const fn granularity(&self) -> Granularity {
        Granularity::Group(self.size)
    }
}

impl Layout for Blocks {
    fn name(&self) -> &'static str {
        self.name
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        check_shape(
            self.name,
            d_out,
            d_in,
            d_in.is_multiple_of(self.size),
            self.rule,
        )?;
        Ok(d_out * (d_in / self.size) * self.block_len())
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let mut trits = vec![0; d_out * d_in];
        let mut values = Vec::with_capacity(trits.len() / self.size);
        let blocks = bytes.chunks_exact(self.block_len());
        for (block, trits) in blocks.zip(trits.chunks_exact_mut(self.size)) {
            (self.read)(&block[self.codes_at..], trits);
            values.push(scales::read_f16(&block[self.scale_at..]));
        }
        codes::check(self.name, &trits, 1, d_in)?;
        let granularity = self.granularity();
        let scale = scales::read_blocks(self.name, &mut trits, granularity, values, d_out, d_in)?;
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
        let shape = (d_out, d_in);
        let values = scales::write_blocks(
            self.name,
            trits,
            scale,
            self.granularity(),
            self.holds,
            shape,
        )?;
        let blocks = bytes
            .chunks_exact_mut(self.block_len())
            .zip(trits.chunks_exact(self.size));
        for ((index, &value), (block, trits)) in values.iter().enumerate().zip(blocks) {
            (self.write)(trits, &mut block[self.codes_at..][..self.code_len]);
            let d = scales::f16_bytes(self.name, index, value)?;
            block[self.scale_at..][..2].copy_from_slice(&d);
        }
        Ok(bytes)
    }
}
