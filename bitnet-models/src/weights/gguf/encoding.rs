//! Which tensor type a number means, and how many bytes it takes.
//!
//! Forks of one code base gave some numbers two meanings (36, 38, 39, 42), so a number has a list of candidates, and the
//! room that the file leaves for the tensor decides. A tensor that fills its room with no candidate is refused: so is a
//! matrix that was quantized in slices, each with a scale of its own. A number without candidates is opaque: it can be
//! listed, not read.

use bitnet_kernels::KernelError;
use bitnet_kernels::packing::Layout;
use bitnet_kernels::packing::i2_s::I2S;
use bitnet_kernels::packing::iq_bn::IqBn;
use bitnet_kernels::packing::q2_0::{Q2_0, Q2_0_GROUP128};
use bitnet_kernels::packing::tl::{Tl1, Tl2};
use bitnet_kernels::packing::tq::{TQ1_0, TQ2_0};

use super::blocks::{self, Blocks};
use crate::weights::FloatKind;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    /// One after the other.
    Floats(FloatKind),
    /// Blocks that widen to f32.
    Blocks(&'static Blocks),
    /// Trits with scales.
    Ternary(&'static dyn Layout),
    /// Known by size alone: this many bytes for this many numbers of a row.
    Opaque { bytes: usize, len: usize },
}

/// A tensor type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Number in the file.
    pub(super) number: u32,
    /// The name that its makers give it.
    pub(super) name: &'static str,
    pub(super) encoding: Encoding,
}

const fn kind(number: u32, name: &'static str, encoding: Encoding) -> Kind {
    Kind {
        number,
        name,
        encoding,
    }
}

pub(super) const F32: Kind = kind(0, "F32", Encoding::Floats(FloatKind::F32));
pub(super) const F16: Kind = kind(1, "F16", Encoding::Floats(FloatKind::F16));
const I2_S: u32 = 36;
const TL2_OR_MXFP4: u32 = 39;

/// Every type that can be read, and one that must be told from another. Of one number, the better claim comes first.
pub(super) static KINDS: &[Kind] = &[
    F32,
    F16,
    kind(30, "BF16", Encoding::Floats(FloatKind::BF16)),
    kind(2, "Q4_0", Encoding::Blocks(&blocks::Q4_0)),
    kind(8, "Q8_0", Encoding::Blocks(&blocks::Q8_0)),
    kind(12, "Q4_K", Encoding::Blocks(&blocks::Q4_K)),
    kind(14, "Q6_K", Encoding::Blocks(&blocks::Q6_K)),
    kind(34, "TQ1_0", Encoding::Ternary(&TQ1_0)),
    kind(35, "TQ2_0", Encoding::Ternary(&TQ2_0)),
    kind(I2_S, "I2_S", Encoding::Ternary(&I2S::Block128)),
    kind(38, "TL1", Encoding::Ternary(&Tl1 { tiles: None })),
    kind(
        TL2_OR_MXFP4,
        "MXFP4",
        Encoding::Opaque { bytes: 17, len: 32 },
    ),
    kind(TL2_OR_MXFP4, "TL2", Encoding::Ternary(&Tl2 { tiles: None })),
    kind(42, "Q2_0", Encoding::Ternary(&Q2_0)),
    kind(42, "Q2_0 (128)", Encoding::Ternary(&Q2_0_GROUP128)),
    kind(134, "IQ1_BN", Encoding::Ternary(&IqBn::Iq1)),
    kind(135, "IQ2_BN", Encoding::Ternary(&IqBn::Iq2)),
    kind(335, "IQ2_BN_R4", Encoding::Ternary(&IqBn::Iq2Rows4)),
];

/// Why no candidate fits.
#[derive(Debug)]
pub(super) enum Misfit {
    /// The type cannot hold a matrix of this shape.
    Shape(KernelError),
    /// It holds whole blocks only.
    Row { name: &'static str, len: usize },
    /// It takes another number of bytes.
    Size { name: &'static str, bytes: usize },
}

/// What decides between candidates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// Tensors start at multiples of this, so up to one less of padding follows each.
    pub(super) alignment: usize,
    /// Whether bitnet.cpp wrote the file, going by its architecture: then 39 is TL2.
    pub(super) bitnet_cpp: bool,
    /// Who packed the I2_S tensors.
    pub(super) i2_s: I2S,
}

/// The type that a number means for a tensor that has this much room, with its bytes; `None` if the number is unknown.
pub(super) fn resolve(
    number: u32,
    shape: &[usize],
    space: usize,
    circumstances: Circumstances,
) -> Result<Option<(Kind, usize)>, Misfit> {
    let (columns, rows) = match shape.split_last() {
        Some((&columns, rows)) => (columns, rows.iter().product()),
        None => (1, 1),
    };
    let mut misfit = None;
    for &(mut kind) in KINDS.iter().filter(|kind| kind.number == number) {
        if number == TL2_OR_MXFP4 && circumstances.bitnet_cpp && kind.name == "MXFP4" {
            continue;
        }
        if number == I2_S {
            kind.encoding = Encoding::Ternary(match circumstances.i2_s {
                I2S::Block128 => &I2S::Block128,
                I2S::Block64 => &I2S::Block64,
                I2S::Rows4 => &I2S::Rows4,
            });
        }
        match kind.byte_len(rows, columns) {
            Ok(bytes) if bytes <= space && space - bytes < circumstances.alignment => {
                return Ok(Some((kind, bytes)));
            }
            Ok(bytes) => {
                misfit = misfit.or(Some(Misfit::Size {
                    name: kind.name,
                    bytes,
                }))
            }
            Err(error) => misfit = misfit.or(Some(error)),
        }
    }
    misfit.map_or(Ok(None), Err)
}

impl Kind {
    /// Bytes of a matrix whose number of elements, times eight, is known to fit.
    pub(super) fn byte_len(&self, rows: usize, columns: usize) -> Result<usize, Misfit> {
        let blocks = |bytes: usize, len: usize| match columns.is_multiple_of(len) {
            true => Ok(rows * (columns / len) * bytes),
            false => Err(Misfit::Row {
                name: self.name,
                len,
            }),
        };
        match self.encoding {
            Encoding::Floats(FloatKind::F32) => blocks(4, 1),
            Encoding::Floats(FloatKind::F16 | FloatKind::BF16) => blocks(2, 1),
            Encoding::Blocks(kind) => blocks(kind.bytes, kind.len),
            Encoding::Opaque { bytes, len } => blocks(bytes, len),
            Encoding::Ternary(layout) => layout.byte_len(rows, columns).map_err(Misfit::Shape),
        }
    }
}
