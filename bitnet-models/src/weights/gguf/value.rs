//! Metadata values of a GGUF file, borrowed from it.
//!
//! Scalars are decoded, arrays stay bytes until they are walked: a vocabulary of 128 thousand strings costs nothing to
//! skip. A value that exists was walked once, so walking it again finds no fault.

use std::fmt;

use super::reader::{DOWNLOAD, Reader};
use crate::ModelError;

/// Arrays in arrays, at most: known files have none.
const MAX_DEPTH: usize = 3;

/// Type numbers of values.
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const TEXT: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// Any of the signed integers.
    Signed(i64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit float.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// Many values of one type.
    Array(Array<'a>),
}

/// An array of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// An integer that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A number. Of a 32-bit float the shortest decimal that means it, so that 1e-5 is 1e-5.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            Value::F32(value) => value.to_string().parse().ok(),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Text.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Reads a type number and a value.
    pub(super) fn read(reader: &mut Reader<'a, '_>, what: &str) -> Result<Self, ModelError> {
        let kind = reader.u32(what)?;
        Self::read_kind(reader, kind, what, 0)
    }

    fn read_kind(
        reader: &mut Reader<'a, '_>,
        kind: u32,
        what: &str,
        depth: usize,
    ) -> Result<Self, ModelError> {
        if kind == TEXT {
            return reader.text(what).map(Value::Text);
        }
        if kind == ARRAY {
            return Array::read(reader, what, depth).map(Value::Array);
        }
        let Some(size) = scalar_size(kind) else {
            let found = format!("value type {kind}");
            return Err(reader.bad(what, found, "a type from 0 to 12", DOWNLOAD));
        };
        let bytes = reader.take(size, what)?;
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        Ok(match kind {
            1 => Value::Signed(bits as u8 as i8 as i64),
            3 => Value::Signed(bits as u16 as i16 as i64),
            I32 => Value::Signed(bits as u32 as i32 as i64),
            11 => Value::Signed(bits as i64),
            F32 => Value::F32(f32::from_bits(bits as u32)),
            12 => Value::F64(f64::from_bits(bits)),
            BOOL if bits > 1 => {
                return Err(reader.bad(what, format!("the bool {bits}"), "0 or 1", DOWNLOAD));
            }
            BOOL => Value::Bool(bits == 1),
            _ => Value::Unsigned(bits),
        })
    }
}

/// Bytes of a number, `None` for other types.
const fn scalar_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | BOOL => Some(1),
        2 | 3 => Some(2),
        U32 | I32 | F32 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Array { kind, len, bytes } = *self;
        let path = std::path::Path::new("");
        let mut reader = Reader { bytes, at: 0, path };
        (0..len).map_while(move |_| Value::read_kind(&mut reader, kind, "array", 0).ok())
    }

    fn read(reader: &mut Reader<'a, '_>, what: &str, depth: usize) -> Result<Self, ModelError> {
        if depth == MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels");
            return Err(reader.bad(what, "arrays nested deeper", expected, DOWNLOAD));
        }
        let kind = reader.u32(what)?;
        // A string takes at least its length, an array its type and length.
        let size = match kind {
            TEXT => 8,
            ARRAY => 12,
            _ => scalar_size(kind).unwrap_or(1),
        };
        let len = reader.count(what, size)?;
        let start = reader.at;
        match kind {
            TEXT | ARRAY | BOOL => {
                for _ in 0..len {
                    Value::read_kind(reader, kind, what, depth + 1)?;
                }
            }
            _ if scalar_size(kind).is_some() => {
                reader.take(len * size, what)?;
            }
            _ => {
                let found = format!("element type {kind}");
                return Err(reader.bad(what, found, "a type from 0 to 12", DOWNLOAD));
            }
        }
        Ok(Self {
            kind,
            len,
            bytes: &reader.bytes[start..reader.at],
        })
    }
}

/// Arrays are shown by their length and first elements, long texts by their beginning.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(value) => value.fmt(f),
            Value::Signed(value) => value.fmt(f),
            Value::F32(value) => value.fmt(f),
            Value::F64(value) => value.fmt(f),
            Value::Bool(value) => value.fmt(f),
            Value::Text(text) => match text.char_indices().nth(60) {
                None => write!(f, "{text:?}"),
                Some((end, _)) => write!(f, "{:?}…", &text[..end]),
            },
            Value::Array(array) => {
                write!(f, "{} values [", array.len)?;
                for (i, value) in array.iter().take(3).enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                write!(f, "{}]", if array.len > 3 { ", …" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Value<'_>, ModelError> {
        let path = Path::new("x");
        Value::read(&mut Reader { bytes, at: 0, path }, "key `k`")
    }

    #[test]
    fn a_float_reads_as_the_decimal_that_was_meant() {
        let bytes = [[6, 0, 0, 0], 1e-5_f32.to_le_bytes()].concat();
        assert_eq!(read(&bytes).unwrap().as_float(), Some(1e-5));
    }

    #[test]
    fn signed_values_keep_their_sign() {
        for (kind, bytes) in [
            (1, &[0xfe][..]),
            (3, &[0xfe, 0xff]),
            (5, &[0xfe, 0xff, 0xff, 0xff]),
        ] {
            let bytes = [&[kind, 0, 0, 0], bytes].concat();
            assert_eq!(read(&bytes).unwrap(), Value::Signed(-2));
            assert_eq!(read(&bytes).unwrap().as_unsigned(), None);
        }
    }

    #[test]
    fn arrays_may_be_nested_a_little() {
        let nested = |levels: usize| {
            let mut bytes = Vec::new();
            for _ in 0..levels {
                bytes.extend([9, 0, 0, 0]);
                if bytes.len() > 4 {
                    bytes.extend(1_u64.to_le_bytes());
                }
            }
            bytes.extend([0, 0, 0, 0]);
            bytes.extend(1_u64.to_le_bytes());
            bytes.push(7);
            bytes
        };
        assert_eq!(
            read(&nested(3)).unwrap().to_string(),
            "1 values [1 values [1 values [7]]]"
        );
        let message = read(&nested(4)).unwrap_err().to_string();
        assert!(message.contains("nested deeper"), "{message}");
    }
}
