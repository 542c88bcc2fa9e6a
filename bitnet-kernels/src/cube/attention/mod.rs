//! Attention over a cache: one launch stores the new keys and values, one attends to what the cache holds.
//!
//! Both read positions from the device, so a captured graph stays right as sequences grow. A cube takes up to sixteen
//! queries of one key/value head, and tile after tile of its positions; where that leaves a device idle, several cubes
//! share the positions, and a third launch merges what they found.

pub mod attend;
pub mod plan;
pub mod store;

use cubecl::client::Client;
use cubecl::server::Handle;

use super::Capabilities;
use crate::{AttentionShape, AttentionSpec, CacheFormat, TableFormat};

/// Device buffers of one call, see [`cached_attention`](crate::cached_attention).
#[derive(Debug, Clone)]
pub struct Operands {
    /// Queries `[batch, n_heads, seq, head_dim]`.
    pub q: Handle,
    /// New keys `[batch, n_kv_heads, seq, head_dim]`.
    pub k: Handle,
    /// New values, likewise.
    pub v: Handle,
    /// Words of the keys `[batch, n_kv_heads, capacity, words]`. Written to.
    pub keys: Handle,
    /// Scales of the keys `[batch, n_kv_heads, capacity]`, or one number for a format without. Written to.
    pub key_scales: Handle,
    /// Words of the values. Written to.
    pub values: Handle,
    /// Scales of the values. Written to.
    pub value_scales: Handle,
    /// First new position of each sequence, i32.
    pub starts: Handle,
    /// Output, as long as the queries.
    pub out: Handle,
}

/// Stores the new keys and values, and attends.
pub fn launch(client: &Client, shape: AttentionShape, spec: AttentionSpec, operands: &Operands) {
    // Nothing to store, nothing to attend with.
    if shape.batch * shape.n_heads * shape.seq * shape.head_dim == 0 {
        return;
    }
    let device = Capabilities::of(client);
    store::launch(client, shape, spec.format, &device, operands);
    let plan = plan::blueprint(shape, spec.format, &device);
    attend::launch(client, shape, spec.scale, plan, operands);
}

impl AttentionShape {
    /// Words of keys, or of values.
    const fn cache_words(&self, format: CacheFormat) -> usize {
        self.batch * self.n_kv_heads * self.capacity * format.words(self.head_dim)
    }

    /// Scales of keys, or of values.
    const fn cache_scales(&self, format: CacheFormat) -> usize {
        if format.scaled() {
            self.batch * self.n_kv_heads * self.capacity
        } else {
            1
        }
    }
}

/// The format of a table whose words hold the same numbers.
const fn numbers(format: CacheFormat) -> TableFormat {
    match format {
        CacheFormat::F32 => TableFormat::F32,
        CacheFormat::F16 => TableFormat::F16,
        CacheFormat::Int8 => TableFormat::Int8,
    }
}
