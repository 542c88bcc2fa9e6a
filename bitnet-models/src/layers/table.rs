//! `Table`: the matrix of token embeddings, which is often the output head too.
//!
//! A packed table of floats may have a screen, an int8 copy that tells which rows can have the largest logits.
//! Three states: float (trainable, a Burn parameter), few bits (`TableTensor`: int8 by default for inference), or
//! ternary (models whose embedding is ternary). Exactly one of the three fields is there.

use bitnet_kernels::{
    ActivationQuantizer, Granularity, ScreenTensor, TableFormat, TableTensor, TernaryTensor,
    embedding, linear, table_leading, table_linear, table_rows, ternary_linear,
};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Int, Tensor};

use super::precision::narrowed;

/// A matrix `[rows, columns]` of embeddings.
#[derive(Module, Debug)]
pub struct Table {
    weight: Option<Param<Tensor<2>>>,
    packed: Option<FewBits>,
    screen: Option<Screen>,
    ternary: Option<Ternary>,
    #[module(skip)]
    products: Option<DType>,
}

#[derive(Module, Debug)]
struct Screen {
    copy: FewBits,
    error: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct FewBits {
    codes: Param<Tensor<2, Int>>,
    scale: Param<Tensor<1>>,
    #[module(skip)]
    format: TableFormat,
    columns: usize,
}

#[derive(Module, Debug)]
struct Ternary {
    codes: Param<Tensor<2, Int>>,
    scale: Param<Tensor<1>>,
    #[module(skip)]
    granularity: Granularity,
    columns: usize,
}

impl Table {
    /// A trainable table.
    pub const fn from_float(weight: Param<Tensor<2>>) -> Self {
        Self {
            weight: Some(weight),
            packed: None,
            screen: None,
            ternary: None,
            products: None,
        }
    }

    /// A frozen table of few bits.
    pub fn from_table(table: TableTensor) -> Self {
        Self {
            weight: None,
            packed: Some(FewBits::new(table)),
            screen: None,
            ternary: None,
            products: None,
        }
    }

    /// The same table behind a screen, which [`leading`](Self::leading) reads first.
    ///
    /// # Panics
    ///
    /// Panics unless the table is one of packed floats.
    #[must_use]
    pub fn with_screen(mut self, screen: ScreenTensor) -> Self {
        let packed = self.packed.as_ref();
        assert!(
            packed.is_some_and(|table| table.format.is_float()),
            "a screen stands before packed floats"
        );
        let (copy, error) = screen.into_parts();
        self.screen = Some(Screen {
            copy: FewBits::new(copy),
            error: Param::from_tensor(error).set_require_grad(false),
        });
        self
    }

    /// A frozen ternary table.
    pub fn from_ternary(table: TernaryTensor) -> Self {
        let (granularity, columns) = (table.granularity(), table.d_in());
        let (codes, scale) = table.into_parts();
        Self {
            weight: None,
            packed: None,
            screen: None,
            ternary: Some(Ternary {
                codes: Param::initialized(ParamId::new(), codes),
                scale: Param::from_tensor(scale).set_require_grad(false),
                granularity,
                columns,
            }),
            products: None,
        }
    }

    /// The embeddings of these ids.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, seq_len]`
    /// - output: `[batch, seq_len, columns]`, f32
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match self.state() {
            State::Float(weight) => {
                let [batch, seq_len] = ids.dims();
                let rows = embedding(weight.val(), ids.reshape([batch * seq_len]));
                let columns = rows.dims()[1];
                rows.cast(DType::F32).reshape([batch, seq_len, columns])
            }
            State::FewBits(table) => table_rows(ids, &table),
            State::Ternary(table) => {
                let [batch, seq_len] = ids.dims();
                let columns = table.d_in();
                ternary_rows(&table, ids.reshape([batch * seq_len]))
                    .reshape([batch, seq_len, columns])
            }
        }
    }

    /// The output head: `x · Wᵀ`, without quantizing `x`.
    ///
    /// # Shapes
    ///
    /// - x: `[.., columns]`
    /// - output: `[.., rows]`, f32, or while training in the format of products
    pub fn logits<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.state() {
            State::Float(weight) => {
                let weight = narrowed(weight.val(), self.products);
                let x = x.cast(weight.dtype());
                let logits = linear(x, weight);
                match (self.products, logits.is_autodiff()) {
                    (Some(_), true) => logits, // losses widen them, number by number
                    _ => logits.cast(DType::F32),
                }
            }
            State::FewBits(table) => table_linear(x.cast(DType::F32), &table),
            State::Ternary(table) => {
                ternary_linear(x.cast(DType::F32), &table, ActivationQuantizer::None)
            }
        }
    }

    /// The [`logits`](Self::logits) that may be among the `leading` largest of their row, bit for bit; others may be −∞. Behind a
    /// screen that reads a fraction of the table.
    ///
    /// # Shapes
    ///
    /// As [`logits`](Self::logits).
    ///
    /// # Panics
    ///
    /// Panics if `leading` is 0.
    pub fn leading<const D: usize>(&self, x: Tensor<D>, leading: usize) -> Tensor<D> {
        match (self.state(), self.screen()) {
            (State::FewBits(table), Some(screen)) => {
                table_leading(x.cast(DType::F32), &table, &screen, leading)
            }
            _ => self.logits(x),
        }
    }

    /// Sets the number format of the head's products while training, as of a [`BitLinear`](super::BitLinear).
    pub const fn set_products(&mut self, products: Option<DType>) {
        self.products = products;
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        match (&self.weight, &self.packed, &self.ternary) {
            (Some(weight), ..) => weight.lazy_shape().dims(),
            (_, Some(table), _) => [table.codes.lazy_shape()[0], table.columns],
            (_, _, Some(table)) => [table.codes.lazy_shape()[0], table.columns],
            _ => unreachable!("one of the three states"),
        }
    }

    /// Name of the number format, e.g. `int8`.
    pub fn format(&self) -> String {
        match self.state() {
            State::Float(weight) => format!("{:?}", weight.dtype()).to_lowercase(),
            State::FewBits(table) => table.format().to_string(),
            State::Ternary(_) => "ternary".to_owned(),
        }
    }

    /// Bytes in memory, or of the file that is mapped there; those of a screen too.
    pub fn bytes(&self) -> usize {
        let screen = self.screen().map_or(0, |screen| screen.bytes());
        screen
            + match self.state() {
                State::Float(weight) => weight.lazy_shape().num_elements() * weight.dtype().size(),
                State::FewBits(table) => table.bytes(),
                State::Ternary(table) => table.bytes(),
            }
    }

    /// Bytes that [`leading`](Self::leading) must read: the screen, or all.
    pub fn leading_bytes(&self) -> usize {
        self.screen()
            .map_or_else(|| self.bytes(), |screen| screen.bytes())
    }

    /// The trainable matrix, if the table is float.
    pub const fn weight(&self) -> Option<&Param<Tensor<2>>> {
        self.weight.as_ref()
    }

    /// The words and scales, if the table is of few bits.
    pub fn packed(&self) -> Option<TableTensor> {
        match self.state() {
            State::FewBits(table) => Some(table),
            _ => None,
        }
    }

    /// The screen, if there is one.
    pub fn screen(&self) -> Option<ScreenTensor> {
        self.screen.as_ref().map(|screen| {
            let screen = ScreenTensor::from_parts(screen.copy.tensor(), screen.error.val());
            screen.expect(PROVEN)
        })
    }

    /// The words and scales, if the table is ternary.
    pub fn ternary(&self) -> Option<TernaryTensor> {
        match self.state() {
            State::Ternary(table) => Some(table),
            _ => None,
        }
    }

    fn state(&self) -> State<'_> {
        match (&self.weight, &self.packed, &self.ternary) {
            (Some(weight), ..) => State::Float(weight),
            (_, Some(table), _) => State::FewBits(table.tensor()),
            (_, _, Some(table)) => {
                let (codes, scale) = (table.codes.val(), table.scale.val());
                let tensor =
                    TernaryTensor::from_parts(codes, scale, table.columns, table.granularity);
                State::Ternary(tensor.expect(PROVEN))
            }
            _ => unreachable!("one of the three states"),
        }
    }
}

const PROVEN: &str = "shapes were proven on construction, and loading keeps them";

impl FewBits {
    fn new(table: TableTensor) -> Self {
        let (format, columns) = (table.format(), table.columns());
        let (codes, scale) = table.into_parts();
        Self {
            codes: Param::initialized(ParamId::new(), codes),
            scale: Param::from_tensor(scale).set_require_grad(false),
            format,
            columns,
        }
    }

    fn tensor(&self) -> TableTensor {
        let (codes, scale) = (self.codes.val(), self.scale.val());
        TableTensor::from_parts(codes, scale, self.format, self.columns).expect(PROVEN)
    }
}

enum State<'a> {
    Float(&'a Param<Tensor<2>>),
    FewBits(TableTensor),
    Ternary(TernaryTensor),
}

/// Rows of a ternary matrix as floats: `ids [n]` to `[n, d_in]`.
fn ternary_rows(table: &TernaryTensor, ids: Tensor<1, Int>) -> Tensor<2> {
    let (d_out, d_in, granularity) = (table.d_out(), table.d_in(), table.granularity());
    let (codes, scale) = table.clone().into_parts();
    let n = ids.dims()[0];
    let per_row = granularity.count(d_out, d_in) / d_out;
    let scale = if per_row == 0 {
        scale // one for the whole matrix
    } else {
        let rows = scale.reshape([d_out, per_row]);
        rows.select(0, ids.clone()).reshape([n * per_row])
    };
    TernaryTensor::from_parts(codes.select(0, ids), scale, d_in, granularity)
        .expect("rows of a proven matrix")
        .dequantize()
}
