//! Attention over a preallocated key/value cache as a Burn backend extension, beside [`TernaryOps`](crate::TernaryOps).
//!
//! One operation: write the new keys and values into the cache, then attend causally over what the cache holds. It is
//! functional to the outside and works in place where the cache is unshared. Inference only; training uses attention
//! without a cache, in Burn's ordinary operations.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

mod cache;
mod codec;
pub mod defaults;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, IntDType, Tensor};

use cache::Rows;
pub use cache::{CacheFormat, CacheTensor};

/// What a kernel must know beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// How the cache stores numbers.
    pub format: CacheFormat,
    /// Factor of `q·k` before the softmax, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// The dimensions of one call, for kernels on flat buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads, a divisor of the query heads.
    pub n_kv_heads: usize,
    /// New positions in this call.
    pub seq: usize,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Numbers of one head at one position.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Query heads that share a key/value head.
    pub const fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// From the tensors of the operation.
    pub(crate) fn of<B: Backend>(q: &FloatTensor<B>, keys: &IntTensor<B>) -> Self {
        let [batch, n_heads, seq, head_dim] = q.shape().dims();
        let [_, n_kv_heads, capacity, _] = keys.shape().dims();
        Self {
            batch,
            n_heads,
            n_kv_heads,
            seq,
            capacity,
            head_dim,
        }
    }
}

/// Output of attention and the cache after it: key words, key scales, value words, value scales.
pub type Attended<B> = (
    FloatTensor<B>,
    IntTensor<B>,
    FloatTensor<B>,
    IntTensor<B>,
    FloatTensor<B>,
);

/// Attention of a Burn backend. Call [`cached_attention`] rather than the trait: it checks shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait AttentionOps: Backend {
    /// See [`cached_attention`]. `q`, `k`, `v` and the output are f32, words u32, `starts` i32.
    #[fusion(meta = |q, _k, _v, keys, key_scales, values, value_scales, _starts, _spec| (
        q.clone(),
        keys.clone(),
        key_scales.clone(),
        values.clone(),
        value_scales.clone(),
    ))]
    #[allow(
        clippy::too_many_arguments,
        clippy::type_complexity,
        reason = "one tensor each"
    )]
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: IntTensor<Self>,
        key_scales: FloatTensor<Self>,
        values: IntTensor<Self>,
        value_scales: FloatTensor<Self>,
        starts: IntTensor<Self>,
        spec: AttentionSpec,
    ) -> (
        FloatTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
    ) {
        defaults::cached_attention::<Self>(
            q,
            k,
            v,
            keys,
            key_scales,
            values,
            value_scales,
            starts,
            spec,
        )
    }
}

/// Writes `k` and `v` into the cache and attends causally over all that it holds: returns the output and the cache.
///
/// Row b's new keys and values go to positions `starts[b] ..`; positions from `capacity` on are not written, as they are
/// the padding of a right-padded batch. Query i of row b sees positions `0 ..= min(starts[b] + i, capacity - 1)`, *as
/// stored*, its own included. Query head j reads key/value head `j / (n_heads / n_kv_heads)`. The softmax is in f32.
///
/// On the CPU the output of a query has the same bits whatever the batch, its place in it, the chunks in which the prompt
/// came, the capacity of the cache and the number of threads.
///
/// The cache is changed in place if nothing else holds its tensors: pass it on from call to call, and clone it only where
/// a copy is wanted. This holds under fusion too, where the operation is queued and owns its inputs when it runs.
///
/// # Shapes
///
/// - q: `[batch, n_heads, seq, head_dim]`
/// - k, v: `[batch, n_kv_heads, seq, head_dim]`
/// - starts: `[batch]`, not negative
/// - output: `[batch, n_heads, seq, head_dim]`, f32
///
/// # Panics
///
/// Panics if shapes do not fit each other or the cache, if a float tensor is not f32, or under autodiff.
pub fn cached_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    cache: CacheTensor,
    starts: Tensor<1, Int>,
    scale: f64,
) -> (Tensor<4>, CacheTensor) {
    let [batch, n_heads, seq, head_dim] = q.dims();
    let rows = [cache.batch(), cache.n_kv_heads(), seq, cache.head_dim()];
    assert_eq!(
        (k.dims(), v.dims()),
        (rows, rows),
        "new keys and values [batch, n_kv_heads, seq, head_dim] for a cache of this shape"
    );
    assert_eq!(
        [batch, head_dim],
        [cache.batch(), cache.head_dim()],
        "batch and head_dim of the queries and of the cache"
    );
    assert!(
        n_heads.is_multiple_of(cache.n_kv_heads()),
        "{n_heads} query heads do not share {} key/value heads evenly",
        cache.n_kv_heads()
    );
    assert_eq!(
        starts.dims(),
        [batch],
        "one start for each row of the batch"
    );
    for (name, tensor) in [("queries", &q), ("keys", &k), ("values", &v)] {
        assert_eq!(tensor.dtype(), DType::F32, "{name} of cached attention");
    }
    let starts = starts.cast(IntDType::I32);
    let spec = AttentionSpec {
        format: cache.format(),
        scale: scale as f32,
    };
    let (out, key_words, key_scales, value_words, value_scales) = Dispatch::cached_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        cache.keys.words.into_dispatch(),
        cache.keys.scales.into_dispatch(),
        cache.values.words.into_dispatch(),
        cache.values.scales.into_dispatch(),
        starts.into_dispatch(),
        spec,
    );
    let rows = |words, scales| Rows {
        words: Tensor::from_dispatch(words),
        scales: Tensor::from_dispatch(scales),
    };
    let cache = CacheTensor {
        keys: rows(key_words, key_scales),
        values: rows(value_words, value_scales),
        ..cache
    };
    (Tensor::from_dispatch(out), cache)
}
