//! Arithmetic that every kernel shares, made of 32-bit words so that it runs on each code generator.

use cubecl::prelude::*;

/// Bits of positive infinity; larger bit patterns of non-negative floats are NaN.
pub(crate) const INFINITY_BITS: u32 = 0x7F80_0000;

/// `n / d`, correctly rounded, for an `n` from 1 to below 2^24 and a normal `d` of at least 1e-5 with a normal quotient:
/// of 1 up to a `d` of 2^126, of 4 and more up to the largest float.
#[cube]
pub(crate) fn quotient(#[comptime] n: u32, d: f32) -> f32 {
    // n = significand · 2^(exponent - 23), with the 24 bits of a float's significand.
    let exponent = comptime!(n.ilog2());
    exact_quotient(
        f32::new(comptime!(n as f32)) / d,
        d,
        comptime!(n << (23 - exponent)),
        comptime!(exponent as i32),
    )
}

/// Corrects an approximate quotient `n / d` to the nearest float, as the CPU's division gives it.
///
/// WebGPU and Vulkan allow divisions an error of 2.5 units in the last place, and one such unit moves activations over
/// a rounding boundary. With integer significands the remainder `N - q·d` is exact in 32 wrapping bits while `q` is off by
/// a few units, and tells how far. Ties cannot occur: no quotient of two floats lies halfway between two normal floats.
#[cube]
fn exact_quotient(
    approximate: f32,
    d: f32,
    #[comptime] significand: u32,
    #[comptime] exponent: i32,
) -> f32 {
    let bits = u32::reinterpret(d);
    let divisor = (bits & 0x007F_FFFFu32) | 0x0080_0000u32;
    let divisor_exponent = i32::cast_from(bits >> 23u32) - 127i32;
    // n / d = (significand / divisor) · 2^(exponent - divisor_exponent), the fraction in (1/2, 2).
    let below_one = u32::cast_from(divisor > significand);
    let quotient_exponent = exponent - divisor_exponent - i32::cast_from(below_one);
    let numerator = significand << (23u32 + below_one); // modulo 2^32

    let found = u32::reinterpret(approximate);
    let found_exponent = i32::cast_from(found >> 23u32) - 127i32;
    let found = (found & 0x007F_FFFFu32) | 0x0080_0000u32;
    let mut q = select(
        found_exponent > quotient_exponent,
        found << 1u32,
        select(found_exponent < quotient_exponent, found >> 1u32, found),
    );
    let step = i32::cast_from(divisor);
    let mut remainder = i32::cast_from(numerator - q * divisor);
    #[unroll]
    for _ in 0..5u32 {
        let up = i32::cast_from(remainder + remainder > step);
        let down = i32::cast_from(remainder + remainder < -step);
        q += u32::cast_from(up - down);
        remainder -= (up - down) * step;
    }
    // q = 2^24 carries into the exponent by itself.
    f32::reinterpret((u32::cast_from(quotient_exponent + 127i32) << 23u32) + q - 0x0080_0000u32)
}

/// `sum + Σ code·x` over the sixteen columns of a word: codes 0, 1, 2 against four packed int8 words.
///
/// Without native 8-bit dot products two multiply-adds share a 32-bit product: with x + 128 in 0..=255 the halves of
/// `(x₀ + x₂·2^16) · (c₂ + c₀·2^16)` do not carry, and its upper half is x₀c₀ + x₂c₂. The 128s are taken off by counting
/// bits: half the instructions of a byte-by-byte dot product.
#[cube]
pub(crate) fn dot_codes<V: Size>(
    word: u32,
    x: Vector<i32, V>,
    sum: i32,
    #[comptime] native: bool,
) -> i32 {
    let mut sum = sum;
    if comptime!(native) {
        #[unroll]
        for i in 0..4usize {
            let codes = (word >> (2u32 * i as u32)) & 0x0303_0303u32;
            sum = dp4a(x.extract(i), i32::cast_from(codes), sum);
        }
    } else {
        let twos = (word >> 1u32) & 0x5555_5555u32;
        let codes = (word & 0x5555_5555u32).count_ones() + 2u32 * twos.count_ones();
        sum -= i32::cast_from(128u32 * codes);
        #[unroll]
        for i in 0..4usize {
            let biased = u32::cast_from(x.extract(i)) ^ 0x8080_8080u32;
            let even = biased & 0x00FF_00FFu32;
            let odd = (biased >> 8u32) & 0x00FF_00FFu32;
            let code = word >> (2u32 * i as u32);
            let even_codes = ((code << 16u32) & 0x0003_0000u32) | ((code >> 16u32) & 3u32);
            let odd_codes = ((code << 8u32) & 0x0003_0000u32) | ((code >> 24u32) & 3u32);
            sum += i32::cast_from(((even * even_codes) >> 16u32) + ((odd * odd_codes) >> 16u32));
        }
    }
    sum
}

/// `Σ x` over sixteen columns.
#[cube]
pub(crate) fn sum_of<V: Size>(x: Vector<i32, V>, #[comptime] native: bool) -> i32 {
    if comptime!(native) {
        let mut sum = 0i32;
        #[unroll]
        for i in 0..4usize {
            sum = dp4a(x.extract(i), 0x0101_0101i32, sum);
        }
        sum
    } else {
        let mut halves = 0u32;
        #[unroll]
        for i in 0..4usize {
            let biased = u32::cast_from(x.extract(i)) ^ 0x8080_8080u32;
            halves += (biased & 0x00FF_00FFu32) + ((biased >> 8u32) & 0x00FF_00FFu32);
        }
        i32::cast_from((halves & 0xFFFFu32) + (halves >> 16u32)) - 2048i32
    }
}

/// `y = acc / s`, before the weight's scale.
#[cube]
pub(crate) fn descale(acc: i32, x_scale: f32) -> f32 {
    f32::cast_from(acc) / x_scale
}

/// [`descale`] with the correctly rounded `inverse` of the scale at hand, on devices with fused multiply-adds: a quotient from
/// it is off by a unit at most, and one step with the exact remainder rounds it correctly (Markstein 1990). Quotients near
/// the largest float are divided.
#[cube]
pub(crate) fn descale_by(acc: i32, x_scale: f32, inverse: f32) -> f32 {
    let n = f32::cast_from(acc);
    if x_scale < f32::new(1e-24_f32) {
        n / x_scale
    } else {
        let q = n * inverse;
        fma(fma(-q, x_scale, n), inverse, q)
    }
}

/// `index`, or the last valid one.
#[cube]
pub(crate) fn last_of(index: usize, count: usize) -> usize {
    select(index < count, index, count - 1)
}

/// What becomes of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Join {
    Sum,
    Largest,
}

/// Sum over the `lanes` units that share UNIT_POS_Y, one of `slots`, for each of them.
#[cube]
pub(crate) fn sum_of_lanes<T: Numeric>(
    value: T,
    #[comptime] lanes: usize,
    #[comptime] slots: usize,
    #[comptime] shuffle: bool,
) -> T {
    join_lanes::<T>(value, lanes, slots, shuffle, Join::Sum)
}

/// The largest of the numbers of `lanes` units that share UNIT_POS_Y, one of `slots`, for each of them.
#[cube]
pub(crate) fn largest_of_lanes<T: Numeric>(
    value: T,
    #[comptime] lanes: usize,
    #[comptime] slots: usize,
    #[comptime] shuffle: bool,
) -> T {
    join_lanes::<T>(value, lanes, slots, shuffle, Join::Largest)
}

#[cube]
fn join_lanes<T: Numeric>(
    value: T,
    #[comptime] lanes: usize,
    #[comptime] slots: usize,
    #[comptime] shuffle: bool,
    #[comptime] how: Join,
) -> T {
    if comptime!(shuffle) {
        let mut all = value;
        let mut mask = comptime!(lanes as u32 / 2);
        #[unroll]
        for _ in 0..comptime!(lanes.ilog2()) {
            all = join::<T>(all, plane_shuffle_xor(all, mask), how);
            comptime!(mask /= 2);
        }
        all
    } else {
        let mut all = Shared::<[T]>::new_slice(comptime!(lanes * slots));
        sync_cube();
        all[UNIT_POS as usize] = value;
        sync_cube();
        let base = UNIT_POS_Y as usize * lanes;
        let mut joined = all[base];
        #[unroll]
        for i in 1..lanes {
            joined = join::<T>(joined, all[base + i], how);
        }
        joined
    }
}

#[cube]
fn join<T: Numeric>(a: T, b: T, #[comptime] how: Join) -> T {
    match comptime!(how) {
        Join::Sum => a + b,
        Join::Largest => select(b > a, b, a),
    }
}
