//! Attention of a few queries over the positions of one key/value head, as they are stored.
//!
//! A tile has as many positions as the cube has units. Each unit takes the products of one key with all queries; then
//! a few units per query turn a row of products into weights; then units side by side read rows of values, one word
//! each, teams of them different rows. So a word is read and decoded once for all queries, and no unit asks another
//! but through shared memory. Sums are in f32. Method: online softmax (arXiv 1805.02867), split over positions as in
//! Flash-Decoding.

use cubecl::client::Client;
use cubecl::prelude::*;

use super::plan::Blueprint;
use super::{Operands, numbers};
use crate::AttentionShape;
use crate::cube::arithmetic::last_of;
use crate::cube::table::number;
use crate::cube::{buffer, cube_count};

/// Words of values that a unit loads before it uses the first.
const DEPTH: usize = 4;
/// Attends with a plan.
pub fn launch(
    client: &Client,
    shape: AttentionShape,
    scale: f32,
    (plan, splits): (Blueprint, usize),
    operands: &Operands,
) {
    let heads = shape.batch * shape.n_kv_heads;
    let queries = shape.batch * shape.n_heads * shape.seq;
    let results = queries * splits * plan.result();
    let found = if plan.split {
        client.empty(results * 4)
    } else {
        operands.out.clone()
    };
    let (words, scales) = (
        shape.cache_words(plan.format),
        shape.cache_scales(plan.format),
    );
    let tiles = (shape.seq * shape.group()).div_ceil(plan.rows);
    cache_attend::launch(
        client,
        CubeCount::Static(tiles as u32, heads as u32, splits as u32),
        CubeDim::new_1d(plan.units as u32),
        plan.vector,
        buffer(&operands.q, queries * shape.head_dim),
        buffer(&operands.keys, words / plan.vector),
        buffer(&operands.key_scales, scales),
        buffer(&operands.values, words),
        buffer(&operands.value_scales, scales),
        buffer(&operands.starts, shape.batch),
        buffer(&found, results),
        shape.n_kv_heads as u32,
        shape.group() as u32,
        shape.seq as u32,
        shape.capacity as u32,
        splits as u32,
        scale,
        plan,
    );
    if plan.split {
        cache_merge::launch(
            client,
            cube_count(queries),
            CubeDim::new_1d(plan.units as u32),
            buffer(&found, results),
            buffer(&operands.out, queries * plan.head_dim),
            queries as u32,
            splits as u32,
            plan,
        );
    }
}

#[cube(launch)]
pub(crate) fn cache_attend<V: Size>(
    q: &[f32],               // [batch, n_heads, seq, head_dim]
    keys: &[Vector<u32, V>], // [batch, n_kv_heads, capacity, vectors]
    key_scales: &[f32],      // [batch, n_kv_heads, capacity]
    values: &[u32],          // [batch, n_kv_heads, capacity, words]
    value_scales: &[f32],
    starts: &[i32],    // [batch]
    found: &mut [f32], // [batch, n_heads, seq, head_dim], or [.., seq, splits, head_dim + notes]
    n_kv_heads: u32,
    group: u32,
    seq: u32,
    capacity: u32,
    splits: u32,
    scale: f32,
    #[comptime] plan: Blueprint,
) {
    let head_dim = comptime!(plan.head_dim);
    let rows = comptime!(plan.rows);
    let units = comptime!(plan.units);
    let lanes = comptime!(plan.lanes);
    let vector = comptime!(plan.vector);
    let words = comptime!(plan.words());
    let vectors = comptime!(plan.words() / plan.vector);
    let per_word = comptime!(plan.format.per_word());
    let format = comptime!(numbers(plan.format));
    let scaled = comptime!(plan.format.scaled());
    let span = comptime!(plan.span());
    let columns = comptime!(plan.columns());
    let teams = comptime!(plan.teams());
    let sums_of_row = comptime!(plan.sums());

    let (group, seq, capacity) = (group as usize, seq as usize, capacity as usize);
    let unit = UNIT_POS as usize;
    // The queries of the heads of a group in the order of their positions; the last see most and start first.
    let queries = seq * group;
    let first = (queries.div_ceil(rows) - 1 - CUBE_POS_X as usize) * rows;
    let split = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let start = usize::cast_from(starts[head / n_kv_heads as usize]);
    let cache = head * capacity;

    let mut asked = Shared::<[f32]>::new_slice(comptime!(plan.head_dim * plan.rows)); // [head_dim, rows]
    let mut board = Shared::<[f32]>::new_slice(comptime!(plan.board())); // [units, rows]
    let mut peaks = Shared::<[f32]>::new_slice(units); // [lanes, rows]
    let mut kept = Shared::<[f32]>::new_slice(rows);

    let mut at = unit;
    while at < comptime!(plan.rows * plan.head_dim) {
        let (row, column) = (at / head_dim, at % head_dim);
        let from = place(head, last_of(first + row, queries), group, seq);
        asked[column * rows + row] = q[from * head_dim + column] * scale;
        at += units;
    }

    // Softmax: unit `lane · rows + own` has a share of query `own`, and knows its largest product.
    let (own, lane) = (unit % rows, unit / rows);
    let own_seen = seen(start, last_of(first + own, queries) / group, capacity);
    let visible = seen(start, last_of(first + rows - 1, queries) / group, capacity);
    let least = f32::new(f32::MIN);
    let mut largest = f32::new(f32::MIN);
    let mut weight = f32::new(0.0_f32);
    // Values: unit `team · span + column`.
    let (team, column) = (unit / span, unit % span);
    let mut sums = Array::<f32>::new(comptime!(plan.rows * plan.sums()));
    #[unroll]
    for i in 0..comptime!(plan.rows * plan.sums()) {
        sums[i] = f32::new(0.0_f32);
    }
    sync_cube();

    let mut base = split * units;
    while base < visible {
        // Products of the key at base + unit.
        let position = cache + last_of(base + unit, capacity);
        let mut products = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            products[r] = f32::new(0.0_f32);
        }
        for step in 0..vectors {
            let loaded = keys[position * vectors + step];
            #[unroll]
            for j in 0..vector {
                let word = loaded.extract(j);
                #[unroll]
                for i in 0..per_word {
                    let key = number(word, i, format);
                    // Behind the last number of a row are zeros, so any number of the query will do.
                    let at = last_of((step * vector + j) * per_word + i, head_dim) * rows;
                    #[unroll]
                    for r in 0..rows {
                        products[r] += key * asked[at + r];
                    }
                }
            }
        }
        if comptime!(scaled) {
            let factor = key_scales[position];
            #[unroll]
            for r in 0..rows {
                products[r] *= factor;
            }
        }
        #[unroll]
        for r in 0..rows {
            board[unit * rows + r] = products[r];
        }
        sync_cube();

        // The largest product of each query, then its weights.
        if lane < lanes {
            let mut high = least;
            let mut at = lane;
            while at < units {
                let product = select(base + at < own_seen, board[at * rows + own], least);
                high = select(product > high, product, high);
                at += lanes;
            }
            peaks[unit] = high;
        }
        sync_cube();
        if lane < lanes {
            let mut high = largest;
            for i in 0..lanes {
                let peak = peaks[i * rows + own];
                high = select(peak > high, peak, high);
            }
            let keep = (largest - high).exp();
            largest = high;
            weight *= keep;
            let mut at = lane;
            while at < units {
                let sees = base + at < own_seen;
                let mut share = (board[at * rows + own] - high).exp();
                weight += select(sees, share, f32::new(0.0_f32));
                if comptime!(scaled) {
                    share *= value_scales[cache + last_of(base + at, capacity)];
                }
                board[at * rows + own] = select(sees, share, f32::new(0.0_f32));
                at += lanes;
            }
            if lane == 0 {
                kept[own] = keep;
            }
        }
        sync_cube();

        // Weighted values of the positions that some query sees.
        #[unroll]
        for r in 0..rows {
            #[unroll]
            for i in 0..sums_of_row {
                sums[r * sums_of_row + i] *= kept[r];
            }
        }
        if team < teams {
            let count = select(visible - base < units, visible - base, units);
            #[unroll]
            for c in 0..columns {
                let word_at = last_of(column + c * span, words);
                let mut at = team;
                while at < count {
                    let mut loaded = Array::<u32>::new(DEPTH);
                    #[unroll]
                    for step in 0..DEPTH {
                        let row = at + step * teams;
                        let word = values[(cache + base + last_of(row, count)) * words + word_at];
                        // The word 0 is zeros in every format.
                        loaded[step] = select(row < count, word, 0u32);
                    }
                    #[unroll]
                    for step in 0..DEPTH {
                        let row = last_of(at + step * teams, count) * rows;
                        let mut weights = Array::<f32>::new(rows);
                        #[unroll]
                        for r in 0..rows {
                            weights[r] = board[row + r];
                        }
                        #[unroll]
                        for i in 0..per_word {
                            let value = number(loaded[step], i, format);
                            #[unroll]
                            for r in 0..rows {
                                sums[r * sums_of_row + c * per_word + i] += weights[r] * value;
                            }
                        }
                    }
                    at += DEPTH * teams;
                }
            }
        }
        sync_cube();
        base += units * splits as usize;
    }

    // The sums of lanes and of teams meet, query by query.
    if lane < lanes {
        peaks[unit] = weight;
    }
    sync_cube();
    if unit < rows {
        let mut total = f32::new(0.0_f32);
        for i in 0..lanes {
            total += peaks[i * rows + unit];
        }
        kept[unit] = total;
    }
    #[unroll]
    for r in 0..rows {
        if team < teams {
            #[unroll]
            for c in 0..columns {
                #[unroll]
                for i in 0..per_word {
                    let number_at = (column + c * span) * per_word + i;
                    board[team * comptime!(plan.span() * plan.sums()) + number_at] =
                        sums[r * sums_of_row + c * per_word + i];
                }
            }
        }
        sync_cube();
        if first + r < queries {
            let query = place(head, first + r, group, seq);
            let to = (query * splits as usize + split) * comptime!(plan.result());
            let mut at = unit;
            while at < head_dim {
                let mut total = f32::new(0.0_f32);
                for t in 0..teams {
                    total += board[t * comptime!(plan.span() * plan.sums()) + at];
                }
                if comptime!(!plan.split) {
                    total /= kept[r];
                }
                found[to + at] = total;
                at += units;
            }
            // Unit r is lane 0 of query r.
            if comptime!(plan.split) && unit == r {
                found[to + head_dim] = largest;
                found[to + head_dim + 1] = kept[r];
            }
        }
        sync_cube();
    }
}

/// Joins the softmax of each split, query by query. A split that saw nothing has weight 0.
#[cube(launch)]
pub(crate) fn cache_merge(
    found: &[f32],   // [queries, splits, head_dim + notes]
    out: &mut [f32], // [queries, head_dim]
    queries: u32,
    splits: u32,
    #[comptime] plan: Blueprint,
) {
    let head_dim = comptime!(plan.head_dim);
    let splits = splits as usize;
    let result = comptime!(plan.result());
    let query = CUBE_POS;
    if query >= queries as usize {
        terminate!();
    }
    let from = query * splits * result;
    let mut largest = found[from + head_dim];
    for split in 1..splits {
        let high = found[from + split * result + head_dim];
        largest = select(high > largest, high, largest);
    }
    let mut at = UNIT_POS as usize;
    while at < head_dim {
        let mut total = f32::new(0.0_f32);
        let mut weight = f32::new(0.0_f32);
        for split in 0..splits {
            let part = from + split * result;
            let keep = (found[part + head_dim] - largest).exp();
            weight += keep * found[part + head_dim + 1];
            total += keep * found[part + at];
        }
        out[query * head_dim + at] = total / weight;
        at += comptime!(plan.units);
    }
}

/// Positions that query `i` of a sequence sees.
#[cube]
fn seen(start: usize, i: usize, capacity: usize) -> usize {
    last_of(start + i, capacity) + 1
}

/// The row of the output that is query `at` of the group of a key/value head.
#[cube]
fn place(head: usize, at: usize, group: usize, seq: usize) -> usize {
    (head * group + at % group) * seq + at / group
}
