//! One safetensors file: eight bytes of header length, a JSON header, the data.
//!
//! Proven on opening: the header lies in the file, no name occurs twice, each tensor has the bytes of its type and
//! shape, and the tensors cover the data without hole or overlap. The library `safetensors` gives the types; its own
//! reader names no tensor in most errors, accepts names that occur twice, and adds up offsets unchecked.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use super::mapped::Mapped;
use crate::ModelError;

/// Largest header that the library writes or reads.
const HEADER_LIMIT: u64 = 100_000_000;
/// Bytes of the header length.
const LENGTH: usize = 8;
const METADATA: &str = "__metadata__";
/// What helps against damage.
pub(super) const WAY_OUT: &str = "The file is damaged: download or convert it again";

/// An opened file.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    map: Mapped,
    /// In the order of the data.
    pub(super) tensors: Vec<Stored>,
}

/// One tensor of a file.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub(super) range: Range<usize>,
}

/// Whether a file begins like safetensors.
pub(super) fn begins(start: &[u8]) -> bool {
    let length = start.first_chunk().map(|&bytes| u64::from_le_bytes(bytes));
    length.is_some_and(|length| length <= HEADER_LIMIT) && start.get(LENGTH) == Some(&b'{')
}

impl SafetensorsFile {
    /// Opens a file and proves its header.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let map = Mapped::open(path)?;
        let tensors = read_header(&map)?;
        Ok(Self { map, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        self.map.path()
    }

    /// The bytes of a tensor of this file.
    pub(super) fn bytes(&self, tensor: &Stored) -> &[u8] {
        self.map.bytes(tensor.range.clone())
    }
}

/// The beginning of a file that holds these tensors, whose offsets follow one another from 0.
pub(super) fn header(tensors: Vec<(String, TensorInfo)>) -> Vec<u8> {
    // transformers refuses a file that does not say for which framework it is.
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(format), tensors).expect("tensors in a row");
    let mut json = serde_json::to_vec(&metadata).expect("plain data");
    json.resize(json.len().next_multiple_of(LENGTH), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

fn read_header(map: &Mapped) -> Result<Vec<Stored>, ModelError> {
    let refuse = |what: &str, found: String, expected: String| ModelError::File {
        path: map.path().to_path_buf(),
        what: what.into(),
        found,
        expected,
        way_out: WAY_OUT.into(),
    };
    let size = map.len();
    if size < LENGTH {
        let expected = format!("at least {LENGTH}, for the length of a safetensors header");
        return Err(refuse("its size", format!("{size} bytes"), expected));
    }
    let length = map.bytes(0..LENGTH).first_chunk().expect("eight bytes");
    let length = u64::from_le_bytes(*length);
    let limit = HEADER_LIMIT.min((size - LENGTH) as u64);
    if length > limit {
        let expected = format!("at most {limit}, in a file of {size} bytes");
        return Err(refuse(
            "the header length",
            format!("{length} bytes"),
            expected,
        ));
    }
    let data = LENGTH + length as usize;
    let header = serde_json::from_slice(map.bytes(LENGTH..data));
    let Header(mut tensors) = header.map_err(|error| {
        let expected = "a JSON object of tensors, each with dtype, shape and data_offsets";
        refuse("the header", error.to_string(), expected.into())
    })?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut position = 0;
    let mut names = HashSet::new();
    for (name, info) in &tensors {
        position = prove(name, info, position, size - data).map_err(|(found, expected)| {
            ModelError::Tensor {
                path: map.path().to_path_buf(),
                name: name.clone(),
                found,
                expected,
                way_out: WAY_OUT.into(),
            }
        })?;
        if !names.insert(name) {
            let found = format!("`{name}` twice");
            return Err(refuse("the header", found, "every name once".into()));
        }
    }
    if position != size - data {
        let found = format!("{} bytes", size - data);
        return Err(refuse(
            "the data",
            found,
            format!("{position} bytes for its tensors"),
        ));
    }
    let stored = tensors.into_iter().map(|(name, info)| Stored {
        name,
        dtype: info.dtype,
        shape: info.shape,
        range: data + info.data_offsets.0..data + info.data_offsets.1,
    });
    Ok(stored.collect())
}

/// Proves one tensor that should begin at `position`, and returns its end. The error is what was found and expected.
fn prove(
    name: &str,
    info: &TensorInfo,
    position: usize,
    data: usize,
) -> Result<usize, (String, String)> {
    let (start, end) = info.data_offsets;
    let (dtype, shape) = (info.dtype, &info.shape);
    let offsets = format!("data offsets {start}..{end}");
    if name.is_empty() || end < start || end > data {
        return Err((
            offsets,
            format!("a named range within the {data} bytes of data"),
        ));
    }
    if start != position {
        return Err((
            offsets,
            format!("a start at {position}, where the tensor before ends"),
        ));
    }
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &dimension| {
        bits.checked_mul(dimension)
    });
    match bits {
        Some(bits) if bits.is_multiple_of(8) && bits / 8 == end - start => Ok(end),
        Some(bits) => {
            let found = format!("{} bytes", end - start);
            let size = bits.div_ceil(8);
            Err((found, format!("{size} whole bytes for {dtype} {shape:?}")))
        }
        None => Err((
            format!("{dtype} {shape:?}"),
            "a shape that fits the address space".into(),
        )),
    }
}

/// The tensors of a header, in the order in which it names them.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info = map.next_value();
                    let info = info.map_err(|error| {
                        A::Error::custom(format_args!("tensor `{name}`: {error}"))
                    })?;
                    tensors.push((name, info));
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
