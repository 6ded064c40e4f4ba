//! The distributions, by tests at fixed seeds. Each statistic is beyond its bound in one of a
//! thousand seeds, so a change of the numbers may need another seed.

use tract_onnx::prelude::DatumType;

use super::{numbers, values};
use crate::testing::{Case, case, row, scalar, tensor};

const COUNT: usize = 20_000;
const SEEDS: [u32; 3] = [0, 1, 0xffff_ffff];

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn variance(numbers: &[f64]) -> f64 {
    let mean = mean(numbers);
    numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / numbers.len() as f64
}

/// Asserts by the test of Kolmogorov and Smirnov that numbers have this distribution function.
fn follows(mut numbers: Vec<f64>, distribution: impl Fn(f64) -> f64) {
    numbers.sort_by(f64::total_cmp);
    let count = numbers.len() as f64;
    let beyond = numbers.iter().enumerate().map(|(at, number)| {
        let expected = distribution(*number);
        (expected - at as f64 / count).max((at + 1) as f64 / count - expected)
    });
    let statistic = beyond.fold(0.0, f64::max) * count.sqrt();
    assert!(statistic < 1.95, "{statistic}");
}

/// Pearson's statistic of counts.
fn chi_squared(counts: &[f64], expected: &[f64]) -> f64 {
    counts.iter().zip(expected).map(|(count, expected)| (count - expected).powi(2) / expected).sum()
}

/// The standard normal distribution function.
fn normal(number: f64) -> f64 {
    0.5 * libm::erfc(-number / std::f64::consts::SQRT_2)
}

fn of_shape(name: &str, dtype: i64) -> Case {
    case(name).ints("shape", &[COUNT as i64 / 100, 100]).int("dtype", dtype)
}

#[test]
fn uniform_numbers_are_uniform() {
    for (dtype, bits) in [(1, 24), (11, 53), (10, 11)] {
        for seed in SEEDS {
            let numbers = numbers(&of_shape("RandomUniform", dtype), seed);
            assert_eq!(numbers.len(), COUNT);
            assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
            let step = 2f64.powi(-bits);
            assert!(numbers.iter().all(|number| number % step == 0.0));
            assert!((mean(&numbers) - 0.5).abs() < 0.0068, "{}", mean(&numbers));
            assert!((variance(&numbers) - 1.0 / 12.0).abs() < 0.0018, "{}", variance(&numbers));
            // Numbers of float16 are 2^-11 apart, which are half of a step too small.
            follows(numbers, |number| number + step / 2.0);
        }
    }
}

#[test]
fn uniform_numbers_are_between_low_and_high() {
    let node = of_shape("RandomUniform", 1).float("low", -3.0).float("high", 5.0);
    let found = numbers(&node, 5);
    assert!(found.iter().all(|number| (-3.0..5.0).contains(number)));
    follows(found, |number| (number + 3.0) / 8.0);
    let constant = case("RandomUniform").ints("shape", &[2]).float("low", 1.5).float("high", 1.5);
    constant.gives(row(&[1.5f32, 1.5]));
    let none = case("RandomUniform").ints("shape", &[2]).float("low", 1.5).float("high", 1.25);
    none.fails("1.5");
}

#[test]
fn normal_numbers_are_normal() {
    for dtype in [1, 11, 10] {
        for seed in SEEDS {
            let numbers = numbers(&of_shape("RandomNormal", dtype), seed);
            assert!(mean(&numbers).abs() < 0.0233, "{}", mean(&numbers));
            assert!((variance(&numbers) - 1.0).abs() < 0.033, "{}", variance(&numbers));
            let fourth = mean(&numbers.iter().map(|number| number.powi(4)).collect::<Vec<_>>());
            assert!((fourth - 3.0).abs() < 0.23, "{fourth}");
            follows(numbers, normal);
        }
    }
}

#[test]
fn neighbouring_numbers_are_independent() {
    for name in ["RandomNormal", "RandomUniform"] {
        let found = numbers(&of_shape(name, 1), 3);
        let (mean, variance) = (mean(&found), variance(&found));
        for lag in [1, 2, 3, 4, 100] {
            let pairs = found.iter().zip(&found[lag..]);
            let sum: f64 = pairs.map(|(one, other)| (one - mean) * (other - mean)).sum();
            let correlation = sum / variance / (COUNT - lag) as f64;
            assert!(correlation.abs() < 0.0233, "{name} {lag}: {correlation}");
        }
    }
}

#[test]
fn normal_numbers_have_their_mean_and_scale() {
    let node = of_shape("RandomNormal", 1).float("mean", 10.0).float("scale", 0.5);
    follows(numbers(&node, 5), |number| normal((number - 10.0) / 0.5));
    let constant = case("RandomNormal").ints("shape", &[1, 2]).float("mean", 3.0);
    constant.float("scale", 0.0).gives(tensor(&[1, 2], &[3f32, 3.0]));
    case("RandomNormal").ints("shape", &[2]).float("scale", -1.0).fails("-1");
}

#[test]
fn numbers_like_an_input_have_its_shape_and_type_or_another_type() {
    for name in ["RandomNormalLike", "RandomUniformLike"] {
        let given = case(name).input(tensor(&[2, 3], &[9f64; 6]));
        let made = |node: &Case| {
            let made = node.outputs_at_run_time().remove(0);
            (made.datum_type(), made.shape().to_vec())
        };
        assert_eq!(made(&given), (DatumType::F64, vec![2, 3]));
        assert_eq!(made(&given.clone().int("dtype", 1)), (DatumType::F32, vec![2, 3]));
        let of_texts = case(name).int("dtype", 10).input(tensor(&[0, 2], &[0i64; 0]));
        assert_eq!(made(&of_texts), (DatumType::F16, vec![0, 2]));
        // bfloat16, as the gate gives it: the codes are those of rounded numbers.
        let narrow = case(name).int("type_to", 16).input(tensor(&[50], &[0u16; 50]));
        let codes = narrow.outputs_at_run_time().remove(0);
        assert_eq!(codes.datum_type(), DatumType::U16);
        let codes = values(&codes);
        let number = |code: &f64| f32::from_bits((*code as u32) << 16);
        assert!(codes.iter().map(number).all(|number| number.abs() < 7.0));
    }
}

#[test]
fn random_tensors_without_a_shape_are_single_numbers() {
    let node = case("RandomUniform").ints("shape", &[]);
    assert_eq!(node.outputs_at_run_time()[0].shape(), [0usize; 0]);
}

#[test]
fn bernoulli_has_the_rates_of_its_input() {
    let rates: Vec<f64> = (0..=10).map(|tenth| f64::from(tenth) / 10.0).collect();
    let each = COUNT / rates.len();
    let all: Vec<f64> = rates.iter().flat_map(|rate| vec![*rate; each]).collect();
    for seed in SEEDS {
        let node = case("Bernoulli").input(tensor(&[rates.len(), each], &all));
        let found = numbers(&node, seed);
        assert!(found.iter().all(|bit| [0.0, 1.0].contains(bit)));
        let mut statistic = 0.0;
        for (bits, rate) in found.chunks(each).zip(&rates) {
            let (ones, expected) = (bits.iter().sum::<f64>(), rate * each as f64);
            match *rate {
                0.0 | 1.0 => assert_eq!(ones, expected),
                rate => statistic += (ones - expected).powi(2) / (expected * (1.0 - rate)),
            }
        }
        // Nine degrees of freedom.
        assert!(statistic < 27.9, "{statistic}");
    }
}

#[test]
fn bernoulli_makes_the_type_of_its_input_or_another_one() {
    let of = || case("Bernoulli").input(row(&[0f32, 1.0, f32::NAN]));
    of().gives(row(&[0f32, 1.0, 0.0]));
    of().int("dtype", 9).gives(row(&[false, true, false]));
    of().int("dtype", 7).gives(row(&[0i64, 1, 0]));
    of().int("type_to", 16).gives(row(&[0u16, 0x3f80, 0]));
}

#[test]
fn multinomial_draws_classes_by_their_probabilities() {
    let probabilities = [0.1, 0.0, 0.3, 0.2, 0.4];
    let logits = probabilities.map(|probability: f64| (probability.ln() + 3.0) as f32);
    for seed in SEEDS {
        let rows = [logits, [0f32; 5]].concat();
        let node =
            case("Multinomial").int("sample_size", COUNT as i64).input(tensor(&[2, 5], &rows));
        let drawn = &node.outputs_with_seeds(usize::MAX, &[seed])[0][0];
        assert_eq!((drawn.datum_type(), drawn.shape()), (DatumType::I32, &[2, COUNT][..]));
        let drawn = values(drawn);
        let expected = [probabilities, [0.2; 5]];
        for (drawn, expected) in drawn.chunks(COUNT).zip(expected) {
            let mut counts = [0.0; 5];
            drawn.iter().for_each(|class| counts[*class as usize] += 1.0);
            let possible = |at: &usize| expected[*at] > 0.0;
            let of =
                |list: [f64; 5]| (0..5).filter(possible).map(|at| list[at]).collect::<Vec<_>>();
            let impossible: f64 = (0..5).filter(|at| !possible(at)).map(|at| counts[at]).sum();
            assert_eq!(impossible, 0.0);
            let expected = of(expected.map(|probability| probability * COUNT as f64));
            let statistic = chi_squared(&of(counts), &expected);
            // Four degrees of freedom.
            assert!(statistic < 18.5, "{statistic}");
        }
    }
}

#[test]
fn multinomial_refuses_rows_without_probabilities() {
    let of = |logits: &[f32]| {
        case("Multinomial").int("dtype", 7).input(tensor(&[1, logits.len()], logits))
    };
    of(&[f32::NEG_INFINITY, 2.0]).gives(tensor(&[1, 1], &[1i64]));
    of(&[-1e30, -1e30, 7.0]).gives(tensor(&[1, 1], &[2i64]));
    of(&[0.0, f32::NAN]).fails("row 0");
    of(&[0.0, f32::INFINITY]).fails("row 0");
    of(&[f32::NEG_INFINITY; 2]).fails("row 0");
    of(&[]).fails("no class");
    case("Multinomial").input(tensor(&[0, 3], &[0f32; 0])).gives(tensor(&[0, 1], &[0i32; 0]));
    case("Multinomial").input(row(&[0f32])).fails("1 dimensions");
}

fn dropout(count: usize, ratio: f32) -> Case {
    let data: Vec<f32> = (1..=count).map(|number| number as f32).collect();
    case("Dropout").outputs(2).input(row(&data)).input(scalar(ratio)).input(scalar(true))
}

#[test]
fn dropout_drops_its_ratio_and_scales_the_rest() {
    for (ratio, seed) in [(0.1f32, 1), (0.5, 2), (0.75, 3)] {
        let outputs = dropout(COUNT, ratio).outputs_with_seeds(usize::MAX, &[seed]).remove(0);
        let (output, mask) = (values(&outputs[0]), values(&outputs[1]));
        assert_eq!(outputs[1].datum_type(), DatumType::Bool);
        let scale = 1.0 / (1.0 - f64::from(ratio));
        for (at, (output, kept)) in output.iter().zip(&mask).enumerate() {
            assert_eq!(*output as f32, (at + 1) as f32 * scale as f32 * *kept as f32);
        }
        let (rate, dropped) = (f64::from(ratio), 1.0 - mean(&mask));
        let deviation = (rate * (1.0 - rate) / COUNT as f64).sqrt();
        assert!((dropped - rate).abs() < 3.3 * deviation, "{dropped}");
    }
}

#[test]
fn dropout_in_training_mode_keeps_everything_at_a_ratio_of_0() {
    let data = || row(&[1f32, 2.0, 3.0]);
    dropout(3, 0.0).gives_all(&[data(), row(&[true; 3])]);
    dropout(3, 1.0).fails("1");
    dropout(3, -0.5).fails("-0.5");
    dropout(3, f32::NAN).fails("NaN");
}

#[test]
fn dropout_in_training_mode_has_a_default_ratio_of_one_half() {
    let data = vec![1f64; COUNT];
    let node = case("Dropout").input(row(&data)).missing().input(scalar(true));
    let found = numbers(&node, 4);
    assert!(found.iter().all(|number| [0.0, 2.0].contains(number)));
    assert!((mean(&found) - 1.0).abs() < 0.0233);
}

#[test]
fn dropout_outside_of_training_is_the_identity() {
    let data = || row(&[1f32, f32::NAN]);
    for opset in [7, 11, 12, 13, 22] {
        let node = || case("Dropout").opset(opset).input(data());
        node().gives(data());
        node().outputs(2).gives_all(&[data(), row(&[true, true])]);
        if opset >= 12 {
            let node = || node().input(scalar(0.75f32)).input(scalar(false));
            node().gives(data());
            node().outputs(2).gives_all(&[data(), row(&[true, true])]);
        }
    }
}
