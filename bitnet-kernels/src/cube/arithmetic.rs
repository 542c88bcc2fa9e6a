//! Arithmetic that every kernel shares, made of 32-bit words so that it runs on each code generator.

use cubecl::prelude::*;

/// 24-bit significand and exponent of 127 = 0xFE0000 · 2^(6-23), the numerator of an activation scale.
const SIGNIFICAND_127: u32 = 0x00FE_0000;
const EXPONENT_127: i32 = 6;
/// The same of 1, the numerator of a weight scale.
const SIGNIFICAND_1: u32 = 0x0080_0000;
const EXPONENT_1: i32 = 0;

/// Bits of positive infinity; larger bit patterns of non-negative floats are NaN.
pub(crate) const INFINITY_BITS: u32 = 0x7F80_0000;

/// `127 / d`, correctly rounded, for a normal `d` of at least 1e-5.
#[cube]
pub(crate) fn quotient_of_127(d: f32) -> f32 {
    exact_quotient(f32::new(127.0_f32) / d, d, SIGNIFICAND_127, EXPONENT_127)
}

/// `1 / d`, correctly rounded, for a normal `d` from 1e-5 to 2^126.
#[cube]
pub(crate) fn quotient_of_1(d: f32) -> f32 {
    exact_quotient(f32::new(1.0_f32) / d, d, SIGNIFICAND_1, EXPONENT_1)
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
#[cube]
pub(crate) fn dot_codes<V: Size>(word: u32, x: Vector<i32, V>, sum: i32) -> i32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..4usize {
        let codes = (word >> (2u32 * i as u32)) & 0x0303_0303u32;
        sum = dp4a(x.extract(i), i32::cast_from(codes), sum);
    }
    sum
}

/// `sum + Σ x` over sixteen columns.
#[cube]
pub(crate) fn dot_ones<V: Size>(x: Vector<i32, V>, sum: i32) -> i32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..4usize {
        sum = dp4a(x.extract(i), 0x0101_0101i32, sum);
    }
    sum
}

/// `y = acc / s`, before the weight's scale.
#[cube]
pub(crate) fn descale(acc: i32, x_scale: f32) -> f32 {
    f32::cast_from(acc) / x_scale
}
