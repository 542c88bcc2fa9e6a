//! `BitLinear` on every device: against the reference vectors, against a dense composition of Burn's operations,
//! latent against packed, and as a citizen of Burn's modules, optimizers and records.

#[path = "../../bitnet-kernels/tests/support/devices.rs"]
#[allow(clippy::vec_init_then_push, reason = "one device for each feature")]
mod devices;
#[path = "../../bitnet-kernels/tests/support/mod.rs"]
mod fixtures;

use bitnet_kernels::packing::base3;
use bitnet_kernels::quantize::fake_quantize;
use bitnet_kernels::{
    ActivationQuantizer, Granularity, PackedTernary, Scale, TernaryTensor, WeightQuantizer,
};
use bitnet_models::layers::rms_norm;
use bitnet_models::{BitLinear, BitLinearConfig};
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::store::{
    BurnpackStore, FloatCastAdapter, ModuleRecord, ModuleSnapshot, SafetensorsStore,
};
use burn::tensor::{Bytes, DType, Device, Distribution, Tensor, TensorData};
use devices::devices;

/// Relative L2 error between two float32 computations of the same values in another order.
const FLOAT: f64 = 2e-6;

/// The same against the reference library, whose order of operations is a third one.
const REFERENCE: f64 = 1e-5;

/// The device of tests that have nothing to do with devices: the first one, Flex where it is enabled.
fn cpu() -> Device {
    let (_, device) = devices().swap_remove(0);
    device
}

fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let floats = |t: Tensor<D>| t.into_data().iter::<f64>().collect::<Vec<_>>();
    let (found, expected) = (floats(found), floats(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(f, e)| f - e));
    let scale = norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE);
    assert!(
        error <= tolerance * scale,
        "{what}: off by {}",
        error / scale
    );
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Configurations with every option in it, each with each shape somewhere.
fn configurations() -> impl Iterator<Item = BitLinearConfig> {
    let shapes = [
        (1, 1),
        (15, 3),
        (16, 17),
        (17, 2),
        (64, 7),
        (70, 33),
        (129, 16),
    ];
    let granularities = [
        Granularity::Tensor,
        Granularity::Row,
        Granularity::Group(32),
    ];
    let quantizers = [WeightQuantizer::AbsMean, WeightQuantizer::Sign];
    let activations = [
        ActivationQuantizer::Int8,
        ActivationQuantizer::Int4,
        ActivationQuantizer::None,
    ];
    (0..shapes.len() * 18).map(move |i| {
        let (d_in, d_out) = shapes[i % shapes.len()];
        BitLinearConfig::new(d_in, d_out)
            .with_granularity(granularities[i % 3])
            .with_weight_quantizer(quantizers[i / 3 % 2])
            .with_activations(activations[i / 6 % 3])
            .with_bias(i % 2 == 0)
            .with_norm(i % 5 < 2)
    })
}

// --- Reference vectors -------------------------------------------------------------------------------------------

/// One case of `quant/linear.safetensors`, on a device.
struct Case<'a> {
    tensors: &'a safetensors::SafeTensors<'a>,
    name: String,
    device: Device,
}

impl Case<'_> {
    /// Runs `test` for each case on each device.
    fn each(test: impl Fn(&Case<'_>)) {
        // Without another set of fixtures, those of bitnet-kernels.
        let kernels = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../bitnet-kernels/tests/fixtures/"
        );
        let root = match std::env::var_os("BITNET_FIXTURES") {
            Some(_) => "",
            None => kernels, // absolute, so it replaces the root of this crate
        };
        let bytes = fixtures::fixture(&format!("{root}quant/linear.safetensors"));
        let tensors = fixtures::tensors(&bytes);
        let names = fixtures::cases(&tensors, ".acc_int32");
        assert!(!names.is_empty());
        for name in names {
            for (device_name, device) in devices() {
                eprintln!("{name} on {device_name}");
                test(&Case {
                    tensors: &tensors,
                    name: name.clone(),
                    device,
                });
            }
        }
    }

    fn name(&self, tensor: &str) -> String {
        format!("{}.{tensor}", self.name)
    }

    fn matrix(&self, tensor: &str) -> Tensor<2> {
        let name = self.name(tensor);
        let shape = fixtures::matrix_shape(self.tensors, &name);
        let data = TensorData::new(fixtures::f32s(self.tensors, &name), shape);
        Tensor::from_data(data, &self.device)
    }

    fn packed(&self, scale: f32, bias: Option<Tensor<1>>) -> BitLinear {
        let name = self.name("ternary");
        let [d_out, d_in] = fixtures::matrix_shape(self.tensors, &name);
        let trits = fixtures::i8s(self.tensors, &name);
        let packed = PackedTernary::from_trits(&trits, Scale::Tensor(scale), d_out, d_in)
            .expect("a valid fixture");
        BitLinear::from_packed(TernaryTensor::from_packed(packed, &self.device), bias)
    }

    /// Stored as bf16.
    fn weight_scale(&self) -> f32 {
        let name = self.name("weight_scale");
        let tensor = self.tensors.tensor(&name).expect("a scale");
        assert_eq!(tensor.dtype(), safetensors::Dtype::BF16);
        let bits = u16::from_le_bytes([tensor.data()[0], tensor.data()[1]]);
        f32::from_bits(u32::from(bits) << 16)
    }
}

#[test]
fn integer_sums_of_the_fixture_are_exact() {
    Case::each(|case| {
        let q: Vec<f32> = fixtures::i8s(case.tensors, &case.name("act_int8"))
            .into_iter()
            .map(f32::from)
            .collect();
        let shape = fixtures::matrix_shape(case.tensors, &case.name("act_int8"));
        let q = Tensor::<2>::from_data(TensorData::new(q, shape), &case.device);
        // Rows of int8 values reach 127, so they are quantized to themselves with a scale of one.
        let sums = values(case.packed(1.0, None).forward(q));
        let expected = fixtures::i32s(case.tensors, &case.name("acc_int32"));
        let expected: Vec<f32> = expected.into_iter().map(|sum| sum as f32).collect();
        assert_eq!(sums, expected);
    });
}

#[test]
fn a_scale_multiplies_and_its_inverse_divides_as_in_the_fixture() {
    Case::each(|case| {
        let scale = case.weight_scale();
        let bias = fixtures::f32s(case.tensors, &case.name("bias"));
        let bias = Tensor::<1>::from_floats(&bias[..], &case.device);
        let check = |layer: BitLinear, expected: &str| {
            let y = layer.forward(case.matrix("x"));
            assert_close(y, case.matrix(expected), REFERENCE, expected);
        };
        check(case.packed(scale, None), "y_scale_multiplies");
        check(case.packed(1.0 / scale, None), "y_scale_divides");
        check(case.packed(1.0 / scale, Some(bias)), "y_scale_divides_bias");
    });
}

#[test]
fn a_latent_layer_has_output_and_gradients_of_the_fixture() {
    Case::each(|case| {
        let autodiff = case.device.clone().autodiff();
        let on = |name: &str| Tensor::from_data(case.matrix(name).into_data(), &autodiff);
        let layer = BitLinear::from_linear(Linear {
            weight: Param::from_tensor(on("master_w").transpose().detach()),
            bias: None,
        });
        let x: Tensor<2> = on("x").require_grad();
        let y = layer.forward(x.clone());
        let gradients = (y.clone() * on("online_grad_out")).sum().backward();

        assert_close(y.inner(), case.matrix("online_y"), REFERENCE, "y");
        let dx = x.grad(&gradients).expect("x is tracked");
        assert_close(dx, case.matrix("online_grad_x"), REFERENCE, "dx");
        let latent = layer.latent().expect("a latent layer");
        let dw = latent
            .grad(&gradients)
            .expect("the latent weight is tracked");
        assert_close(dw, case.matrix("online_grad_w"), REFERENCE, "dW");
    });
}

// --- Latent, packed, dense ---------------------------------------------------------------------------------------

#[test]
fn packing_changes_no_bit_of_any_output() {
    for (name, device) in devices() {
        device.seed(1);
        for config in configurations() {
            let layer = config.init(&device);
            let packed = layer.clone().pack();
            assert!(packed.is_packed() && !layer.is_packed());
            let what = format!("{config} on {name}");
            for rows in [1, 2, 9] {
                let x = random([rows, config.d_in], &device);
                let (latent, packed) = (layer.forward(x.clone()), packed.forward(x));
                assert_eq!(
                    latent.into_data(),
                    packed.into_data(),
                    "{what}, {rows} rows"
                );
            }
            let x = random([config.d_in], &device);
            let flat = packed.forward(x.clone());
            let deep = packed.forward(x.clone().reshape([1, 1, 1, -1]));
            assert_eq!(flat.dims(), [config.d_out], "{what}");
            assert_eq!(deep.dims(), [1, 1, 1, config.d_out], "{what}");
            assert_eq!(values(flat.clone()), values(deep), "{what}");
            let again = packed.clone().pack().forward(x);
            assert_eq!(values(flat), values(again), "packing twice, {what}");
        }
    }
}

/// `(norm(x) → x̃) · W̃ᵀ + b` of dense operations; with λ below 1 each quantizer goes only that far.
fn dense(layer: &BitLinear, x: Tensor<2>, lambda: f64) -> Tensor<2> {
    let ste = |v: Tensor<2>, q: Tensor<2>| v.clone() + (q - v).detach() * lambda;
    let x = match &layer.norm {
        Some(norm) => rms_norm(norm, x),
        None => x,
    };
    let x = ste(x.clone(), fake_quantize(x, layer.activations));
    let latent = layer.latent().expect("a latent layer").val();
    let weight = ste(latent, layer.weight().dequantize());
    let y = x.matmul(weight.transpose());
    match &layer.bias {
        Some(bias) => y + bias.val().unsqueeze(),
        None => y,
    }
}

/// Compares output and all gradients of two forms of one layer.
fn assert_same_gradients(
    layer: &BitLinear,
    x: &Tensor<2>,
    forms: [&dyn Fn(Tensor<2>) -> Tensor<2>; 2],
    what: &str,
) {
    let dy = random(forms[0](x.clone()).dims(), &x.device());
    let [found, expected] = forms.map(|form| {
        let x = x.clone().detach().require_grad();
        let y = form(x.clone());
        let gradients = (y.clone() * dy.clone()).sum().backward();
        let dx = x.grad(&gradients).expect("x is tracked");
        (y.inner(), dx, gradients)
    });
    assert_close(found.0, expected.0, FLOAT, &format!("y, {what}"));
    assert_close(found.1, expected.1, FLOAT, &format!("dx, {what}"));
    let [found, expected] = [found.2, expected.2];
    if let Some(latent) = layer.latent() {
        let [found, expected] = [&found, &expected].map(|g| latent.grad(g).expect("tracked"));
        assert_close(found, expected, FLOAT, &format!("dW, {what}"));
    }
    let vectors = layer
        .bias
        .iter()
        .chain(layer.norm.iter().map(|norm| &norm.gamma));
    for vector in vectors {
        let [found, expected] = [&found, &expected].map(|g| vector.grad(g).expect("tracked"));
        assert_close(found, expected, FLOAT, &format!("db or dγ, {what}"));
    }
}

#[test]
fn every_option_agrees_with_a_dense_composition_and_its_gradients() {
    for (name, device) in devices() {
        device.seed(2);
        let device = device.autodiff();
        for config in configurations() {
            let layer = config.init(&device);
            let what = format!("{config} on {name}");
            let x = random([5, config.d_in], &device);
            let forward = |x| layer.forward(x);
            let expected = |x| dense(&layer, x, 1.0);
            assert_same_gradients(&layer, &x, [&forward, &expected], &what);
        }
    }
}

#[test]
fn a_packed_layer_passes_the_gradient_to_its_input_norm_and_bias() {
    for (name, device) in devices() {
        device.seed(3);
        let device = device.autodiff();
        for config in configurations() {
            let latent = config.init(&device);
            let packed = latent.clone().pack();
            let what = format!("{config} on {name}");
            let x = random([5, config.d_in], &device);
            let forward = |x| packed.forward(x);
            let expected = |x| dense(&latent, x, 1.0);
            assert_same_gradients(&packed, &x, [&forward, &expected], &what);
        }
    }
}

#[test]
fn the_blend_leads_from_the_float_layer_to_the_ternary_one() {
    for (name, device) in devices() {
        device.seed(4);
        let device = device.autodiff();
        for config in configurations() {
            let mut layer = config.init(&device);
            let x = random([5, config.d_in], &device);
            for lambda in [0.0, 0.3, 1.0] {
                layer.set_blend(lambda);
                let forward = |x| layer.forward(x);
                let expected = |x| dense(&layer, x, lambda);
                let what = format!("λ = {lambda}, {config} on {name}");
                assert_same_gradients(&layer, &x, [&forward, &expected], &what);
            }
        }
    }
}

#[test]
fn a_linear_layer_is_taken_over_with_its_weights_and_bias() {
    let device = cpu();
    let linear = LinearConfig::new(40, 24).init(&device);
    let x = random([3, 40], &device);
    let mut layer = BitLinear::from_linear(linear.clone());
    layer.set_blend(0.0);
    assert_close(
        layer.forward(x.clone()),
        linear.forward(x.clone()),
        FLOAT,
        "as a float layer",
    );

    let config = BitLinearConfig::new(40, 24).with_granularity(Granularity::Row);
    let layer = config.init_from(linear.clone());
    assert_eq!(values(layer.weight().into_parts().1).len(), 24);
    let latent = layer.latent().unwrap().val();
    assert_eq!(values(latent.transpose()), values(linear.weight.val()));
    assert_eq!(
        values(layer.bias.unwrap().val()),
        values(linear.bias.unwrap().val())
    );
}

#[test]
#[should_panic(expected = "differs from the configured [d_in, d_out]")]
fn a_linear_layer_of_other_dimensions_is_refused() {
    let linear = LinearConfig::new(8, 4).init(&cpu());
    BitLinearConfig::new(4, 8).init_from(linear);
}

#[test]
fn non_finite_values_reach_the_output_and_damaged_weights_are_reported() {
    let device = cpu();
    let layer = BitLinearConfig::new(16, 4).init(&device);
    let x = Tensor::<2>::full([1, 16], f32::NAN, &device);
    assert!(values(layer.forward(x)).iter().all(|y| y.is_nan()));

    let broken = BitLinear::from_linear(Linear {
        weight: Param::from_tensor(Tensor::full([16, 4], f32::INFINITY, &device)),
        bias: None,
    });
    let broken = broken.pack();
    let y = values(broken.forward(random([1, 16], &device)));
    assert!(y.iter().all(|y| !y.is_finite()));
    let error = broken.weight().to_packed().unwrap_err().to_string();
    assert!(error.contains("a scale must be finite"), "{error}");
}

// --- Half precision ----------------------------------------------------------------------------------------------

/// The half-precision dtypes that a device has; NdArray has none.
fn halves(device: &Device) -> impl Iterator<Item = DType> {
    let halves = [DType::BF16, DType::F16].into_iter();
    halves.filter(|&dtype| device.supports_dtype(dtype))
}

/// The layer with all float parameters in another dtype.
fn cast(layer: BitLinear, dtype: DType) -> BitLinear {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.detach().cast(self.0))
        }
    }
    layer.map(&mut Cast(dtype))
}

#[test]
fn half_precision_masters_compute_as_their_widened_values_and_get_gradients_of_their_dtype() {
    let plain = cpu();
    let device = plain.clone().autodiff();
    for half in halves(&plain) {
        plain.seed(5);
        let weight = LinearConfig::new(48, 16).init(&plain).weight.val();
        let layer = |weight: Tensor<2>| {
            BitLinear::from_linear(Linear {
                weight: Param::from_tensor(Tensor::from_inner(weight)),
                bias: None,
            })
        };
        let halved = layer(weight.clone().cast(half));
        let widened = layer(weight.cast(half).cast(DType::F32));
        for dtype in [DType::F32, half] {
            let x = random([7, 48], &device).cast(dtype);
            let dy = random([7, 16], &device).cast(dtype);
            let [found, expected] = [&halved, &widened].map(|layer| {
                let y = layer.forward(x.clone());
                assert_eq!(y.dtype(), dtype);
                let gradients = (y.clone() * dy.clone()).sum().backward();
                let latent = layer.latent().unwrap();
                let dw = latent.grad(&gradients).unwrap();
                assert_eq!(dw.dtype(), latent.dtype(), "input in {dtype:?}");
                (y.into_data(), dw)
            });
            assert_eq!(found.0, expected.0);
            assert_close(found.1, expected.1.cast(half), 1e-2, "dW"); // half precision sums
        }
        // A step of an optimizer leaves the dtype alone, and so does packing a half-precision layer.
        let x = random([7, 48], &device);
        let gradients = halved.forward(x).sum().backward();
        let gradients = GradientsParams::from_grads(gradients, &halved);
        let stepped = AdamWConfig::new().init().step(1e-2, halved, gradients);
        assert_eq!(stepped.latent().unwrap().dtype(), half);
        assert_eq!(stepped.pack().weight().into_parts().1.dtype(), DType::F32);
    }
}

#[test]
fn parameters_and_input_may_have_different_dtypes() {
    let device = cpu();
    let config = BitLinearConfig::new(48, 16).with_bias(true).with_norm(true);
    let states = [config.init(&device), config.init(&device).pack()];
    for (layer, half) in states
        .iter()
        .flat_map(|l| halves(&device).map(move |h| (l, h)))
    {
        let x = random([2, 48], &device).cast(half);
        let wide = layer.forward(x.clone().cast(DType::F32));
        let narrow = layer.forward(x.clone());
        assert_eq!(narrow.dtype(), half);
        assert_close(narrow.cast(DType::F32), wide.clone(), 1e-2, "half input");

        let halved = cast(layer.clone(), half);
        let wide = cast(halved.clone(), DType::F32).forward(x.clone().cast(DType::F32));
        let narrow = halved.forward(x);
        assert_close(narrow.cast(DType::F32), wide, 2e-2, "half parameters");
    }
}

// --- A module of Burn --------------------------------------------------------------------------------------------

#[test]
fn an_optimizer_changes_latent_weights_and_never_packed_ones() {
    let device = cpu().autodiff();
    let config = BitLinearConfig::new(32, 8).with_bias(true).with_norm(true);
    let latent = config.init(&device);
    // Unfreezing everything is what a careless user does to a packed model.
    let layers = [
        latent.clone(),
        latent.clone().pack(),
        latent.pack().unfreeze(),
    ];
    for layer in layers {
        let mut optimizer = AdamWConfig::new().with_weight_decay(0.1).init();
        let gradients = layer
            .forward(random([4, 32], &device))
            .square()
            .sum()
            .backward();
        let gradients = GradientsParams::from_grads(gradients, &layer);
        assert_eq!(gradients.len(), if layer.is_packed() { 2 } else { 3 });
        let stepped = optimizer.step(0.1, layer.clone(), gradients);

        let bias = |layer: &BitLinear| values(layer.bias.as_ref().unwrap().val());
        assert_ne!(bias(&stepped), bias(&layer));
        let [before, after] = [&layer, &stepped].map(|layer| layer.weight().to_packed().unwrap());
        assert_eq!(before == after, layer.is_packed());
        assert_eq!(stepped.is_packed(), layer.is_packed());
    }
}

#[test]
fn no_grad_valid_and_train_work_in_both_states() {
    let plain = cpu();
    let config = BitLinearConfig::new(32, 8).with_bias(true);
    let latent = config.init(&plain);
    for layer in [latent.clone(), latent.pack()] {
        let x = random([4, 32], &plain);
        let expected = values(layer.forward(x.clone()));
        assert_eq!(Module::num_params(&layer), 32 * 8 + 8);

        let trained = layer.clone().train();
        let tracked = Tensor::from_inner(x.clone()).require_grad();
        let y = trained.forward(tracked.clone());
        assert_eq!(values(y.clone().inner()), expected);
        let gradients = y.sum().backward();
        assert!(tracked.grad(&gradients).is_some());
        assert_eq!(
            trained.latent().is_some_and(|w| w.is_require_grad()),
            !layer.is_packed()
        );

        let frozen = trained.clone().no_grad();
        let gradients = frozen.forward(tracked).sum().backward();
        assert_eq!(GradientsParams::from_grads(gradients, &frozen).len(), 0);

        assert_eq!(values(trained.valid().forward(x.clone())), expected);
        let forked = layer.fork(&plain);
        assert!(forked.devices().iter().eq([&plain]));
        assert_eq!(values(forked.forward(x)), expected);
    }
}

#[test]
fn a_layer_moves_between_devices() {
    let cpu = cpu();
    let layer = BitLinearConfig::new(70, 9).with_bias(true).init(&cpu);
    let x = random([3, 70], &cpu);
    let expected = layer.forward(x.clone());
    for (name, device) in devices() {
        for layer in [layer.clone(), layer.clone().pack()] {
            let moved = layer.to_device(&device);
            assert!(moved.devices().iter().eq([&device]), "{name}");
            let y = moved.forward(x.clone().to_device(&device)).to_device(&cpu);
            assert_close(y, expected.clone(), FLOAT, name);
            assert_close(
                moved.to_device(&cpu).forward(x.clone()),
                expected.clone(),
                FLOAT,
                name,
            );
        }
    }
}

#[test]
fn a_packed_layer_of_a_plain_device_passes_gradients_of_a_tracked_input() {
    let device = cpu();
    let layer = BitLinearConfig::new(32, 8).init(&device).pack();
    let x = random([4, 32], &device.clone().autodiff()).require_grad();
    let gradients = layer.forward(x.clone()).sum().backward();
    let expected = layer.weight().dequantize().sum_dim(0).repeat_dim(0, 4);
    assert_close(x.grad(&gradients).unwrap(), expected, FLOAT, "dx");
}

#[test]
fn memory_is_two_bits_per_packed_weight() {
    let device = cpu();
    let layer = BitLinearConfig::new(1024, 64).with_bias(true).init(&device);
    assert_eq!(layer.bytes(), 4 * (1024 * 64 + 64));
    assert_eq!(layer.bits_per_weight(), 32.0);
    let packed = layer.pack();
    assert_eq!(packed.bytes(), 1024 * 64 / 4 + 4 + 4 * 64);
    assert_eq!(packed.bits_per_weight(), 2.0 + 32.0 / (1024.0 * 64.0));
}

// --- Records -----------------------------------------------------------------------------------------------------

/// Where a module goes and comes back from.
#[derive(Debug, Clone, Copy)]
enum Store {
    Record,
    Burnpack,
    Safetensors,
}

impl Store {
    const ALL: [Self; 3] = [Self::Record, Self::Burnpack, Self::Safetensors];

    fn save(self, layer: &BitLinear) -> Vec<u8> {
        let saved = "a module can be saved";
        match self {
            Self::Record => layer
                .clone()
                .into_record()
                .into_bytes()
                .expect(saved)
                .to_vec(),
            Self::Burnpack => {
                let mut store = BurnpackStore::from_bytes(None);
                layer.save_into(&mut store).expect(saved);
                store.get_bytes().expect(saved).to_vec()
            }
            Self::Safetensors => {
                let mut store = SafetensorsStore::from_bytes(None);
                layer.save_into(&mut store).expect(saved);
                store.get_bytes().expect(saved)
            }
        }
    }

    fn load(self, bytes: Vec<u8>, mut layer: BitLinear) -> Result<BitLinear, String> {
        let burnpack = |bytes| Bytes::from_bytes_vec(bytes);
        match self {
            Self::Record => {
                let record = ModuleRecord::from_bytes(burnpack(bytes)).expect("a record");
                layer
                    .try_load_record(record)
                    .map_err(|error| error.to_string())
            }
            Self::Burnpack => {
                let mut store = BurnpackStore::from_bytes(Some(burnpack(bytes)));
                let result = layer.load_from(&mut store);
                result.map(|_| layer).map_err(|error| error.to_string())
            }
            Self::Safetensors => {
                let mut store = SafetensorsStore::from_bytes(Some(bytes));
                let result = layer.load_from(&mut store);
                result.map(|_| layer).map_err(|error| error.to_string())
            }
        }
    }
}

#[test]
fn records_return_every_layer_in_both_states() {
    for (name, device) in devices() {
        device.seed(6);
        for config in configurations() {
            let layer = config.init(&device);
            let x = random([3, config.d_in], &device);
            let expected = layer.forward(x.clone()).into_data();
            let states = [
                (layer.clone(), config.init(&device)),
                (layer.pack(), config.init_packed(&device)),
            ];
            for (layer, empty) in states {
                for store in Store::ALL {
                    let what = format!("{store:?}, {config} on {name}");
                    let loaded = store.load(store.save(&layer), empty.clone()).expect(&what);
                    assert_eq!(loaded.forward(x.clone()).into_data(), expected, "{what}");
                    assert_eq!(loaded.is_packed(), layer.is_packed(), "{what}");
                }
            }
        }
    }
}

#[test]
fn record_paths_are_those_of_the_checkpoints() {
    let device = cpu();
    let config = BitLinearConfig::new(8, 4).with_bias(true).with_norm(true);
    let paths = |layer: BitLinear| {
        let bytes = Store::Safetensors.save(&layer);
        let tensors = fixtures::tensors(&bytes);
        let mut names: Vec<_> = tensors.names().iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(
        paths(config.init(&device)),
        ["bias", "norm.gamma", "weight"]
    );
    let packed = ["bias", "norm.gamma", "weight.codes", "weight.scale"];
    assert_eq!(paths(config.init(&device).pack()), packed);
}

#[test]
fn half_precision_masters_stay_half_precision_on_disk() {
    let device = cpu();
    let config = BitLinearConfig::new(256, 64);
    for dtype in halves(&device) {
        let layer = cast(config.init(&device), dtype);
        let latent = |layer: &BitLinear| layer.latent().unwrap().val().into_data();
        for store in Store::ALL {
            let bytes = store.save(&layer);
            assert!(
                bytes.len() < 2 * 256 * 64 + 2048,
                "{store:?}: {} bytes",
                bytes.len()
            );
            let loaded = store.load(bytes, config.init(&device)).unwrap();
            assert_eq!(latent(&loaded), latent(&layer), "{store:?}");
            assert_eq!(loaded.latent().unwrap().dtype(), dtype, "{store:?}");
        }
    }
}

#[test]
fn packed_files_have_two_bits_per_weight() {
    let device = cpu();
    let layer = BitLinearConfig::new(1024, 256).init(&device).pack();
    let path = |name| std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (burnpack, safetensors) = (path("packed.bpk"), path("packed.safetensors"));
    let mut store = BurnpackStore::from_file(&burnpack).overwrite(true);
    layer.save_into(&mut store).unwrap();
    let mut store = SafetensorsStore::from_file(&safetensors).overwrite(true);
    layer.save_into(&mut store).unwrap();
    for file in [&burnpack, &safetensors] {
        let size = std::fs::metadata(file).unwrap().len();
        let weights = 1024 * 256 / 4;
        // The rest is the scale, names and alignment.
        assert!(
            (weights..weights + 2048).contains(&size),
            "{}: {size}",
            file.display()
        );
    }
    let mut loaded = BitLinearConfig::new(1024, 256).init_packed(&device);
    loaded
        .load_from(&mut BurnpackStore::from_file(&burnpack))
        .unwrap();
    assert_eq!(loaded.weight().to_packed(), layer.weight().to_packed());
}

#[test]
fn a_record_of_the_other_state_is_refused_by_name() {
    let device = cpu();
    let config = BitLinearConfig::new(32, 8);
    let latent = config.init(&device);
    for store in Store::ALL {
        let packed = store.save(&latent.clone().pack());
        let error = store.load(packed, config.init(&device)).unwrap_err();
        assert!(
            error.contains("Missing") && error.contains("weight"),
            "{store:?}: {error}"
        );

        let bytes = store.save(&latent);
        let error = store.load(bytes, config.init_packed(&device)).unwrap_err();
        assert!(
            error.contains("Missing") && error.contains("weight.codes"),
            "{store:?}: {error}"
        );
    }
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
#[test]
fn a_layer_of_base_3_gives_the_same_outputs_wherever_it_goes_and_its_record_is_told_apart() {
    let device = cpu();
    let config = BitLinearConfig::new(2560, 24);
    let words = config.init(&device).pack();
    let packed = words.weight().to_packed().unwrap();
    let bytes = base3::pack(packed.words(), 24, 2560);
    let bytes = TensorData::new(bytes, [24, base3::bytes_per_row(2560)]);
    let codes = Tensor::from_data(bytes, (&device, DType::U8));
    let (_, scale) = words.weight().into_parts();
    let weight = TernaryTensor::from_parts(codes, scale, 2560, Granularity::Tensor).unwrap();
    let layer = BitLinear::from_packed(weight, None);
    assert!(
        layer.bits_per_weight() < 1.601,
        "{}",
        layer.bits_per_weight()
    );

    let x = Tensor::<2>::random([3, 2560], Distribution::Default, &device);
    let expected = words.forward(x.clone()).into_data();
    assert_eq!(layer.forward(x.clone()).into_data(), expected);
    for store in Store::ALL {
        let record = store.save(&layer);
        let error = store.load(record, config.init_packed(&device)).unwrap_err();
        assert!(error.contains("weight.codes"), "{store:?}: {error}");
    }
    for (name, other) in devices() {
        let moved = layer.clone().to_device(&other);
        assert_eq!(moved.weight().to_packed().as_ref(), Ok(&packed), "{name}");
    }
    let moved = layer.fork(&device);
    assert_eq!(moved.forward(x).into_data(), expected);
}

#[test]
fn a_record_of_another_shape_or_granularity_is_refused() {
    let device = cpu();
    let config = BitLinearConfig::new(32, 8);
    let others = [
        BitLinearConfig::new(32, 9),
        BitLinearConfig::new(65, 8), // 32 and 64 columns take the same words
        BitLinearConfig::new(32, 8).with_granularity(Granularity::Row),
    ];
    for store in Store::ALL {
        for other in &others {
            let bytes = store.save(&config.init(&device).pack());
            let error = store.load(bytes, other.init_packed(&device)).unwrap_err();
            assert!(error.to_lowercase().contains("shape"), "{store:?}: {error}");
        }
    }
}

#[test]
fn a_packed_layer_that_was_never_loaded_yields_nan_and_says_so() {
    let device = cpu();
    let config = BitLinearConfig::new(32, 8).with_bias(true);
    let mut layer = config.init_packed(&device);
    assert_eq!(layer.bytes(), 4 * (8 * 4 + 1 + 8));
    // Burn's partial loading accepts a record of the wrong state, which then fills the bias alone.
    let bytes = Store::Safetensors.save(&config.init(&device));
    let mut store = SafetensorsStore::from_bytes(Some(bytes)).allow_partial(true);
    let result = layer.load_from(&mut store).unwrap();
    assert_eq!(
        (&result.applied[..], &result.unused[..]),
        (&["bias".into()][..], &["weight".into()][..])
    );
    assert_eq!(result.missing.len(), 2);
    let y = values(layer.forward(random([2, 32], &device)));
    assert!(y.iter().all(|y| y.is_nan()));
    assert!(layer.weight().to_packed().is_err());
}

#[test]
fn a_damaged_record_is_reported_by_the_weight() {
    let device = cpu();
    let config = BitLinearConfig::new(16, 2);
    let layer = config.init(&device).pack();
    let mut bytes = Store::Safetensors.save(&layer);
    let words: Vec<u8> = {
        let tensors = fixtures::tensors(&bytes);
        tensors.tensor("weight.codes").unwrap().data().to_vec()
    };
    let at = bytes
        .windows(words.len())
        .position(|window| window == words)
        .unwrap();
    bytes[at] = 0xff;
    let loaded = Store::Safetensors
        .load(bytes, config.init_packed(&device))
        .unwrap();
    let error = loaded.weight().to_packed().unwrap_err().to_string();
    assert!(error.contains("code 3 at row 0, column 0"), "{error}");
}

#[test]
fn a_record_cast_on_the_way_loads_into_a_packed_layer() {
    let device = cpu();
    let config = BitLinearConfig::new(64, 8);
    let layer = config.init(&device).pack();
    let x = random([2, 64], &device);
    let expected = layer.forward(x.clone());
    for half in halves(&device) {
        // A narrow scale, and the codes untouched.
        let adapter = FloatCastAdapter::to(half);
        let mut store = SafetensorsStore::from_bytes(None).with_to_adapter(adapter);
        layer.save_into(&mut store).unwrap();
        let bytes = store.get_bytes().unwrap();
        let loaded = Store::Safetensors.load(bytes, config.init_packed(&device));
        let y = loaded.unwrap().forward(x.clone());
        assert_close(y, expected.clone(), 1e-2, "half scale");
    }

    let bytes = Bytes::from_bytes_vec(Store::Record.save(&layer));
    let record = ModuleRecord::from_bytes(bytes).unwrap();
    let loaded = config
        .init_packed(&device)
        .load_record(record.cast_to_module_dtype());
    assert_eq!(loaded.forward(x).into_data(), expected.into_data());
}
