//! Opens fixtures: files that the reference libraries made, described in the fixtures' README.
//!
//! `BITNET_FIXTURES` names another set of the same form. So a test finds its cases by the names in the file and takes
//! every shape from there. A missing file or tensor is a panic that names it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// The bytes of a fixture, by its path below the root, e.g. `quant/packing.safetensors`.
pub(crate) fn fixture(path: &str) -> Vec<u8> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let root = std::env::var("BITNET_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let file = std::path::Path::new(&root).join(path);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The tensors of a fixture that [`fixture`] has read.
pub(crate) fn tensors(bytes: &[u8]) -> SafeTensors<'_> {
    SafeTensors::deserialize(bytes).expect("a fixture is a safetensors file")
}

/// The prefixes before `suffix` of all tensor names that end in it, sorted.
pub(crate) fn cases(tensors: &SafeTensors<'_>, suffix: &str) -> Vec<String> {
    let names = tensors.names();
    let mut cases: Vec<_> = names
        .iter()
        .filter_map(|name| name.strip_suffix(suffix))
        .collect();
    cases.sort_unstable();
    cases.into_iter().map(str::to_owned).collect()
}

/// Whether a tensor is there.
pub(crate) fn has(tensors: &SafeTensors<'_>, name: &str) -> bool {
    tensors.tensor(name).is_ok()
}

/// The shape of a matrix, `[d_out, d_in]`.
pub(crate) fn matrix_shape(tensors: &SafeTensors<'_>, name: &str) -> [usize; 2] {
    let shape = tensor(tensors, name).shape().to_vec();
    shape
        .try_into()
        .unwrap_or_else(|shape| panic!("{name}: {shape:?} is no matrix"))
}

/// The raw bytes of a tensor of `u8` or `i8`.
pub(crate) fn bytes(tensors: &SafeTensors<'_>, name: &str) -> Vec<u8> {
    let tensor = tensor(tensors, name);
    assert!(
        matches!(tensor.dtype(), Dtype::U8 | Dtype::I8),
        "{name}: {:?}",
        tensor.dtype()
    );
    tensor.data().to_vec()
}

/// A tensor of `i8`.
pub(crate) fn i8s(tensors: &SafeTensors<'_>, name: &str) -> Vec<i8> {
    elements(tensors, name, Dtype::I8, i8::from_le_bytes)
}

/// A tensor of `i32`.
pub(crate) fn i32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    elements(tensors, name, Dtype::I32, i32::from_le_bytes)
}

/// A tensor of `f32`.
pub(crate) fn f32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    elements(tensors, name, Dtype::F32, f32::from_le_bytes)
}

/// A tensor of `bf16`, widened.
pub(crate) fn bf16s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let values = elements(tensors, name, Dtype::BF16, half::bf16::from_le_bytes);
    values.into_iter().map(half::bf16::to_f32).collect()
}

fn elements<T, const N: usize>(
    tensors: &SafeTensors<'_>,
    name: &str,
    dtype: Dtype,
    decode: fn([u8; N]) -> T,
) -> Vec<T> {
    let tensor = tensor(tensors, name);
    assert_eq!(tensor.dtype(), dtype, "{name}");
    let (elements, rest) = tensor.data().as_chunks::<N>();
    assert!(rest.is_empty(), "{name}: safetensors checks the size");
    elements.iter().copied().map(decode).collect()
}

fn tensor<'data>(tensors: &SafeTensors<'data>, name: &str) -> TensorView<'data> {
    tensors
        .tensor(name)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}
