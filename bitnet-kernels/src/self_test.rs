//! Known answers for every kernel on this machine: what a user runs when numbers look wrong.
//!
//! The answers are computed by plain loops over trits, the inputs are fixed. Sums are compared with `==`.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::packing::words;
use crate::{
    ActivationQuantizer, Granularity, PackedTernary, Scale, TernaryTensor, cpu, reference,
    ternary_linear,
};

/// What one kernel answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `cpu/` and the name of a CPU kernel, or a device.
    pub kernel: String,
    /// `None` if every answer was right, else the first that was wrong.
    pub failure: Option<String>,
}

/// (rows, d_out, d_in): one row, a few, many; tails in each dimension.
const CASES: &[(usize, usize, usize)] = &[(1, 33, 200), (5, 17, 130), (40, 70, 320)];

/// Runs the known answers on every CPU kernel that this machine has, and on `devices`. Each kernel appears once in the
/// result, in order; a wrong one is named with the first element that differs.
pub fn self_test(devices: &[Device]) -> Vec<Verdict> {
    let cpu = cpu::kernels().into_iter().map(|kernel| Verdict {
        kernel: format!("cpu/{}", kernel.name()),
        failure: CASES.iter().find_map(|&case| {
            let (x, trits, expected) = known_answer(case);
            let (rows, d_out, d_in) = case;
            let words = words::pack_rows(&trits, d_in);
            let activations = cpu::Activations::quantize(kernel, &x, d_in);
            let mut sums = vec![i32::MIN; rows * d_out];
            cpu::ternary_sums(kernel, &activations, &words, d_out, &mut sums);
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            compare(case, &sums, &expected)
        }),
    });
    let devices = devices.iter().map(|device| Verdict {
        kernel: format!("{device:?}"),
        failure: CASES.iter().find_map(|&case| on_device(case, device)),
    });
    cpu.chain(devices).collect()
}

fn on_device(case: (usize, usize, usize), device: &Device) -> Option<String> {
    let (x, trits, expected) = known_answer(case);
    let (rows, d_out, d_in) = case;
    let granularities = [
        Granularity::Tensor,
        Granularity::Row,
        Granularity::Group(64),
    ];
    granularities.into_iter().find_map(|granularity| {
        let ones = vec![1.0; granularity.count(d_out, d_in)];
        let scale = Scale::from_values(granularity, ones);
        let packed = PackedTernary::from_trits(&trits, scale, d_out, d_in).expect("known answers");
        let weight = TernaryTensor::from_packed(packed, device);
        let data = TensorData::new(x.clone(), [rows, d_in]);
        let x = Tensor::<2>::from_data(data, (device, DType::F32));
        let y = ternary_linear(x, &weight, ActivationQuantizer::Int8).cast(FloatDType::F32);
        match y.into_data().try_to_vec::<f32>() {
            Ok(y) => {
                compare(case, &y, &expected).map(|failure| format!("{failure}, {granularity}"))
            }
            Err(error) => Some(format!("no answer: {error:?}")),
        }
    })
}

/// Integer activations with a maximum of 127, so that their int8 scale is 1 and outputs are the sums themselves.
fn known_answer((rows, d_out, d_in): (usize, usize, usize)) -> (Vec<f32>, Vec<i8>, Vec<f32>) {
    let q = |i: usize| ((i * i + 7 * i) % 255) as i32 - 127;
    let mut x: Vec<f32> = (0..rows * d_in).map(|i| q(i) as f32).collect();
    x.chunks_exact_mut(d_in)
        .for_each(|row| row[d_in / 2] = 127.0);
    let trits: Vec<i8> = (0..d_out * d_in)
        .map(|i| ((i * i + i / 3) % 3) as i8 - 1)
        .collect();
    let (q, _) = reference::quantize(&x, d_in);
    let sums = reference::ternary_sums(&q, &trits, d_in);
    (x, trits, sums.into_iter().map(|sum| sum as f32).collect())
}

fn compare(case: (usize, usize, usize), found: &[f32], expected: &[f32]) -> Option<String> {
    let (rows, d_out, d_in) = case;
    let at = found.iter().zip(expected).position(|(f, e)| f != e)?;
    let (found, expected) = (found[at], expected[at]);
    Some(format!(
        "{rows} rows, {d_out} x {d_in}: element {at} is {found}, expected {expected}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_this_machine_answers_right() {
        let verdicts = self_test(&[]);
        assert_eq!(verdicts.len(), cpu::kernels().len());
        assert!(
            verdicts.iter().all(|verdict| verdict.failure.is_none()),
            "{verdicts:?}"
        );
    }

    #[test]
    fn a_wrong_sum_is_named_with_its_place() {
        let failure = compare((1, 2, 3), &[1.0, 5.0], &[1.0, 4.0]).unwrap();
        assert_eq!(failure, "1 rows, 2 x 3: element 1 is 5, expected 4");
        assert_eq!(compare((1, 2, 3), &[1.0, 4.0], &[1.0, 4.0]), None);
    }
}
