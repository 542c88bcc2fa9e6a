//! Attention over a key/value cache on the CPU: which task does what. Inner loops are in `block`, words in `rows`.
//!
//! Positions are taken in blocks at fixed places. Each block of a query gives a partial softmax (maximum, sum, weighted
//! values), and partials are merged in ascending order. Both depend on the query and the cache alone, so its output has the
//! same bits whatever the batch, the chunks of the prompt, the capacity and the number of threads. Method: online softmax
//! (arXiv 1805.02867), split over positions for few queries as in Flash-Decoding.

mod block;
mod rows;

use super::{Kernel, threads};
use crate::{AttentionShape, AttentionSpec};
use block::{BLOCK, Partial, Queries};
use rows::Rows;

/// Query rows that one task takes at a time: a decoded tile of the cache serves them all.
const QUERIES: usize = 32;

/// A cache on the host: words `[batch, n_kv_heads, capacity, words]` and, for a format with scales, scales
/// `[batch, n_kv_heads, capacity]`.
#[derive(Debug)]
pub struct CacheSlices<'a> {
    /// Words of the keys.
    pub keys: &'a mut [u32],
    /// Scales of the keys.
    pub key_scales: &'a mut [f32],
    /// Words of the values.
    pub values: &'a mut [u32],
    /// Scales of the values.
    pub value_scales: &'a mut [f32],
}

/// Writes `k` and `v` at `starts` and attends, see [`cached_attention`](crate::cached_attention). The heads of a position lie
/// beside each other, as projections give them and take them: swapping axes took 6 % of the time of a prompt.
///
/// # Shapes
///
/// - q, out: `[batch, seq, n_heads, head_dim]`
/// - k, v: `[batch, seq, n_kv_heads, head_dim]`
/// - starts: `[batch]`
///
/// # Panics
///
/// Panics if a length does not fit, or a start is negative.
#[allow(clippy::too_many_arguments, reason = "one slice each")]
pub fn cached_attention(
    kernel: &dyn Kernel,
    shape: AttentionShape,
    spec: AttentionSpec,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    cache: CacheSlices<'_>,
    starts: &[i32],
    out: &mut [f32],
) {
    let new = shape.batch * shape.n_kv_heads * shape.seq * shape.head_dim;
    assert_eq!((k.len(), v.len()), (new, new), "new keys and values");
    let queries = shape.batch * shape.n_heads * shape.seq * shape.head_dim;
    assert_eq!(
        (q.len(), out.len()),
        (queries, queries),
        "queries and output"
    );
    assert!(
        starts.len() == shape.batch && starts.iter().all(|&start| start >= 0),
        "starts {starts:?} of a batch of {}",
        shape.batch
    );
    if queries == 0 {
        return;
    }
    rows::write(shape, spec.format, k, starts, cache.keys, cache.key_scales);
    rows::write(
        shape,
        spec.format,
        v,
        starts,
        cache.values,
        cache.value_scales,
    );
    let rows = |words, scales| Rows::new(shape, spec.format, words, scales);
    let keys = rows(&*cache.keys, &*cache.key_scales);
    let values = rows(&*cache.values, &*cache.value_scales);

    let attend = |unit: &Unit, blocks: std::ops::Range<usize>, emit: &mut dyn FnMut(&Partial)| {
        let head = unit.row * shape.n_kv_heads + unit.kv_head;
        block::run(
            kernel,
            &unit.queries(shape, spec, q),
            keys.head(head),
            values.head(head),
            blocks,
            emit,
        );
    };
    let mut units = units(shape, starts);
    let work: usize = units
        .iter()
        .map(|unit| unit.len(shape) * unit.visible)
        .sum();
    let tasks = threads::tasks(work * shape.head_dim * 2);
    give_outputs(&mut units, shape, out);

    if units.len() >= 2 * tasks || tasks == 1 {
        // Dealt in turn: later queries see more positions.
        let mut hands: Vec<Vec<Unit>> = (0..tasks).map(|_| Vec::new()).collect();
        for (at, unit) in units.into_iter().enumerate() {
            hands[at % tasks].push(unit);
        }
        threads::run(hands, |hand| {
            for mut unit in hand {
                let mut total = Partial::new(unit.len(shape), shape.head_dim);
                attend(&unit, 0..unit.blocks(), &mut |part| total.merge(part));
                unit.write(&total);
            }
        });
    } else {
        let mut parts: Vec<Vec<Option<Partial>>> =
            units.iter().map(|unit| vec![None; unit.blocks()]).collect();
        let mut hands: Vec<Vec<_>> = (0..tasks).map(|_| Vec::new()).collect();
        let places = units
            .iter()
            .zip(&mut parts)
            .flat_map(|(unit, parts)| parts.iter_mut().enumerate().map(move |place| (unit, place)));
        for (at, place) in places.enumerate() {
            hands[at % tasks].push(place);
        }
        threads::run(hands, |hand| {
            for (unit, (block, place)) in hand {
                attend(unit, block..block + 1, &mut |part| {
                    *place = Some(part.clone())
                });
            }
        });
        for (unit, parts) in units.iter_mut().zip(parts) {
            let mut total = Partial::new(unit.len(shape), shape.head_dim);
            parts.iter().flatten().for_each(|part| total.merge(part));
            unit.write(&total);
        }
    }
}

/// Neighbouring queries of the heads that share a key/value head.
struct Unit<'a> {
    row: usize,
    kv_head: usize,
    /// Place of its first query among the new positions, and how many it has.
    first: usize,
    count: usize,
    /// Positions that its first and its last query see.
    seen: usize,
    visible: usize,
    /// `[count, group]` rows of the output.
    out: Vec<&'a mut [f32]>,
}

/// All units, in the order of rows, heads, queries.
fn units<'a>(shape: AttentionShape, starts: &[i32]) -> Vec<Unit<'a>> {
    let step = (QUERIES / shape.group()).max(1);
    let mut units = Vec::new();
    for (row, &start) in starts.iter().enumerate() {
        for kv_head in 0..shape.n_kv_heads {
            for first in (0..shape.seq).step_by(step) {
                let count = step.min(shape.seq - first);
                let seen = |query: usize| (start as usize + query + 1).min(shape.capacity);
                units.push(Unit {
                    row,
                    kv_head,
                    first,
                    count,
                    seen: seen(first),
                    visible: seen(first + count - 1),
                    out: Vec::new(),
                });
            }
        }
    }
    units
}

/// Hands each unit its rows of `out`, `[count, group]`.
fn give_outputs<'a>(units: &mut [Unit<'a>], shape: AttentionShape, out: &'a mut [f32]) {
    let group = shape.group();
    let mut rows: Vec<_> = out.chunks_exact_mut(shape.head_dim).map(Some).collect();
    for unit in units {
        let head = unit.kv_head * group;
        for query in unit.first..unit.first + unit.count {
            let position = unit.row * shape.seq + query;
            unit.out.extend((0..group).map(|g| {
                rows[position * shape.n_heads + head + g]
                    .take()
                    .expect("each row of the output belongs to one unit")
            }));
        }
    }
}

impl Unit<'_> {
    /// Query rows.
    fn len(&self, shape: AttentionShape) -> usize {
        self.count * shape.group()
    }

    fn blocks(&self) -> usize {
        self.visible.div_ceil(BLOCK)
    }

    /// Its queries, `[count, group]`, times the scale.
    fn queries(&self, shape: AttentionShape, spec: AttentionSpec, q: &[f32]) -> Queries {
        let group = shape.group();
        let mut queries = Queries::new(self.len(shape), shape.head_dim);
        let head = self.kv_head * group;
        for at in 0..self.len(shape) {
            let (query, g) = (at / group, at % group);
            let position = self.row * shape.seq + self.first + query;
            let from = (position * shape.n_heads + head + g) * shape.head_dim;
            let visible = (self.seen + query).min(self.visible);
            queries.set(at, &q[from..from + shape.head_dim], spec.scale, visible);
        }
        queries
    }

    fn write(&mut self, total: &Partial) {
        for (at, out) in self.out.iter_mut().enumerate() {
            total.output(at, out);
        }
    }
}
