//! `BitLinear`: a linear layer with ternary weights and activations of 8 or 4 bits.
//!
//! One type in two states. Latent: float masters that each forward pass quantizes, trained by the straight-through
//! estimator. Packed: the quantized weight alone, 2 bits each, frozen. [`BitLinear::pack`] leads from the first to the
//! second and changes no output bit, because both states run the same kernel on the same words.
//!
//! Source: arXiv 2402.17764 (b1.58), arXiv 2310.11453 (1 bit); the exact order of operations is `bitnet_kernels`'.

use bitnet_kernels::packing::words::{ZERO_WORD, words_per_row};
use bitnet_kernels::packing::{MAX_D_IN, Packing};
use bitnet_kernels::quantize::fake_quantize;
use bitnet_kernels::{
    ActivationQuantizer, Granularity, TernaryTensor, WeightQuantizer, linear, ternarize,
    ternary_linear, ternary_linear_latent, ternary_linear_pair, ternary_linear_triple,
};
use burn::config::Config;
use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamId,
};
use burn::nn::{Initializer, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{DType, Device, Int, Tensor, assert_shape};

use super::precision::narrowed;
use super::rms_norm;

/// Configuration to create a [`BitLinear`] layer using the [init function](BitLinearConfig::init).
#[derive(Config, Debug)]
pub struct BitLinearConfig {
    /// The size of the input features.
    pub d_in: usize,
    /// The size of the output features.
    pub d_out: usize,
    /// If a bias should be added, last and unquantized. Default: `false`, unlike Burn's `Linear`: no published BitNet
    /// model has one.
    #[config(default = false)]
    pub bias: bool,
    /// How a latent weight becomes ternary.
    #[config(default = "WeightQuantizer::AbsMean")]
    pub weight_quantizer: WeightQuantizer,
    /// How many scales the weight has.
    #[config(default = "Granularity::Tensor")]
    pub granularity: Granularity,
    /// What happens to the input before the product: 8 or 4 bits per value, or nothing.
    #[config(default = "ActivationQuantizer::Int8")]
    pub activations: ActivationQuantizer,
    /// If an RMSNorm should be applied to the input before it is quantized.
    #[config(default = false)]
    pub norm: bool,
    /// The epsilon of that norm. Default: 1e-6, as in the published configurations.
    #[config(default = 1e-6)]
    pub norm_epsilon: f64,
    /// The type of function used to initialize the latent weight and the bias. Default: that of Burn's `Linear`.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3.0f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl BitLinearConfig {
    /// Initialize a new [`BitLinear`] module with a latent weight, ready for training.
    ///
    /// # Panics
    ///
    /// Panics if a dimension is zero, if `d_in` is 2^23 or more, or if a group size is not a multiple of 32 from 32 to
    /// 256.
    pub fn init(&self, device: &Device) -> BitLinear {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let latent = self
            .initializer
            .init_with([d_out, d_in], Some(d_in), Some(d_out), device);
        self.module(Weight::Latent(latent), self.init_bias(device), device)
    }

    /// Initialize an empty packed [`BitLinear`] module, to load the record of a packed one into.
    ///
    /// Nothing is allocated before a record is loaded. Until then every output is NaN, so a layer that a partial load
    /// has missed cannot go unnoticed. A record from an untrusted file is proven by
    /// `layer.weight().to_packed()`, which names a damaged code or scale.
    ///
    /// # Panics
    ///
    /// As [`init`](Self::init).
    pub fn init_packed(&self, device: &Device) -> BitLinear {
        let shape = [self.d_out, words_per_row(self.d_in)];
        let codes = Param::uninitialized(
            ParamId::new(),
            move |device, _| Tensor::full(shape, ZERO_WORD, (device, DType::U32)),
            device.clone(),
            false,
            shape.into(),
        );
        let count = self.granularity.count(self.d_out, self.d_in);
        let scale = Param::uninitialized(
            ParamId::new(),
            move |device, _| Tensor::full([count], f32::NAN, (device, DType::F32)),
            device.clone(),
            false,
            [count].into(),
        );
        let weight = Weight::Packed(PackedWeight {
            codes,
            scale,
            d_in: self.d_in,
            granularity: self.granularity,
        });
        self.module(weight, self.init_bias(device), device)
    }

    /// Initialize a [`BitLinear`] module from Burn's `Linear`: its weight becomes the latent weight.
    ///
    /// Weight and bias keep their values, dtype and device; the weight is trainable afterwards. The `bias` and
    /// `initializer` of this configuration are not consulted.
    ///
    /// # Panics
    ///
    /// Panics if the layer has other dimensions than this configuration, and as [`init`](Self::init).
    pub fn init_from(&self, linear: Linear) -> BitLinear {
        let weight = linear.weight.val().detach();
        assert_eq!(
            weight.dims(),
            [self.d_in, self.d_out],
            "BitLinear: the linear layer's [d_input, d_output] differs from the configured [d_in, d_out]"
        );
        let (device, dtype) = (weight.device(), weight.dtype());
        // Through the host, so that the transposed weight lies row by row and no forward pass has to copy it.
        let latent = Tensor::from_data(weight.transpose().into_data(), (&device, dtype));
        let latent = Weight::Latent(Param::from_tensor(latent));
        self.module(latent, linear.bias, &device)
    }

    /// Initialize a [`BitLinear`] module with this latent weight `[d_out, d_in]`, which is trainable afterwards.
    ///
    /// Weight and bias keep their values, dtype and device. The `bias` and `initializer` of this configuration are not
    /// consulted.
    ///
    /// # Panics
    ///
    /// Panics if the weight has other dimensions than this configuration, and as [`init`](Self::init).
    pub fn init_with(&self, latent: Tensor<2>, bias: Option<Tensor<1>>) -> BitLinear {
        assert_shape!(latent, [self.d_out, self.d_in]);
        if let Some(bias) = &bias {
            assert_shape!(bias, [self.d_out]);
        }
        let device = latent.device();
        let latent = Weight::Latent(Param::from_tensor(latent));
        self.module(latent, bias.map(Param::from_tensor), &device)
    }

    fn init_bias(&self, device: &Device) -> Option<Param<Tensor<1>>> {
        self.bias.then(|| {
            self.initializer
                .init_with([self.d_out], Some(self.d_in), Some(self.d_out), device)
        })
    }

    fn module(&self, weight: Weight, bias: Option<Param<Tensor<1>>>, device: &Device) -> BitLinear {
        let Self { d_in, d_out, .. } = *self;
        assert!(
            d_in > 0 && d_out > 0 && d_in < MAX_D_IN,
            "BitLinear: d_in = {d_in} and d_out = {d_out} must be at least 1, and d_in below {MAX_D_IN}, \
             so that 32-bit sums are exact"
        );
        let granularity = self
            .granularity
            .checked()
            .unwrap_or_else(|error| panic!("BitLinear: {error}"));
        let norm = self.norm.then(|| {
            RmsNormConfig::new(d_in)
                .with_epsilon(self.norm_epsilon)
                .init(device)
        });
        BitLinear {
            weight,
            bias,
            norm,
            activations: self.activations,
            weight_quantizer: self.weight_quantizer,
            granularity,
            blend: 1.0,
            products: None,
        }
    }
}

/// Applies a linear transformation with ternary weights to the input tensor.
///
/// Should be created with [`BitLinearConfig`]
///
/// `O = q(I) · W̃ᵀ + b`, where `q` rounds each row of the input to 8 bits (or to what
/// [`activations`](BitLinearConfig::activations) says) and `W̃ = scale · T`, `T` of −1, 0, 1.
///
/// # States
///
/// A *latent* layer holds float masters `W` and quantizes them in each forward pass. Gradients pass straight through
/// both quantizers, `dL/dI = dL/dO · W̃` and `dL/dW = (dL/dO)ᵀ · q(I)`, so that any optimizer of Burn trains the
/// masters. A *packed* layer, made by [`pack`](Self::pack), holds 2 bits per weight, equal outputs, and no master: it
/// passes gradients to its input and is never changed by an optimizer.
///
/// # Records
///
/// Latent: `weight` `[d_out, d_in]`, as in PyTorch and in the published checkpoints (Burn's `Linear` has
/// `[d_input, d_output]`), in any float dtype. Packed: `weight.codes` `[d_out, words]` of `u32`, and `weight.scale`. (On a CPU a
/// layer that came from a base-3 file has `[d_out, bytes]` of `u8`, which a module of words refuses by its shape.)
/// Both: `bias`, `norm.gamma`. The states have different names on purpose: loading a record of one into a module of
/// the other is refused as a missing tensor. Create the receiving module in the state of the record, with
/// [`init`](BitLinearConfig::init) or [`init_packed`](BitLinearConfig::init_packed). Sizes and options are
/// configuration, not recorded, and neither is the [blend](Self::set_blend).
///
/// # Example
///
/// ```rust
/// use bitnet_models::BitLinearConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// let device = Device::default();
/// let layer = BitLinearConfig::new(512, 64).init(&device);
/// let x = Tensor::<3>::random([2, 7, 512], Distribution::Default, &device);
/// let y = layer.forward(x.clone()); // [2, 7, 64]
///
/// let packed = layer.pack();
/// assert_eq!(packed.forward(x).into_data(), y.into_data());
/// assert!(packed.bits_per_weight() < 2.01);
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct BitLinear {
    weight: Weight,
    /// Vector of size `d_out`, added last and unquantized.
    pub bias: Option<Param<Tensor<1>>>,
    /// Norm of the input, applied before it is quantized.
    pub norm: Option<RmsNorm>,
    /// What happens to the input before the product.
    #[module(skip)]
    pub activations: ActivationQuantizer,
    #[module(skip)]
    weight_quantizer: WeightQuantizer,
    #[module(skip)]
    granularity: Granularity,
    blend: f64,
    #[module(skip)]
    products: Option<DType>,
}

impl BitLinear {
    /// A latent layer with the weight and bias of Burn's `Linear`, and the default options.
    ///
    /// [`BitLinearConfig::init_from`] does the same with other options.
    pub fn from_linear(linear: Linear) -> Self {
        let [d_in, d_out] = linear.weight.shape().dims();
        BitLinearConfig::new(d_in, d_out).init_from(linear)
    }

    /// A packed layer with this weight, without a norm, with 8-bit [`activations`](Self::activations).
    ///
    /// # Panics
    ///
    /// Panics if the bias has not `d_out` values.
    pub fn from_packed(weight: TernaryTensor, bias: Option<Tensor<1>>) -> Self {
        let d_out = weight.d_out();
        if let Some(bias) = &bias {
            assert_shape!(bias, [d_out]);
        }
        Self {
            granularity: weight.granularity(),
            weight: Weight::Packed(PackedWeight::new(weight)),
            bias: bias.map(Param::from_tensor),
            norm: None,
            activations: ActivationQuantizer::default(),
            weight_quantizer: WeightQuantizer::default(),
            blend: 1.0,
            products: None,
        }
    }

    /// Applies the forward pass on the input tensor.
    ///
    /// # Arguments
    ///
    /// - `x` - The input tensor of shape `[..., d_in]`, in any float dtype; the parameters may have another one.
    ///
    /// # Shapes
    ///
    /// - x: `[..., d_in]`
    /// - output: `[..., d_out]`, in the dtype of `x`
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not `d_in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [_, d_in] = self.weight.dims();
        assert_shape!(x, [.., d_in]);

        let dtype = x.dtype();
        let x = match &self.norm {
            Some(norm) => rms_norm(norm, x),
            None => x,
        };
        let quantized = self.blend == 1.0 && self.activations != ActivationQuantizer::None;
        let x = match &self.weight {
            // The product is one of integers, and its gradients narrow their factors themselves.
            Weight::Latent(_) if quantized => x,
            _ => narrowed(x, self.products),
        };
        let y = match &self.weight {
            Weight::Packed(_) => ternary_linear(x, &self.weight(), self.activations),
            Weight::Latent(latent) if self.blend == 0.0 => {
                let latent = narrowed(latent.val(), self.products);
                linear(x.cast(latent.dtype()), latent)
            }
            Weight::Latent(latent) if self.blend < 1.0 => self.forward_blended(x, latent.val()),
            Weight::Latent(latent) => {
                let weight = self.weight();
                ternary_linear_latent(x, latent.val(), &weight, self.activations, self.products)
            }
        };
        let y = match &self.bias {
            Some(bias) => {
                let bias = bias.val().cast(y.dtype());
                y + bias.unsqueeze()
            }
            None => y,
        };
        y.cast(dtype)
    }

    /// Applies two layers to one input: the outputs of [`forward`](Self::forward). On a CPU, packed layers without norms of
    /// their own quantize the input once.
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not the `d_in` of both layers.
    pub fn forward_pair<const D: usize>(layers: [&Self; 2], x: Tensor<D>) -> [Tensor<D>; 2] {
        match Self::share_input(&layers) {
            true => ternary_linear_pair(x, layers.map(Self::weight), layers[0].activations),
            false => layers.map(|layer| layer.forward(x.clone())),
        }
    }

    /// [`forward_pair`](Self::forward_pair) of three layers.
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not the `d_in` of all layers.
    pub fn forward_triple<const D: usize>(layers: [&Self; 3], x: Tensor<D>) -> [Tensor<D>; 3] {
        match Self::share_input(&layers) {
            true => ternary_linear_triple(x, layers.map(Self::weight), layers[0].activations),
            false => layers.map(|layer| layer.forward(x.clone())),
        }
    }

    /// Whether nothing but packed weights differs.
    fn share_input(layers: &[&Self]) -> bool {
        layers.iter().all(|layer| {
            layer.is_packed()
                && layer.norm.is_none()
                && layer.bias.is_none()
                && layer.activations == layers[0].activations
        })
    }

    /// Sets how far a latent layer is quantized: 0 is an ordinary linear layer, at its cost, in the weight's own dtype; 1
    /// (the default) the ternary one.
    ///
    /// Between them, for a gradual start of training, both operands are `v + λ·(ṽ − v)` with the gradient of `v`, and
    /// the product is a dense one. The blend is not recorded, and a packed layer has none.
    ///
    /// # Panics
    ///
    /// Panics if `lambda` is not in 0..=1.
    pub fn set_blend(&mut self, lambda: f64) {
        assert!(
            (0.0..=1.0).contains(&lambda),
            "BitLinear: a blend of {lambda}, expected 0 (float) to 1 (ternary)"
        );
        self.blend = lambda;
    }

    /// Sets the number format of products while training: on autodiff devices, with masters and gradients as they are.
    /// `None` (the default) is that of the input.
    pub const fn set_products(&mut self, products: Option<DType>) {
        self.products = products;
    }

    /// Replaces the latent weight by its packed quantization. A packed layer is returned as it is.
    ///
    /// The outputs stay equal, bit for bit, if the [blend](Self::set_blend) is 1. Bias and norm stay trainable.
    /// Non-finite weights are not detected here, as that would wait for the device:
    /// `layer.weight().to_packed()` reports them.
    pub fn pack(mut self) -> Self {
        if let Weight::Latent(_) = self.weight {
            self.weight = Weight::Packed(PackedWeight::new(self.weight()));
            self.blend = 1.0;
        }
        self
    }

    /// Whether the layer is packed.
    pub const fn is_packed(&self) -> bool {
        matches!(self.weight, Weight::Packed(_))
    }

    /// The ternary weight `[d_out, d_in]` that the forward pass multiplies with; a latent one is quantized now.
    pub fn weight(&self) -> TernaryTensor {
        match &self.weight {
            Weight::Latent(latent) => {
                ternarize(latent.val(), self.weight_quantizer, self.granularity)
            }
            Weight::Packed(packed) => packed.tensor(),
        }
    }

    /// The master weight `[d_out, d_in]` of a latent layer.
    pub const fn latent(&self) -> Option<&Param<Tensor<2>>> {
        match &self.weight {
            Weight::Latent(latent) => Some(latent),
            Weight::Packed(_) => None,
        }
    }

    /// Bytes of all parameters, as they are in memory.
    pub fn bytes(&self) -> usize {
        let vector = |param: &Param<Tensor<1>>| bytes(param);
        self.weight.bytes()
            + self.bias.as_ref().map_or(0, vector)
            + self.norm.as_ref().map_or(0, |norm| vector(&norm.gamma))
    }

    /// Bits that the weight takes in memory, per element; of a packed one with padding and scales.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.weight.bytes() as f64 / Module::num_params(&self.weight) as f64
    }

    /// `(x + λ(x̃ − x)) · (W + λ(W̃ − W))ᵀ`, with the gradients of `x` and `W`.
    fn forward_blended<const D: usize>(&self, x: Tensor<D>, latent: Tensor<2>) -> Tensor<D> {
        let weight = self.weight().dequantize().cast(latent.dtype());
        let weight = self.blended(latent, weight).cast(x.dtype());
        let x = match self.activations {
            ActivationQuantizer::None => x,
            quantizer => self.blended(x.clone(), fake_quantize(x, quantizer)),
        };
        linear(x, weight)
    }

    fn blended<const D: usize>(&self, value: Tensor<D>, quantized: Tensor<D>) -> Tensor<D> {
        value.clone() + (quantized - value).detach() * self.blend
    }
}

impl ModuleDisplay for BitLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_out, d_in] = self.weight.dims();
        content
            .add("d_in", &d_in)
            .add("d_out", &d_out)
            .add("bias", &self.bias.is_some())
            .add("norm", &self.norm.is_some())
            .add("packed", &self.is_packed())
            .optional()
    }
}

/// The two states. A module of its own, written by hand: the derived one would put the state into every record path
/// (`weight.Latent`), where PyTorch and the published checkpoints say `weight`.
#[derive(Debug, Clone)]
enum Weight {
    /// `[d_out, d_in]`, float.
    Latent(Param<Tensor<2>>),
    Packed(PackedWeight),
}

/// Canonical words `[d_out, words]`, `u32`, or base-3 bytes `[d_out, bytes]`, `u8`, and flat scales. Neither ever requires a
/// gradient.
#[derive(Module, Debug)]
struct PackedWeight {
    codes: Param<Tensor<2, Int>>,
    scale: Param<Tensor<1>>,
    d_in: usize,
    #[module(skip)]
    granularity: Granularity,
}

impl PackedWeight {
    fn new(weight: TernaryTensor) -> Self {
        let (d_in, granularity) = (weight.d_in(), weight.granularity());
        let (codes, scale) = weight.into_parts();
        Self {
            codes: Param::initialized(ParamId::new(), codes),
            scale: Param::from_tensor(scale).set_require_grad(false),
            d_in,
            granularity,
        }
    }

    fn tensor(&self) -> TernaryTensor {
        TernaryTensor::from_parts(
            self.codes.val(),
            self.scale.val().cast(DType::F32), // a module-wide cast may have narrowed it
            self.d_in,
            self.granularity,
        )
        .expect("shapes were proven on construction, and loading keeps them")
    }

    /// Rows of words and of bytes are never equally long, so the shape tells them apart, loaded or not.
    fn packing(&self) -> Packing {
        match self.codes.lazy_shape()[1] == words_per_row(self.d_in) {
            true => Packing::Words,
            false => Packing::Base3,
        }
    }

    /// With codes that the kernels of `device` read.
    fn fit(self, device: &Device) -> Self {
        match self.packing() {
            Packing::Words => self,
            Packing::Base3 => {
                let (codes, _) = self.tensor().fit(device).into_parts();
                Self {
                    codes: Param::initialized(self.codes.id, codes),
                    ..self
                }
            }
        }
    }
}

impl Weight {
    /// `[d_out, d_in]`.
    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Latent(latent) => latent.lazy_shape().dims(),
            Self::Packed(packed) => [packed.codes.lazy_shape()[0], packed.d_in],
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Latent(latent) => bytes(latent),
            Self::Packed(packed) => {
                let size = match packed.packing() {
                    Packing::Words => size_of::<u32>(),
                    Packing::Base3 => size_of::<u8>(),
                };
                size * packed.codes.lazy_shape().num_elements() + bytes(&packed.scale)
            }
        }
    }
}

fn bytes<const D: usize>(param: &Param<Tensor<D>>) -> usize {
    param.lazy_shape().num_elements() * param.dtype().size()
}

impl Module for Weight {
    /// The same in both states: the number of weights, whatever holds them.
    fn num_params(&self) -> usize {
        self.dims().into_iter().product()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Latent(latent) => latent.visit(visitor),
            Self::Packed(packed) => packed.visit(visitor),
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(Module::map(latent, mapper)),
            Self::Packed(packed) => Self::Packed(packed.map(mapper)),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(latent.to_device(device)),
            Self::Packed(packed) => Self::Packed(packed.fit(device).to_device(device)),
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(latent.fork(device)),
            Self::Packed(packed) => Self::Packed(packed.fit(device).fork(device)),
        }
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Latent(latent) => latent.collect_devices(devices),
            Self::Packed(packed) => packed.collect_devices(devices),
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(latent.valid()),
            Self::Packed(packed) => Self::Packed(packed.valid()),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(latent.train()),
            Self::Packed(packed) => Self::Packed(packed.train()),
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Latent(latent) => Self::Latent(latent.materialize()),
            Self::Packed(packed) => Self::Packed(packed.materialize()),
        }
    }
}

impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Latent(latent) => content.add_single(latent).optional(),
            Self::Packed(packed) => content.add_single(packed).optional(),
        }
    }
}

impl ModuleDisplay for Weight {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display() {
        let device = Device::default();
        let layer = BitLinearConfig::new(3, 5).with_bias(true).init(&device);
        assert_eq!(
            layer.to_string(),
            "BitLinear {d_in: 3, d_out: 5, bias: true, norm: false, packed: false, params: 20}"
        );
        assert_eq!(
            layer.pack().to_string(),
            "BitLinear {d_in: 3, d_out: 5, bias: true, norm: false, packed: true, params: 20}"
        );
    }

    #[test]
    fn config_survives_its_json_form() {
        let config = BitLinearConfig::new(64, 8)
            .with_granularity(Granularity::Group(32))
            .with_weight_quantizer(WeightQuantizer::Sign)
            .with_activations(ActivationQuantizer::None);
        let read = BitLinearConfig::load_binary(config.to_string().as_bytes()).unwrap();
        assert_eq!(read.to_string(), config.to_string());
    }

    #[test]
    fn latent_weights_start_in_the_range_of_a_linear_layer() {
        let layer = BitLinearConfig::new(16, 8).init(&Device::default());
        let latent = layer.latent().unwrap().val();
        latent.into_data().assert_within_range(-0.25f32..0.25);
    }

    #[test]
    #[should_panic(expected = "assert_shape!(x, [.., d_in]): axis 1 expected 4, got 3")]
    fn an_input_of_another_width_is_refused() {
        let device = Device::default();
        let layer = BitLinearConfig::new(4, 2).init(&device);
        layer.forward(Tensor::<2>::zeros([1, 3], &device));
    }

    #[test]
    #[should_panic(expected = "BitLinear: d_in = 0 and d_out = 2 must be at least 1")]
    fn a_dimension_of_zero_is_refused() {
        BitLinearConfig::new(0, 2).init(&Device::default());
    }

    #[test]
    #[should_panic(expected = "BitLinear: group size 48: expected a multiple of 32")]
    fn a_bad_group_size_is_refused() {
        let config = BitLinearConfig::new(64, 2).with_granularity(Granularity::Group(48));
        config.init_packed(&Device::default());
    }

    #[test]
    #[should_panic(expected = "BitLinear: a blend of 1.5, expected 0 (float) to 1 (ternary)")]
    fn a_blend_beyond_one_is_refused() {
        BitLinearConfig::new(4, 2)
            .init(&Device::default())
            .set_blend(1.5);
    }
}
