//! Bit layouts of ternary matrices: pure functions between bytes and trits, no Burn, no `unsafe`.
//!
//! [`words`] is our own, canonical layout, and [`base3`] a smaller one made of it. The others belong to file formats; each is
//! one file and one line in [`LAYOUTS`], and the property tests run over that list. Trits are `i8` values -1, 0, 1, row-major `[d_out, d_in]`.

pub mod base3;
mod blocks;
mod codes;
pub mod gpu_int2;
pub mod hf;
pub mod i2_s;
pub mod iq_bn;
pub mod q2_0;
mod scales;
pub mod tl;
pub mod tq;
pub mod words;

use crate::{KernelError, Scale};

/// Largest `d_in`: with |x| ≤ 128, a sum of codes 0..2 times activations stays below 2³¹ for d_in < 2²³.
pub const MAX_D_IN: usize = 1 << 23;

/// How kernels find the codes of a ternary matrix in memory, and our own files on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Packing {
    /// Canonical [`words`]: 2 bits a weight, on every device.
    #[default]
    Words,
    /// [`base3`] bytes: 1.6 bits a weight, for CPUs whose kernel has loops for them.
    Base3,
}

impl Packing {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Words, Self::Base3];
}

/// What a foreign buffer holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// Row-major `[d_out, d_in]` values -1, 0, 1.
    pub trits: Vec<i8>,
    /// The scales, if the layout carries them inside.
    pub scale: Option<Scale>,
}

/// A foreign bit layout.
pub trait Layout: std::fmt::Debug + Sync {
    /// Name in messages and on the command line.
    fn name(&self) -> &'static str;

    /// Bytes that a `d_out` x `d_in` matrix takes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] or [`KernelError::Dimensions`] if the layout has no room for the shape.
    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError>;

    /// Reads a matrix.
    ///
    /// # Errors
    ///
    /// Wrong lengths, codes that mean no trit and non-finite scales, each with its position.
    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError>;

    /// Writes a matrix. Layouts without scales inside ignore `scale`: the caller stores it beside.
    ///
    /// # Errors
    ///
    /// What [`unpack`](Self::unpack) would refuse, scales the layout cannot hold, [`KernelError::ReadOnly`].
    fn pack(
        &self,
        trits: &[i8],
        scale: &Scale,
        d_out: usize,
        d_in: usize,
    ) -> Result<Vec<u8>, KernelError>;
}

/// Every foreign layout.
pub static LAYOUTS: &[&dyn Layout] = &[
    &hf::Hf,
    &i2_s::I2S::Block128,
    &i2_s::I2S::Block64,
    &i2_s::I2S::Rows4,
    &tq::TQ1_0,
    &tq::TQ2_0,
    &q2_0::Q2_0,
    &q2_0::Q2_0_GROUP128,
    &gpu_int2::GpuInt2,
    &tl::Tl1 { tiles: None },
    &tl::Tl2 { tiles: None },
    &iq_bn::IqBn::Iq1,
    &iq_bn::IqBn::Iq2,
    &iq_bn::IqBn::Iq2Rows4,
];

/// Proves that both dimensions are at least 1, that sums stay exact and that sizes fit `usize`.
pub(crate) fn check_dimensions(d_out: usize, d_in: usize) -> Result<(), KernelError> {
    let refuse = |rule| Err(KernelError::Dimensions { d_out, d_in, rule });
    if d_out == 0 || d_in == 0 {
        return refuse("both dimensions must be at least 1");
    }
    if d_in >= MAX_D_IN {
        return refuse("d_in must be below 2^23, so that 32-bit sums are exact");
    }
    // Eight bytes per weight is more than any layout takes, so sizes computed from here on cannot overflow.
    if d_out
        .checked_mul(d_in)
        .and_then(|n| n.checked_mul(8))
        .is_none_or(|n| n > isize::MAX as usize)
    {
        return refuse("the number of weights does not fit the address space");
    }
    Ok(())
}

/// Proves that `trits` is a `d_out` x `d_in` matrix of -1, 0 and 1.
pub(crate) fn check_trits(
    what: &'static str,
    trits: &[i8],
    d_out: usize,
    d_in: usize,
) -> Result<(), KernelError> {
    check_dimensions(d_out, d_in)?;
    if trits.len() != d_out * d_in {
        return Err(KernelError::Length {
            what,
            unit: "values",
            found: trits.len(),
            expected: d_out * d_in,
            d_out,
            d_in,
        });
    }
    match trits.iter().position(|trit| !(-1..=1).contains(trit)) {
        None => Ok(()),
        Some(at) => Err(KernelError::NotTernary {
            row: at / d_in,
            column: at % d_in,
            value: trits[at],
        }),
    }
}

/// Proves that `bytes` has the length that `layout` needs.
pub(crate) fn check_len(
    layout: &dyn Layout,
    bytes: &[u8],
    d_out: usize,
    d_in: usize,
) -> Result<(), KernelError> {
    let expected = layout.byte_len(d_out, d_in)?;
    if bytes.len() == expected {
        return Ok(());
    }
    Err(KernelError::Length {
        what: layout.name(),
        unit: "bytes",
        found: bytes.len(),
        expected,
        d_out,
        d_in,
    })
}

/// Turns a broken shape rule of a layout into its error.
pub(crate) fn check_shape(
    layout: &'static str,
    d_out: usize,
    d_in: usize,
    fits: bool,
    rule: &'static str,
) -> Result<(), KernelError> {
    if fits {
        Ok(())
    } else {
        Err(KernelError::Shape {
            layout,
            d_out,
            d_in,
            rule,
        })
    }
}

/// Proves shape and trits on the way out, and makes the zeroed bytes to write them into.
pub(crate) fn new_bytes(
    layout: &dyn Layout,
    trits: &[i8],
    d_out: usize,
    d_in: usize,
) -> Result<Vec<u8>, KernelError> {
    let len = layout.byte_len(d_out, d_in)?;
    check_trits(layout.name(), trits, d_out, d_in)?;
    Ok(vec![0; len])
}
