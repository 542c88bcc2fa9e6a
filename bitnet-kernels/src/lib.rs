//! Ternary (BitNet b1.58) arithmetic for [Burn](https://burn.dev), exact and equal on every backend.
//!
//! | operation | CPU (Flex, NdArray) | GPU (wgpu, Vulkan, Metal, CUDA, ROCm) | any other backend |
//! | --- | --- | --- | --- |
//! | [`ternary_linear`], int8 activations | scalar, AVX2, AVX-VNNI, AVX-512 VNNI, AMX, NEON, NEON dotprod | `gemv`, `tensor-cores`, `gemm` | Burn primitives |
//! | [`ternary_linear`], float activations | dequantized tiles through `gemm` | `float` | Burn primitives |
//! | gradients of both | dequantized tiles through `gemm` | `float`; from 256 rows on dense products, split among multiprocessors | Burn primitives |
//! | [`cached_attention`] | scalar, AVX2, AVX-512, NEON | `store`, then `attend` | Burn primitives |
//! | [`ternarize`] | f64 means | two passes | Burn primitives |
//! | [`table_linear`], the output head | portable, AVX2, AVX-VNNI (int8), AVX-512, NEON | `table` | Burn primitives |
//! | [`table_leading`], its largest outputs | the same behind an int8 screen | as [`table_linear`] | as [`table_linear`] |
//! | [`rms_norm`] | one pass | `norm` | Burn primitives |
//! | [`gated`], [`rotate`] with gradients | one pass forward | one pass each way | Burn primitives |
//! | [`linear`], [`causal_scores`], [`causal_mix`] of f16 and bf16 | Burn primitives | `dense` on CUDA; else Burn primitives | Burn primitives |
//! | [`causal_softmax`], [`cross_entropy`], [`embedding`] with gradients | Burn primitives | `rows` | Burn primitives |
//! | [`table_rows`], the embedding | one loop | `table` | Burn primitives |
//!
//! Invariants: a [`PackedTernary`] or [`TernaryTensor`] that exists is valid, so kernels do not check again. Integer sums
//! are exact: the oracle ([`mod@reference`]), every kernel and every device give the same bits, activation scales included.
//! Packed weights stay at 2 bits in memory, or at 1.6 on CPUs that multiply them so ([`packing::base3`]). The only float
//! copy of one is made on GPUs for the gradient of 256 rows and more, and lives for that product.
//!
//! Deliberately absent: modules, parameters, files, model names, printing.

// Without a backend nobody calls what the backends share; it compiles all the same.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    allow(unused)
)]

mod backend;
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
mod error;
mod ops;
mod packed;
pub mod packing;
pub mod quantize;
pub mod reference;
mod screen;
mod self_test;
mod table;

pub use error::KernelError;
pub use ops::attention::{
    self, AttentionOps, AttentionShape, AttentionSpec, CacheFormat, CacheTensor, cached_attention,
};
pub use ops::dense::{DenseOps, Lower, Transposed, causal_mix, causal_scores, linear};
pub use ops::rows::{RowOps, causal_softmax, cross_entropy, defaults as row_defaults, embedding};
pub use ops::table::{
    ScreenTensor, TableOps, TableSpec, TableTensor, defaults as table_defaults, table_leading,
    table_linear, table_rows,
};
pub use ops::vector::{
    Activation, VectorOps, defaults as vector_defaults, gated, rms_norm, rotate,
};
pub use ops::{
    TernaryOps, TernarySpec, TernaryTensor, defaults, ternarize, ternary_linear,
    ternary_linear_latent, ternary_linear_pair, ternary_linear_triple,
};
pub use packed::{Granularity, Histogram, PackedTernary, Scale};
pub use quantize::{ActivationQuantizer, WeightQuantizer};
pub use screen::{PackedScreen, ScreenView};
pub use self_test::{Verdict, self_test};
pub use table::{PackedTable, TableFormat, TableView};
