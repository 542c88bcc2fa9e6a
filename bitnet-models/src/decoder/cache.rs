//! `Cache`: preallocated keys and values of all layers, and how far each row of the batch has come.
//!
//! Lengths live on the host, so that forgetting the end of a row (a common prefix with the next prompt) is free. A row
//! that is full can slide: the oldest tokens after the first few, the attention sinks, are dropped, and the keys behind
//! them are rotated back to their new positions (arXiv 2309.17453).

use bitnet_kernels::{CacheFormat, CacheTensor};
use burn::tensor::{Device, Tensor};

use super::DecoderConfig;
use crate::ModelError;

/// Keys and values of every layer.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<Option<CacheTensor>>,
    lengths: Vec<usize>,
    capacity: usize,
    format: CacheFormat,
}

impl Cache {
    /// Allocates `batch` rows of `capacity` positions.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] if either is zero.
    pub fn new(
        config: &DecoderConfig,
        batch: usize,
        capacity: usize,
        format: CacheFormat,
        device: &Device,
    ) -> Result<Self, ModelError> {
        if batch == 0 || capacity == 0 {
            return Err(ModelError::Request {
                what: "cache",
                found: format!("{batch} rows of {capacity} positions"),
                expected: "at least one of each".into(),
                way_out: "Give a prompt and a context of at least one token".into(),
            });
        }
        let layer = |_| {
            let (heads, dim) = (config.n_kv_heads, config.head_dim);
            Some(CacheTensor::new(
                format, batch, heads, capacity, dim, device,
            ))
        };
        Ok(Self {
            layers: (0..config.n_layers).map(layer).collect(),
            lengths: vec![0; batch],
            capacity,
            format,
        })
    }

    /// Tokens held, for each row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Positions of a row.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number format.
    pub const fn format(&self) -> CacheFormat {
        self.format
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(CacheTensor::bytes).sum()
    }

    /// Forgets all but the first `length` tokens of a row.
    pub fn truncate(&mut self, row: usize, length: usize) {
        self.lengths[row] = self.lengths[row].min(length);
    }

    /// Proves that every row has room for so many more tokens.
    pub(super) fn reserve(&self, added: &[usize]) -> Result<(), ModelError> {
        let needed = self.lengths.iter().zip(added).map(|(held, new)| held + new);
        match needed.max() {
            Some(needed) if needed > self.capacity => Err(ModelError::ContextOverflow {
                capacity: self.capacity,
                needed,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn advance(&mut self, added: &[usize]) {
        for (held, new) in self.lengths.iter_mut().zip(added) {
            *held += new;
        }
    }

    /// Makes row `i` a copy of what was row `from[i]`; beam search's way to follow its beams.
    pub fn select(&mut self, from: &[usize]) {
        if from.iter().copied().eq(0..self.lengths.len()) {
            return;
        }
        for layer in &mut self.layers {
            *layer = layer.take().map(|layer| layer.select_batch(from));
        }
        self.lengths = from.iter().map(|&row| self.lengths[row]).collect();
    }

    /// Drops tokens `sinks .. sinks + dropped` of a row; later ones move down, their keys rotated to fit.
    ///
    /// # Panics
    ///
    /// Panics if the row is shorter than `sinks + dropped`.
    pub fn slide(&mut self, row: usize, sinks: usize, dropped: usize, config: &DecoderConfig) {
        let length = self.lengths[row];
        assert!(sinks + dropped <= length, "a row slides within its tokens");
        let kept = length - sinks - dropped;
        for layer in &mut self.layers {
            let mut cache = layer.take().expect("each layer has its cache");
            if kept > 0 {
                let (keys, values) = cache.read(row, sinks + dropped..length); // [heads, kept, head_dim]
                let back = config.rope.back(config.head_dim, dropped, &keys.device());
                let keys: Tensor<4> = back.apply(keys.unsqueeze());
                cache = cache.write(row, sinks, keys.squeeze_dim(0), values);
            }
            *layer = Some(cache);
        }
        self.lengths[row] = sinks + kept;
    }
}
