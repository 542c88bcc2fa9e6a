//! The GGUF container, versions 2 and 3: header, metadata, tensor directory.
//!
//! Parsing borrows from the mapped file and allocates in proportion to the items that really stand there: every count
//! and length is compared with the bytes that are left before it is believed. What comes out is proven: names and keys
//! are unique UTF-8, sizes do not overflow, each tensor has a place of its own inside the file.
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashSet;
use std::path::Path;

use super::reader::{DOWNLOAD, Reader};
use super::value::Value;
use crate::ModelError;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Unless `general.alignment` says otherwise.
pub(super) const ALIGNMENT: usize = 32;
const MAX_DIMENSIONS: u32 = 4;
/// Least bytes of a key (two lengths or types, one byte of value) and of a tensor in the directory.
const MIN_KEY: usize = 13;
const MIN_TENSOR: usize = 24;

/// What the file says of itself.
#[derive(Debug)]
pub(super) struct Container<'a> {
    /// Keys and values in file order.
    pub(super) metadata: Vec<(&'a str, Value<'a>)>,
    /// Tensors in the order of the directory.
    pub(super) tensors: Vec<Place<'a>>,
    /// Tensors start at multiples of this.
    pub(super) alignment: usize,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    /// Dimensions, slowest first (the file has the contiguous one first). All at least 1, their product fits.
    pub(super) shape: Vec<usize>,
    /// Number of its encoding.
    pub(super) number: u32,
    /// First byte in the file.
    pub(super) at: usize,
    /// Bytes from there to the next tensor or the end of the file; at least 1.
    pub(super) space: usize,
}

impl<'a> Container<'a> {
    pub(super) fn parse(bytes: &'a [u8], path: &Path) -> Result<Self, ModelError> {
        let mut reader = Reader { bytes, at: 0, path };
        header(&mut reader)?;
        let tensor_count = reader.count("tensor count", MIN_TENSOR)?;
        let key_count = reader.count("key count", MIN_KEY)?;
        let mut keys = HashSet::new();
        let mut metadata = Vec::new();
        for index in 0..key_count {
            let what = format!("key {index}");
            let key = reader.text(&what)?;
            if !keys.insert(key) {
                return Err(reader.bad(&what, format!("`{key}` again"), "each key once", DOWNLOAD));
            }
            metadata.push((key, Value::read(&mut reader, &format!("key `{key}`"))?));
        }
        let alignment = alignment(&reader, &metadata)?;
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for index in 0..tensor_count {
            let what = format!("tensor {index}");
            let tensor = entry(&mut reader, &what, alignment)?;
            if !names.insert(tensor.name) {
                let found = format!("`{}` again", tensor.name);
                return Err(reader.bad(&what, found, "each name once", DOWNLOAD));
            }
            tensors.push(tensor);
        }
        place(
            &mut tensors,
            reader.at.next_multiple_of(alignment),
            bytes.len(),
            path,
        )?;
        Ok(Self {
            metadata,
            tensors,
            alignment,
        })
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<Value<'a>> {
        let entry = self.metadata.iter().find(|(name, _)| *name == key);
        entry.map(|(_, value)| *value)
    }
}

fn header(reader: &mut Reader<'_, '_>) -> Result<(), ModelError> {
    let magic = reader.take(4, "magic")?;
    if magic != MAGIC {
        let found = format!("`{}`", magic.escape_ascii());
        return Err(reader.bad("magic", found, "`GGUF`", "This is no GGUF file"));
    }
    match reader.u32("version")? {
        2 | 3 => Ok(()),
        version if matches!(version.swap_bytes(), 1..=3) => Err(reader.bad(
            "byte order",
            "big endian",
            "little endian",
            "Convert the model on a little-endian machine, or byte-swap the file with the tools of its converter",
        )),
        version => Err(reader.bad(
            "version",
            version.to_string(),
            "2 or 3",
            "Convert the model again with a current converter",
        )),
    }
}

fn alignment(reader: &Reader<'_, '_>, metadata: &[(&str, Value<'_>)]) -> Result<usize, ModelError> {
    let key = "general.alignment";
    match metadata.iter().find(|(name, _)| *name == key) {
        None => Ok(ALIGNMENT),
        Some((_, value)) => match value.as_unsigned() {
            // A bound far below what would overflow.
            Some(value) if value.is_power_of_two() && value <= 1 << 30 => Ok(value as usize),
            _ => {
                let expected = "a power of two up to 2^30";
                Err(reader.bad(
                    &format!("key `{key}`"),
                    value.to_string(),
                    expected,
                    DOWNLOAD,
                ))
            }
        },
    }
}

/// One tensor of the directory, `at` being its offset still.
fn entry<'a>(
    reader: &mut Reader<'a, '_>,
    what: &str,
    alignment: usize,
) -> Result<Place<'a>, ModelError> {
    let name = reader.text(what)?;
    let what = format!("tensor `{name}`");
    let dimensions = reader.u32(&what)?;
    if dimensions > MAX_DIMENSIONS {
        let found = format!("{dimensions} dimensions");
        let expected = format!("at most {MAX_DIMENSIONS}");
        return Err(reader.bad(&what, found, expected, DOWNLOAD));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(reader.u64(&what)?);
    }
    // Eight bytes per number is more than any encoding takes, so that sizes computed from here on fit.
    let product = sizes.iter().try_fold(8_u64, |n, &size| n.checked_mul(size));
    if product.is_none_or(|n| n == 0 || n > isize::MAX as u64) {
        let found = format!("dimensions {sizes:?}");
        let expected = "none of them 0, and a product that fits the address space";
        return Err(reader.bad(&what, found, expected, DOWNLOAD));
    }
    let number = reader.u32(&what)?;
    let offset = reader.u64(&what)?;
    if !offset.is_multiple_of(alignment as u64) {
        let found = format!("offset {offset}");
        let expected = format!("a multiple of {alignment}");
        return Err(reader.bad(&what, found, expected, DOWNLOAD));
    }
    Ok(Place {
        name,
        shape: sizes.iter().rev().map(|&size| size as usize).collect(),
        number,
        at: usize::try_from(offset).unwrap_or(usize::MAX),
        space: 0,
    })
}

/// Turns offsets into places: adds the start of the data, and takes each tensor's space from its neighbour.
fn place(
    tensors: &mut [Place<'_>],
    start: usize,
    end: usize,
    path: &Path,
) -> Result<(), ModelError> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| tensors[index].at);
    // From the last one backwards, so that the neighbour has its place already.
    let mut next: Option<usize> = None;
    for &index in order.iter().rev() {
        let limit = next.map_or(end, |next| tensors[next].at);
        let tensor = &tensors[index];
        match start.checked_add(tensor.at).filter(|&at| at < limit) {
            Some(at) => {
                let tensor = &mut tensors[index];
                (tensor.at, tensor.space) = (at, limit - at);
            }
            None => {
                let place = format!("offset {} after byte {start}", tensor.at);
                let (found, expected) = match next {
                    None => (
                        format!("{place} of a file of {end} bytes"),
                        "an offset inside the file",
                    ),
                    Some(next) => (
                        format!("{place}, where `{}` starts too", tensors[next].name),
                        "a place of its own",
                    ),
                };
                return Err(ModelError::Tensor {
                    path: path.to_path_buf(),
                    name: tensor.name.to_owned(),
                    found,
                    expected: expected.to_owned(),
                    way_out: DOWNLOAD.to_owned(),
                });
            }
        }
        next = Some(index);
    }
    Ok(())
}
