//! Attention weights, losses and gradients of embeddings: rows are read once, or again from the nearest cache.
//!
//! A [`Team`] takes a row of attention weights; a cube takes a row of logits or of a table. Numbers are widened to f32 on their
//! way in, and rounded once on their way out. What a query does not see is not read. Method of the sums: online softmax (arXiv 1805.02867).

pub mod team;

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{largest_of_lanes, last_of, sum_of_lanes};
use super::{Capabilities, buffer, cube_count};
use team::{Team, column_of, largest_of_row, load_block, row_of, sum_of_row};

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Units of a team.
    pub lanes: usize,
    /// Teams of a cube.
    pub slots: usize,
    /// Whether the units of a team can shuffle.
    pub shuffle: bool,
}

impl Blueprint {
    pub(super) fn of(device: &Capabilities) -> Self {
        let shuffle = device.plane > 1;
        let lanes = if shuffle { device.plane.min(32) } else { 32 };
        let units = device.max_units.min(256);
        Self {
            lanes: lanes as usize,
            slots: (units / lanes).max(1) as usize,
            shuffle,
        }
    }

    /// Units of a cube.
    pub const fn units(&self) -> usize {
        self.lanes * self.slots
    }

    pub(super) const fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.lanes as u32, self.slots as u32)
    }
}

/// Numbers of a row of attention weights that a unit holds, of each tensor.
const HELD: usize = 32;

/// `weights = softmax(scale · scores)` of each row over the columns up to its query, 0 beyond; `[batch, heads, rows, seq]`.
pub fn causal_softmax(
    client: &Client,
    scores: &Handle,
    weights: &Handle,
    [batch, heads, rows, seq]: [usize; 4],
    scale: f32,
    dtype: ElemType,
) {
    let vector = team::vector(client, seq, dtype);
    let team = Team::of(&Capabilities::of(client), seq, vector, vector, HELD);
    let rows = batch * heads * rows;
    // SAFETY: the kernel takes rows below `rows` and columns below `seq` alone.
    #[allow(unsafe_code)]
    unsafe {
        softmax_rows::launch_unchecked(
            client,
            team.cubes(rows),
            team.plan.dim(),
            vector,
            buffer(scores, rows * seq / vector),
            buffer(weights, rows * seq / vector),
            rows as u32,
            seq as u32,
            scale,
            team,
            dtype,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn softmax_rows<F: Float, V: Size>(
    scores: &[Vector<F, V>],      // [rows, seq]
    weights: &mut [Vector<F, V>], // [rows, seq]
    rows: u32,
    seq: u32,
    scale: f32,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let span = comptime!(team.span);
    let seq = seq as usize;
    let row = row_of(rows as usize, team);
    let seen = row % seq + 1;
    let first = row * seq;
    let mut held = Array::<f32>::new(comptime!(team.held()));

    let mut largest = f32::new(f32::MIN);
    let mut block = 0usize;
    while block < seen {
        load_block::<F, V>(scores, &mut held, first, block, seen, team);
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            if column < seen {
                #[unroll]
                for j in 0..span {
                    let score = held[comptime!(turn * span + j)] * scale;
                    let counts = column + j < seen && score > largest;
                    largest = select(counts, score, largest);
                }
            }
        }
        block += comptime!(team.block());
    }
    let largest = largest_of_row::<f32>(largest, team);

    let mut sum = f32::new(0.0_f32);
    let mut block = 0usize;
    while block < seen {
        if comptime!(!team.once) {
            load_block::<F, V>(scores, &mut held, first, block, seen, team);
        }
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            if column < seen {
                #[unroll]
                for j in 0..span {
                    let i = comptime!(turn * span + j);
                    let weight = power(held[i] * scale, largest, column + j < seen);
                    held[i] = weight;
                    sum += weight;
                }
            }
        }
        block += comptime!(team.block());
    }
    let inverse = f32::new(1.0_f32) / sum_of_row::<f32>(sum, team);

    let mut block = 0usize;
    while block < seq {
        if comptime!(!team.once) {
            load_block::<F, V>(scores, &mut held, first, block, seen, team);
        }
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            let mut out = Vector::<F, V>::new(F::new(0.0_f32));
            if column < seen {
                #[unroll]
                for j in 0..span {
                    let mut weight = held[comptime!(turn * span + j)];
                    if comptime!(!team.once) {
                        weight = power(weight * scale, largest, column + j < seen);
                    }
                    out.insert(j, F::cast_from(weight * inverse));
                }
            }
            if column < seq {
                weights[(first + column) / span] = out;
            }
        }
        block += comptime!(team.block());
    }
}

/// `exp(score − largest)` of a column that counts, else 0.
#[cube]
fn power(score: f32, largest: f32, counts: bool) -> f32 {
    // The exponent is chosen first: that of a column to come may be infinite.
    let exponent = select(counts, score - largest, f32::new(0.0_f32));
    select(counts, exponent.exp(), f32::new(0.0_f32))
}

/// `dscores = scale · w · (dw − Σ w·dw)`. `tensors` are weights, their gradient, and that of the scores.
pub fn causal_softmax_dx(
    client: &Client,
    tensors: [&Handle; 3],
    [batch, heads, rows, seq]: [usize; 4],
    scale: f32,
    dtype: ElemType,
) {
    let vector = team::vector(client, seq, dtype);
    let team = Team::of(&Capabilities::of(client), seq, vector, vector, HELD);
    let rows = batch * heads * rows;
    let [weights, dweights, dscores] = tensors.map(|tensor| buffer(tensor, rows * seq / vector));
    // SAFETY: the kernel takes rows below `rows` and columns below `seq` alone.
    #[allow(unsafe_code)]
    unsafe {
        softmax_rows_dx::launch_unchecked(
            client,
            team.cubes(rows),
            team.plan.dim(),
            vector,
            weights,
            dweights,
            dscores,
            rows as u32,
            seq as u32,
            scale,
            team,
            dtype,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn softmax_rows_dx<F: Float, V: Size>(
    weights: &[Vector<F, V>],     // [rows, seq]
    dweights: &[Vector<F, V>],    // [rows, seq]
    dscores: &mut [Vector<F, V>], // [rows, seq]
    rows: u32,
    seq: u32,
    scale: f32,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let span = comptime!(team.span);
    let seq = seq as usize;
    let row = row_of(rows as usize, team);
    let seen = row % seq + 1;
    let first = row * seq;
    let mut w = Array::<f32>::new(comptime!(team.held()));
    let mut dw = Array::<f32>::new(comptime!(team.held()));

    let mut sum = f32::new(0.0_f32);
    let mut block = 0usize;
    while block < seen {
        load_block::<F, V>(weights, &mut w, first, block, seen, team);
        load_block::<F, V>(dweights, &mut dw, first, block, seen, team);
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            if column < seen {
                #[unroll]
                for j in 0..span {
                    let i = comptime!(turn * span + j);
                    sum += select(column + j < seen, w[i] * dw[i], f32::new(0.0_f32));
                }
            }
        }
        block += comptime!(team.block());
    }
    let sum = sum_of_row::<f32>(sum, team);

    let mut block = 0usize;
    while block < seq {
        if comptime!(!team.once) {
            load_block::<F, V>(weights, &mut w, first, block, seen, team);
            load_block::<F, V>(dweights, &mut dw, first, block, seen, team);
        }
        #[unroll]
        for turn in 0..comptime!(team.turns) {
            let column = column_of(block, turn, team);
            let mut out = Vector::<F, V>::new(F::new(0.0_f32));
            if column < seen {
                #[unroll]
                for j in 0..span {
                    let i = comptime!(turn * span + j);
                    let dscore = w[i] * (dw[i] - sum) * scale;
                    let dscore = select(column + j < seen, dscore, f32::new(0.0_f32));
                    out.insert(j, F::cast_from(dscore));
                }
            }
            if column < seq {
                dscores[(first + column) / span] = out;
            }
        }
        block += comptime!(team.block());
    }
}

/// Losses and `log Σ exp(logits)` of rows `[n, vocab]`, NaN for a target that is no column.
pub fn cross_entropy(
    client: &Client,
    logits: &Handle,
    targets: &Handle,
    outputs: [&Handle; 2],
    [n, vocab]: [usize; 2],
    dtype: ElemType,
) {
    let plan = Blueprint::of(&Capabilities::of(client));
    let [losses, log_sums] = outputs.map(|output| buffer(output, n));
    loss_rows::launch(
        client,
        cube_count(n),
        plan.dim(),
        buffer(logits, n * vocab),
        buffer(targets, n),
        losses,
        log_sums,
        n as u32,
        vocab as u32,
        plan,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn loss_rows<F: Float>(
    logits: &[F], // [n, vocab]
    targets: &[i32],
    losses: &mut [f32],
    log_sums: &mut [f32],
    n: u32,
    vocab: u32,
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let (lanes, slots) = comptime!((plan.lanes, plan.slots));
    let row = CUBE_POS;
    if row >= n as usize {
        terminate!();
    }
    let vocab = vocab as usize;
    let first = row * vocab;

    let mut largest = f32::new(f32::MIN);
    let mut sum = f32::new(0.0_f32);
    let mut column = UNIT_POS as usize;
    while column < vocab {
        let logit = f32::cast_from(logits[first + column]);
        if logit > largest {
            sum = sum * (largest - logit).exp() + f32::new(1.0_f32);
            largest = logit;
        } else {
            sum += (logit - largest).exp();
        }
        column += comptime!(plan.lanes * plan.slots);
    }
    let high = largest_of_lanes::<f32>(largest, lanes, slots, plan.shuffle);
    let sum = sum * (largest - high).exp();
    let sum = sum_of_lanes::<f32>(sum, lanes, slots, plan.shuffle);
    // The teams' results, then all of them by one unit.
    let mut highs = Shared::<[f32]>::new_slice(slots);
    let mut sums = Shared::<[f32]>::new_slice(slots);
    if UNIT_POS_X == 0 {
        highs[UNIT_POS_Y as usize] = high;
        sums[UNIT_POS_Y as usize] = sum;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut high = highs[0];
        #[unroll]
        for team in 1..slots {
            high = select(highs[team] > high, highs[team], high);
        }
        let mut sum = f32::new(0.0_f32);
        #[unroll]
        for team in 0..slots {
            sum += sums[team] * (highs[team] - high).exp();
        }
        let log_sum = high + sum.ln();
        let target = targets[row];
        let inside = target >= 0 && target < vocab as i32;
        let at = select(inside, usize::cast_from(target), 0usize);
        let picked = f32::cast_from(logits[first + at]);
        // NaN from bits, because WGSL has no literal for it.
        let damage = f32::reinterpret(select(inside, 0u32, 0x7FC0_0000u32));
        losses[row] = log_sum - picked + damage;
        log_sums[row] = log_sum;
    }
}

/// `dlogits = dloss · (softmax(logits) − onehot(target))`. `rows` are `log Σ exp(logits)` and the gradients of the losses.
pub fn cross_entropy_dx(
    client: &Client,
    logits: &Handle,
    targets: &Handle,
    rows: [&Handle; 2],
    dlogits: &Handle,
    [n, vocab]: [usize; 2],
    dtype: ElemType,
) {
    let plan = Blueprint::of(&Capabilities::of(client));
    let [log_sums, dlosses] = rows.map(|row| buffer(row, n));
    loss_rows_dx::launch(
        client,
        cube_count(n),
        plan.dim(),
        buffer(logits, n * vocab),
        buffer(targets, n),
        log_sums,
        dlosses,
        buffer(dlogits, n * vocab),
        n as u32,
        vocab as u32,
        plan,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn loss_rows_dx<F: Float>(
    logits: &[F], // [n, vocab]
    targets: &[i32],
    log_sums: &[f32],
    dlosses: &[f32],
    dlogits: &mut [F], // [n, vocab]
    n: u32,
    vocab: u32,
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= n as usize {
        terminate!();
    }
    let vocab = vocab as usize;
    let first = row * vocab;
    let (log_sum, dloss, target) = (log_sums[row], dlosses[row], targets[row]);
    let mut column = UNIT_POS as usize;
    while column < vocab {
        let softmax = (f32::cast_from(logits[first + column]) - log_sum).exp();
        let picked = select(
            column as i32 == target,
            f32::new(1.0_f32),
            f32::new(0.0_f32),
        );
        dlogits[first + column] = F::cast_from(dloss * (softmax - picked));
        column += comptime!(plan.lanes * plan.slots);
    }
}

/// Places that a unit loads before it adds the first.
const AHEAD: usize = 4;

/// Sums of the rows of `dy [n, d]` by their ids, `[count, d]`. `tensors` are ids, `dy` and the sums.
///
/// The places are sorted by id first, stably, so that each sum has one order.
pub fn embedding_dx(
    client: &Client,
    tensors: [&Handle; 3],
    [n, d, count]: [usize; 3],
    dtype: ElemType,
) {
    let units = Capabilities::of(client).max_units.min(256);
    let [ids, dy, table] = tensors;
    let (sorted, order) = (client.empty(n * 4), client.empty(n * 4));
    sort_places::launch(
        client,
        cube_count(n.div_ceil(units as usize)),
        CubeDim::new_1d(units),
        buffer(ids, n),
        buffer(&sorted, n),
        buffer(&order, n),
        n as u32,
        units as usize,
    );
    embedding_rows_dx::launch(
        client,
        cube_count(count),
        CubeDim::new_1d(units),
        buffer(&sorted, n),
        buffer(&order, n),
        buffer(dy, n * d),
        buffer(table, count * d),
        n as u32,
        d as u32,
        count as u32,
        n.max(1).ilog2() + 1,
        units as usize,
        dtype,
    );
}

/// Each unit counts how many ids come before its own: smaller ones, and equal ones at earlier places.
#[cube(launch)]
pub(crate) fn sort_places(
    ids: &[i32],
    sorted: &mut [i32],
    order: &mut [u32],
    n: u32,
    #[comptime] units: usize,
) {
    let n = n as usize;
    let unit = UNIT_POS as usize;
    let own = CUBE_POS * units + unit;
    let id = ids[last_of(own, n)];
    let mut seen = Shared::<[i32]>::new_slice(units);
    let mut before = 0u32;
    let mut tile = 0usize;
    while tile < n {
        seen[unit] = ids[last_of(tile + unit, n)];
        sync_cube();
        let mut i = 0usize;
        while i < units {
            let at = tile + i;
            let other = seen[i];
            let first = other < id || (other == id && at < own);
            before += u32::cast_from(first && at < n);
            i += 1usize;
        }
        sync_cube();
        tile += units;
    }
    if own < n {
        sorted[before as usize] = id;
        order[before as usize] = own as u32;
    }
}

#[cube(launch)]
pub(crate) fn embedding_rows_dx<F: Float>(
    sorted: &[i32],
    order: &[u32],
    dy: &[F],        // [n, d]
    table: &mut [F], // [count, d]
    n: u32,
    d: u32,
    count: u32,
    halvings: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= count as usize {
        terminate!();
    }
    let (n, d) = (n as usize, d as usize);
    let first = places_below(sorted, row as i32, n, halvings);
    let end = places_below(sorted, row as i32 + 1i32, n, halvings);
    let mut column = UNIT_POS as usize;
    while column < d {
        let mut sum = f32::new(0.0_f32);
        let mut place = first;
        while place < end {
            let mut loaded = Array::<f32>::new(AHEAD);
            #[unroll]
            for k in 0..AHEAD {
                let inside = place + k < end;
                let at = order[select(inside, place + k, first)] as usize;
                let value = f32::cast_from(dy[at * d + column]);
                loaded[k] = select(inside, value, f32::new(0.0_f32));
            }
            #[unroll]
            for k in 0..AHEAD {
                sum += loaded[k];
            }
            place += AHEAD;
        }
        table[row * d + column] = F::cast_from(sum);
        column += units;
    }
}

/// How many sorted ids are below `id`.
#[cube]
fn places_below(sorted: &[i32], id: i32, n: usize, halvings: u32) -> usize {
    let mut low = 0usize;
    let mut high = n;
    for _ in 0..halvings {
        if low < high {
            let middle = (low + high) / 2;
            if sorted[middle] < id {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
    }
    low
}
