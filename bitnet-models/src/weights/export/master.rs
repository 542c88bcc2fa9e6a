//! Float masters for a ternary matrix: floats whose quantization gives the matrix again, trits and scale.
//!
//! `mean|T·w| = w · density`, so `w = m / density` has the mean `m`; and `w / m ≥ 1` rounds back to the trit. As f32 that
//! mean misses `m` by an ulp now and then: some of the values are then one ulp larger, which moves the mean in far
//! smaller steps. The result is proven by quantizing it.

use bitnet_kernels::quantize::{WeightQuantizer, ternarize};
use bitnet_kernels::{Granularity, KernelError, PackedTernary};

/// The masters, row-major.
pub(super) fn master(packed: &PackedTernary) -> Result<Vec<f32>, KernelError> {
    let scale = super::one_scale(packed)?;
    let trits = packed.trits();
    let used = trits.iter().filter(|&&trit| trit != 0).count();
    if used == 0 {
        return Ok(vec![0.0; trits.len()]);
    }
    let total = f64::from(scale) * trits.len() as f64;
    let exact = total / used as f64;
    let nearest = exact as f32;
    let low = if f64::from(nearest) > exact {
        nearest.next_down()
    } else {
        nearest
    };
    let high = low.next_up();
    let ulp = f64::from(high) - f64::from(low);
    let mut raised = ((total - f64::from(low) * used as f64) / ulp).round();
    let values: Vec<f32> = trits
        .iter()
        .map(|&trit| {
            let value = if trit != 0 && raised >= 1.0 {
                high
            } else {
                low
            };
            raised -= f64::from(trit.abs());
            f32::from(trit) * value
        })
        .collect();
    let (quantizer, granularity) = (WeightQuantizer::AbsMean, Granularity::Tensor);
    let again = ternarize(
        &values,
        packed.d_out(),
        packed.d_in(),
        quantizer,
        granularity,
    )?;
    if again.words() == packed.words() && again.scale().values() == [scale] {
        return Ok(values);
    }
    Err(KernelError::Scale {
        what: "float masters",
        index: 0,
        value: scale,
        rule: "no floats of this ternary matrix have exactly this mean, at least 1e-5. \
               Export it packed or dequantized instead",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_kernels::Scale;
    use proptest::prelude::*;

    fn packed(trits: &[i8], scale: f32) -> PackedTernary {
        PackedTernary::from_trits(trits, Scale::Tensor(scale), 1, trits.len()).unwrap()
    }

    proptest! {
        #[test]
        fn masters_of_large_matrices_have_any_scale_exactly(
            scale in 1e-5..1e3_f32,
            density in 0.02..1.0_f64,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let trits: Vec<i8> = (0..5000)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let number = (state >> 33) as f64 / f64::from(1_u32 << 31);
                    if number > density { 0 } else if state >> 32 & 1 == 0 { 1 } else { -1 }
                })
                .collect();
            prop_assert!(master(&packed(&trits, scale)).is_ok());
        }
    }

    #[test]
    fn masters_are_the_scale_over_the_density() {
        assert_eq!(
            master(&packed(&[1, 0, -1, 0], 0.5)).unwrap(),
            [1.0, 0.0, -1.0, 0.0]
        );
        assert_eq!(master(&packed(&[0, 0], 7.0)).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn a_scale_that_quantization_never_gives_is_refused() {
        let error = master(&packed(&[1, 1], 1e-6)).unwrap_err().to_string();
        assert!(error.contains("float masters: scale 0.000001"), "{error}");
    }
}
