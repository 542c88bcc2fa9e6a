//! The weight quantizers against fixtures of the reference library: trits exactly, scales to summation order. The
//! quantizers of activations against their formula.
//!
//! A case is `<case>.w` with what the library made of it in f32 (`absmean`, `ternary`), of the same weight rounded to
//! bf16 (`bf16_*`), and in bf16 arithmetic (`bf16arith_*`). Cases with NaN or infinity have `ternary_float` instead.

#[path = "support/random.rs"]
mod random;
mod support;

use bitnet_kernels::quantize::{self, EPSILON, WeightQuantizer};
use bitnet_kernels::{ActivationQuantizer, Granularity, KernelError, PackedTernary, reference};
use random::Random;
use safetensors::SafeTensors;

/// Runs `test` on name, weight and shape of each case that is finite or not.
fn each(finite: bool, test: impl Fn(&SafeTensors<'_>, &str, &[f32], [usize; 2])) {
    let file = support::fixture("quant/weights.safetensors");
    let tensors = support::tensors(&file);
    let mut cases = support::cases(&tensors, ".w");
    cases.retain(|case| support::has(&tensors, &format!("{case}.ternary")) == finite);
    assert!(!cases.is_empty(), "no case");
    for case in cases {
        let name = format!("{case}.w");
        let shape = support::matrix_shape(&tensors, &name);
        test(&tensors, &case, &support::f32s(&tensors, &name), shape);
    }
}

fn ternarize(weight: &[f32], [d_out, d_in]: [usize; 2]) -> Result<PackedTernary, KernelError> {
    quantize::ternarize(
        weight,
        d_out,
        d_in,
        WeightQuantizer::AbsMean,
        Granularity::Tensor,
    )
}

fn scale(packed: &PackedTernary) -> f32 {
    packed.scale().values()[0]
}

#[test]
fn absmean_gives_the_trits_and_scales_of_the_reference() {
    each(true, |tensors, case, weight, shape| {
        let rounded: Vec<f32> = weight
            .iter()
            .map(|&w| half::bf16::from_f32(w).to_f32())
            .collect();
        for (weight, kind) in [(weight, ""), (&rounded, "bf16_")] {
            let packed = ternarize(weight, shape).unwrap();
            let trits = support::i8s(tensors, &format!("{case}.{kind}ternary"));
            assert_eq!(packed.trits(), trits, "{case}.{kind}");
            let mean = support::f32s(tensors, &format!("{case}.{kind}absmean"))[0].max(EPSILON);
            assert!((scale(&packed) / mean - 1.0).abs() <= 1e-6, "{case}.{kind}");
        }
    });
}

#[test]
fn bf16_arithmetic_gives_the_trits_and_scales_of_the_reference_exactly() {
    each(true, |tensors, case, weight, shape| {
        let packed = quantize::ternarize_bf16(weight, shape[0], shape[1]).unwrap();
        let trits = support::i8s(tensors, &format!("{case}.bf16arith_ternary"));
        assert_eq!(packed.trits(), trits, "{case}");
        let inverse = support::bf16s(tensors, &format!("{case}.bf16arith_inv_scale"))[0];
        assert_eq!(scale(&packed), 1.0 / inverse, "{case}");
    });
}

#[test]
fn what_is_not_finite_is_refused_by_both() {
    each(false, |_, case, weight, shape| {
        let at = weight.iter().position(|w| !w.is_finite()).unwrap();
        for refused in [
            ternarize(weight, shape),
            quantize::ternarize_bf16(weight, shape[0], shape[1]),
        ] {
            let Err(KernelError::NonFinite { index, .. }) = refused else {
                panic!("{case}: {refused:?}")
            };
            assert_eq!(index, at, "{case}");
        }
    });
}

#[test]
fn quantizers_of_activations_are_known_by_their_bits() {
    for (bits, limit) in [(8, 127), (4, 7)] {
        let quantizer = ActivationQuantizer::from_bits(bits).unwrap();
        assert_eq!(quantizer.limit(), Some(limit));
    }
    assert_eq!(ActivationQuantizer::None.limit(), None);
    assert_eq!(ActivationQuantizer::from_bits(5), None);
}

#[test]
fn four_bits_round_to_even_and_keep_outliers() {
    // The largest magnitude is 7, so s = 1 and the halves are ties.
    let x = [0.5, 1.5, -2.5, -7.0, 6.5, 3.4, 0.0, 7.0];
    let rows = quantize::absmax(&x, 8, 7);
    assert_eq!(rows.values, [0, 2, -2, -7, 6, 3, 0, 7]);
    assert_eq!(rows.scale, [1.0]);
    // One outlier takes the whole range.
    let rows = quantize::absmax(&[-1000.0, 70.0, 72.0, 1.0], 4, 7);
    assert_eq!(rows.values, [-7, 0, 1, 0]);
    // Zeros, and rows below the floor of 1e-5, which are not stretched.
    let rows = quantize::absmax(&[0.0, 0.0, 5e-6, -2e-6], 2, 7);
    assert_eq!(rows.values, [0, 0, 4, -1]); // 3.5, a tie in f32
    assert_eq!(rows.scale, [7.0 / 1e-5; 2]);
}

#[test]
fn activations_are_quantized_as_the_oracle_says_and_lose_half_a_step_at_most() {
    let mut random = Random(1);
    let d_in = 40;
    let mut x = random.floats(8 * d_in);
    x[3] = f32::NAN;
    x[d_in] = f32::NEG_INFINITY;
    x[2 * d_in..3 * d_in].fill(0.0);
    x[3 * d_in..4 * d_in].iter_mut().for_each(|x| *x *= 3e38);
    x[4 * d_in..5 * d_in].iter_mut().for_each(|x| *x *= 1e-7);
    for limit in [127, 7] {
        let found = quantize::absmax(&x, d_in, limit);
        let (q, s) = reference::quantize(&x, d_in, limit);
        assert_eq!(found.values, q);
        let bits = |scale: &[f32]| scale.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found.scale), bits(&s));
        assert!(found.scale[0].is_nan() && found.scale[1] == 0.0);
        assert!(q[..3 * d_in].iter().all(|&q| q == 0));
        for (x, (q, s)) in x
            .chunks_exact(d_in)
            .zip(q.chunks_exact(d_in).zip(s))
            .skip(2)
        {
            for (x, &q) in x.iter().zip(q) {
                assert!((-limit..=limit).contains(&q));
                // In f64, beside the rounding of the scale and of the product.
                let error = (f64::from(*x) * f64::from(s) - f64::from(q)).abs();
                assert!(error <= 0.5 + 1e-5, "{x} became {q}, {s} a step");
            }
        }
    }
}
