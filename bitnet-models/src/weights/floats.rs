//! Floats as files hold them: little-endian bytes that are widened to f32 a range at a time.
//!
//! No alignment is assumed. Narrowing rounds to the nearest, ties to even.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use super::{FloatKind, Floats};

impl FloatKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name that safetensors and GGUF give it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The bytes of these numbers.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect(),
            Self::BF16 => values
                .iter()
                .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                .collect(),
        }
    }
}

impl<'a> Floats<'a> {
    /// Takes the bytes of a tensor.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are not those of the shape: a format proves that before.
    pub fn new(kind: FloatKind, shape: Vec<usize>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        let count = shape
            .iter()
            .try_fold(kind.size(), |size, &d| size.checked_mul(d));
        assert_eq!(
            count,
            Some(bytes.len()),
            "bytes of {} {shape:?}",
            kind.name()
        );
        Self { kind, shape, bytes }
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Widens a range of the flat numbers into `out`.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in the tensor or `out` has another length.
    pub fn read(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "numbers asked for and room");
        let size = self.kind.size();
        let bytes = &self.bytes[range.start * size..range.end * size];
        match self.kind {
            FloatKind::F32 => widen(bytes, out, f32::from_le_bytes),
            FloatKind::F16 => widen(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            FloatKind::BF16 => widen(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }

    /// The numbers, widened a few at a time, where a copy of all would be too much.
    pub fn iter(&self) -> impl Iterator<Item = f32> {
        const BLOCK: usize = 64;
        (0..self.len()).step_by(BLOCK).flat_map(|start| {
            let mut block = [0.0; BLOCK];
            let count = BLOCK.min(self.len() - start);
            self.read(start..start + count, &mut block[..count]);
            block.into_iter().take(count)
        })
    }

    /// All numbers, widened.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.read(0..values.len(), &mut values);
        values
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<N>();
    for (out, &number) in out.iter_mut().zip(numbers) {
        *out = decode(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_widens_what_it_encoded_from_any_address() {
        let values = [1.5, -2.0, 0.0, f32::INFINITY, 0.25, 96.0];
        for kind in FloatKind::ALL {
            let mut bytes = vec![0];
            bytes.extend(kind.encode(&values));
            let floats = Floats::new(kind, vec![3, 2], &bytes[1..]);
            assert_eq!(
                (floats.len(), floats.to_f32()),
                (6, values.to_vec()),
                "{kind:?}"
            );
            assert!(floats.iter().eq(values), "{kind:?}");
            let mut two = [0.0; 2];
            floats.read(3..5, &mut two);
            assert_eq!(two, values[3..5]);
            assert_eq!(FloatKind::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn encoding_rounds_to_the_nearest_even() {
        let between = 1.0 + 2_f32.powi(-8);
        assert_eq!(FloatKind::BF16.encode(&[between]), 0x3f80_u16.to_le_bytes());
        assert_eq!(
            FloatKind::BF16.encode(&[between + 2_f32.powi(-7)]),
            0x3f82_u16.to_le_bytes()
        );
    }
}
