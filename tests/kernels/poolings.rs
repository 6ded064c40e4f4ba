//! Pooling operators.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::compare::{Net, cases};
use crate::support::onnx::{int_attribute, ints_attribute, string_attribute};

#[derive(Clone, Debug)]
struct Pooling {
    max: bool,
    /// Images, channels, and the image's one or two sizes.
    dims: Vec<i64>,
    kernel: Vec<i64>,
    strides: Vec<i64>,
    pads: Vec<i64>,
    auto_pad: Option<&'static str>,
    ceil: i64,
    count_padding: i64,
}

impl Pooling {
    fn net(&self) -> Net {
        let mut net = Net::new();
        let input = net.input(&self.dims);
        let mut attributes = vec![
            ints_attribute("kernel_shape", &self.kernel),
            ints_attribute("strides", &self.strides),
            int_attribute("ceil_mode", self.ceil),
        ];
        attributes.push(match self.auto_pad {
            None => ints_attribute("pads", &self.pads),
            Some(how) => string_attribute("auto_pad", how),
        });
        let op = if self.max { "MaxPool" } else { "AveragePool" };
        if !self.max {
            attributes.push(int_attribute("count_include_pad", self.count_padding));
        }
        let result = net.op(op, &[&input], &attributes);
        net.output(&result);
        net
    }
}

prop_compose! {
    fn pooling()(rank in 1..3usize)(
        max in any::<bool>(),
        batch in 1..3i64,
        channels in 1..5i64,
        sizes in vec(1..24i64, rank),
        kernel in vec(1..6i64, rank),
        strides in vec(1..4i64, rank),
        pads in vec(0..5i64, 2 * rank),
        auto_pad in prop::option::weighted(
            0.2,
            prop::sample::select(vec!["SAME_UPPER", "SAME_LOWER", "VALID"]),
        ),
        (ceil, count_padding) in (0..2i64, 0..2i64),
    ) -> Pooling {
        let rank = kernel.len();
        // No window contains only padding.
        let pads = pads.iter().enumerate().map(|(at, pad)| pad % kernel[at % rank]).collect();
        let sizes = sizes.iter().zip(&kernel).map(|(size, kernel)| *size.max(kernel));
        let dims = [batch, channels].into_iter().chain(sizes).collect();
        // With `ceil_mode`, these are refused before a kernel is used.
        let ceil = if auto_pad.is_some() { 0 } else { ceil };
        let near = |(stride, kernel): (&i64, &i64)| *stride.min(kernel);
        let strides = match auto_pad {
            Some(_) => strides.iter().zip(&kernel).map(near).collect(),
            None => strides,
        };
        Pooling { max, dims, kernel, strides, pads, auto_pad, ceil, count_padding }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn any_pooling(pooling in pooling()) {
        match pooling.max {
            true => pooling.net().agrees_exactly(&["NativePool"]),
            // A window that ends beyond the padding does not count all of its elements. The kernels
            // leave that case to tract.
            false => pooling.net().agrees(&[]),
        }
    }
}

#[test]
fn poolings() {
    for max in [true, false] {
        for (ceil, count_padding) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for pads in [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1]] {
                for (kernel, stride) in [(2, 2), (3, 2), (3, 1), (3, 3)] {
                    let pooling = Pooling {
                        max,
                        dims: vec![2, 3, 11, 8],
                        kernel: vec![kernel; 2],
                        strides: vec![stride; 2],
                        pads: pads.to_vec(),
                        auto_pad: None,
                        ceil,
                        count_padding,
                    };
                    match (max, ceil * count_padding) {
                        (true, _) => pooling.net().agrees_exactly(&["NativePool"]),
                        (false, 0) => pooling.net().agrees(&["NativePool"]),
                        (false, _) => pooling.net().agrees(&[]),
                    }
                }
            }
        }
    }
}

#[test]
fn global_poolings() {
    for dims in [vec![2, 3, 7, 5], vec![1, 17, 1, 1], vec![2, 5, 33]] {
        for op in ["GlobalAveragePool", "GlobalMaxPool"] {
            let mut net = Net::new();
            let input = net.input(&dims);
            let result = net.op(op, &[&input], &[]);
            net.output(&result);
            net.agrees(&["Native"]);
        }
    }
}
