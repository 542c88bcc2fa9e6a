//! New keys and values into the cache: a few units encode one row, keys and values side by side in one launch.
//!
//! The words are those of the CPU bit for bit: halves rounded to nearest even by integer steps, int8 with the quotient
//! corrected to the nearest float. A row beyond the capacity is dropped.

use cubecl::client::Client;
use cubecl::prelude::*;

use super::Operands;
use crate::cube::arithmetic::{INFINITY_BITS, largest_of_lanes, last_of, quotient};
use crate::cube::{Capabilities, buffer, cube_count};
use crate::quantize::{EPSILON, INT8_MAX};
use crate::{AttentionShape, CacheFormat};

/// Units of a cube, where a device has room.
const UNITS: usize = 128;
/// Bits of 65504, the largest half, of 2^-14, its smallest normal number, and what an exponent loses.
const HALF_MAX_BITS: u32 = 0x477F_E000;
const HALF_NORMAL_BITS: u32 = 0x3880_0000;
const HALF_REBIAS: u32 = 112 << 23;
/// Halves below 2^-14 are multiples of 1 / this.
const HALF_STEPS: f32 = 16_777_216.0;

/// Factor of a row's largest magnitude in its scale.
const INVERSE_127: f32 = 1.0 / INT8_MAX;

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// How the cache stores numbers.
    pub format: CacheFormat,
    /// Numbers of a row.
    pub head_dim: usize,
    /// Units that share a row: a power of two.
    pub lanes: usize,
    /// Slots of `lanes` units in a cube.
    pub slots: usize,
    /// Whether the largest number of a row is found by shuffles.
    pub shuffle: bool,
}

/// Plans a launch.
pub fn blueprint(format: CacheFormat, head_dim: usize, device: &Capabilities) -> Blueprint {
    let most = device.max_units as usize;
    let lanes = if device.plane > 0 {
        device.plane.min(32) as usize
    } else {
        32.min(most)
    };
    Blueprint {
        format,
        head_dim,
        lanes,
        slots: UNITS.min(most) / lanes,
        shuffle: device.plane > 0,
    }
}

/// Stores `k` and `v` of the operands from `starts` on.
pub fn launch(
    client: &Client,
    shape: AttentionShape,
    format: CacheFormat,
    device: &Capabilities,
    operands: &Operands,
) {
    let plan = blueprint(format, shape.head_dim, device);
    let rows = shape.batch * shape.n_kv_heads * shape.seq;
    let CubeCount::Static(width, height, _) = cube_count(rows.div_ceil(plan.slots)) else {
        unreachable!("counts are static")
    };
    let (words, scales) = (shape.cache_words(format), shape.cache_scales(format));
    cache_store::launch(
        client,
        CubeCount::Static(width, height, 2),
        CubeDim::new_2d(plan.lanes as u32, plan.slots as u32),
        buffer(&operands.k, rows * shape.head_dim),
        buffer(&operands.v, rows * shape.head_dim),
        buffer(&operands.starts, shape.batch),
        buffer(&operands.keys, words),
        buffer(&operands.key_scales, scales),
        buffer(&operands.values, words),
        buffer(&operands.value_scales, scales),
        rows as u32,
        shape.seq as u32,
        shape.n_kv_heads as u32,
        shape.capacity as u32,
        plan,
    );
}

#[cube(launch)]
pub(crate) fn cache_store(
    k: &[f32], // [batch, n_kv_heads, seq, head_dim]
    v: &[f32],
    starts: &[i32],   // [batch]
    keys: &mut [u32], // [batch, n_kv_heads, capacity, words]
    key_scales: &mut [f32],
    values: &mut [u32],
    value_scales: &mut [f32],
    rows: u32, // batch · n_kv_heads · seq
    seq: u32,
    n_kv_heads: u32,
    capacity: u32,
    #[comptime] plan: Blueprint,
) {
    let (seq, capacity) = (seq as usize, capacity as usize);
    let cube = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let row = cube * comptime!(plan.slots) + UNIT_POS_Y as usize;
    let inside = last_of(row, rows as usize);
    let head = inside / seq;
    let position = usize::cast_from(starts[head / n_kv_heads as usize]) + inside % seq;
    let fits = row < rows as usize && position < capacity;
    let place = head * capacity + last_of(position, capacity);
    if CUBE_POS_Z == 0u32 {
        store_row(k, keys, key_scales, inside, place, fits, plan);
    } else {
        store_row(v, values, value_scales, inside, place, fits, plan);
    }
}

/// Encodes row `from` of `new` to row `place` of the cache, if it fits.
#[cube]
fn store_row(
    new: &[f32],
    codes: &mut [u32],
    scales: &mut [f32],
    from: usize,
    place: usize,
    fits: bool,
    #[comptime] plan: Blueprint,
) {
    let head_dim = comptime!(plan.head_dim);
    let lanes = comptime!(plan.lanes);
    let words = comptime!(plan.format.words(plan.head_dim));
    let per_word = comptime!(plan.format.per_word());
    let bits = comptime!(32 / plan.format.per_word() as u32);
    let whole = comptime!(plan.head_dim.is_multiple_of(plan.format.per_word()));
    let scaled = comptime!(plan.format.scaled());
    let lane = UNIT_POS_X as usize;

    let mut inverse = f32::new(0.0_f32);
    // Magnitudes order like their bits, infinity above all numbers and NaN above infinity.
    let mut largest = 0u32;
    if comptime!(scaled) {
        let mut at = lane;
        while at < head_dim {
            let magnitude = u32::reinterpret(new[from * head_dim + at]) & 0x7FFF_FFFFu32;
            largest = select(magnitude > largest, magnitude, largest);
            at += lanes;
        }
        largest = largest_of_lanes::<u32>(largest, lanes, plan.slots, plan.shuffle);
        let floor = u32::reinterpret(f32::new(EPSILON));
        let amax = f32::reinterpret(select(largest > floor, largest, floor));
        inverse = quotient(127u32, amax);
        if fits && lane == 0 {
            scales[place] = amax * f32::new(INVERSE_127);
        }
    }
    if fits {
        let mut at = lane;
        while at < words {
            let mut word = 0u32;
            #[unroll]
            for i in 0..per_word {
                let column = at * per_word + i;
                let x = new[from * head_dim + last_of(column, head_dim)];
                let code = match comptime!(plan.format) {
                    CacheFormat::F32 => u32::reinterpret(x),
                    CacheFormat::F16 => half_bits(x),
                    CacheFormat::Int8 => {
                        let most = f32::new(INT8_MAX);
                        let q = i32::cast_from(clamp(Round::round(x * inverse), -most, most));
                        u32::cast_from(select(largest < INFINITY_BITS, q, 0i32)) & 0xFFu32
                    }
                };
                let code = if comptime!(whole) {
                    code
                } else {
                    select(column < head_dim, code, 0u32)
                };
                word |= code << (bits * i as u32);
            }
            codes[place * words + at] = word;
            at += lanes;
        }
    }
}

/// `x` as a half, ties to even, magnitudes beyond 65504 as 65504.
#[cube]
fn half_bits(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let sign = (bits >> 16u32) & 0x8000u32;
    let magnitude = bits & 0x7FFF_FFFFu32;
    let a = select(magnitude > HALF_MAX_BITS, HALF_MAX_BITS, magnitude);
    // 13 bits go: add just less than half of the last one that stays, or half where that one is odd.
    let normal = (a - HALF_REBIAS + 0xFFFu32 + ((a >> 13u32) & 1u32)) >> 13u32;
    let small = select(a < HALF_NORMAL_BITS, a, 0u32);
    let subnormal = u32::cast_from(Round::round(f32::reinterpret(small) * f32::new(HALF_STEPS)));
    let code = select(a < HALF_NORMAL_BITS, subnormal, normal);
    sign | select(magnitude > INFINITY_BITS, 0x7E00u32, code)
}
