//! How queries, positions and numbers are dealt to cubes and units.
//!
//! As many queries share a cube as registers and shared memory hold, because they share each word that is read. The
//! capacity decides how often positions are split, not the length so far, which only the device knows.

use crate::cube::Capabilities;
use crate::{AttentionShape, CacheFormat};

/// Units of a cube, where a device has room.
const UNITS: usize = 128;
/// Most queries of a cube.
const MAX_ROWS: usize = 16;
/// Most units that share the softmax of a query: each reads what all found.
const MAX_LANES: usize = 16;
/// Most sums of a unit, which it keeps in registers.
const MAX_SUMS: usize = 64;
/// Cubes for each processor, if splitting the positions can make so many.
const CUBES_PER_PROCESSOR: usize = 2;
/// What a split notes of a query beside its sums: the largest product and the sum of weights.
const NOTES: usize = 2;

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// How the cache stores numbers.
    pub format: CacheFormat,
    /// Numbers of a row.
    pub head_dim: usize,
    /// Queries of a cube.
    pub rows: usize,
    /// Units of a cube, and positions of a tile.
    pub units: usize,
    /// Units that share the softmax of a query.
    pub lanes: usize,
    /// Words of a key that are loaded at a time.
    pub vector: usize,
    /// Whether several cubes share the positions.
    pub split: bool,
}

impl Blueprint {
    pub(super) const fn words(&self) -> usize {
        self.format.words(self.head_dim)
    }

    /// Units that read one row of values together.
    pub(super) const fn span(&self) -> usize {
        if self.words() < self.units {
            self.words()
        } else {
            self.units
        }
    }

    /// Words of a row of values for each of them.
    pub(super) const fn columns(&self) -> usize {
        self.words().div_ceil(self.span())
    }

    /// Rows of values that are read at a time.
    pub(super) const fn teams(&self) -> usize {
        self.units / self.span()
    }

    /// Sums of a unit for each query.
    pub(super) const fn sums(&self) -> usize {
        self.columns() * self.format.per_word()
    }

    /// Numbers that the teams have summed for a query, tails included.
    const fn summed(&self) -> usize {
        self.teams() * self.span() * self.sums()
    }

    /// Floats that weights, and at the end sums, take of shared memory.
    pub(super) const fn board(&self) -> usize {
        let weights = self.units * self.rows;
        if weights > self.summed() {
            weights
        } else {
            self.summed()
        }
    }

    /// Bytes of shared memory.
    const fn shared(&self) -> usize {
        4 * (self.rows * self.head_dim + self.board() + self.units + self.rows)
    }

    /// Floats of a query's result.
    pub(super) const fn result(&self) -> usize {
        self.head_dim + if self.split { NOTES } else { 0 }
    }
}

/// Plans a launch, and how many cubes share the positions.
pub fn blueprint(
    shape: AttentionShape,
    format: CacheFormat,
    device: &Capabilities,
) -> (Blueprint, usize) {
    let units = UNITS.min(device.max_units as usize);
    let words = format.words(shape.head_dim);
    let queries = shape.seq * shape.group();
    let plan = |rows: usize| Blueprint {
        format,
        head_dim: shape.head_dim,
        rows,
        units,
        lanes: (units / rows).min(MAX_LANES),
        vector: [4, 2, 1]
            .into_iter()
            .find(|&vector| words.is_multiple_of(vector))
            .unwrap_or(1),
        split: false,
    };
    let fits = |plan: &Blueprint| {
        plan.lanes > 0
            && plan.rows * plan.sums() <= MAX_SUMS
            && plan.shared() <= device.shared_memory
    };
    let plan = (1..=queries.min(MAX_ROWS))
        .rev()
        .map(plan)
        .find(fits)
        .unwrap_or_else(|| plan(1));
    let cubes = queries.div_ceil(plan.rows) * shape.batch * shape.n_kv_heads;
    let wanted = CUBES_PER_PROCESSOR * device.processors as usize / cubes;
    let splits = wanted.clamp(1, shape.capacity.div_ceil(units));
    let split = splits > 1;
    (Blueprint { split, ..plan }, splits)
}
