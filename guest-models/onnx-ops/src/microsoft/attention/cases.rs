//! Nodes with the outputs that onnxruntime and plain arithmetic in numpy agree on, which
//! `tests/expectations/microsoft/make.py` has written. Some inputs are pseudorandom numbers from a
//! seed.

use crate::testing::{microsoft, tensor};

/// Checks all cases of a file.
#[track_caller]
pub(in crate::microsoft) fn check(cases: &str) {
    let mut count = 0;
    for case in cases.split("case ").skip(1) {
        check_case(case);
        count += 1;
    }
    assert!(count > 0);
}

#[track_caller]
fn check_case(text: &str) {
    let mut lines = text.lines();
    let title = lines.next().unwrap();
    let (name, title) = title.split_once(' ').unwrap();
    let mut case = microsoft(name);
    let mut outputs = vec![];
    let mut left_out = vec![];
    let mut within = 4e-6;
    for line in lines.filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        case = match words[..] {
            ["int", name, value] => case.int(name, value.parse().unwrap()),
            ["float", name, value] => case.float(name, value.parse().unwrap()),
            ["text", name, value] => case.text(name, value),
            ["ints", name, ref values @ ..] => case.ints(name, &parsed(values)),
            ["within", difference] => {
                within = difference.parse().unwrap();
                case
            }
            ["in", "none"] => case.missing(),
            ["in", "random", shape, seed] => {
                let shape = sizes(shape);
                let count = shape.iter().product();
                case.input(tensor(&shape, &random(count, seed.parse().unwrap())))
            }
            ["in", dtype, shape, ref values @ ..] => {
                let shape = sizes(shape);
                case.input(match dtype {
                    "float32" => tensor(&shape, &parsed::<f32>(values)),
                    "int32" => tensor(&shape, &parsed::<i32>(values)),
                    "int64" => tensor(&shape, &parsed::<i64>(values)),
                    "int8" => tensor(&shape, &parsed::<i8>(values)),
                    "uint8" => tensor(&shape, &parsed::<u8>(values)),
                    other => panic!("{other} is not an element type of these cases"),
                })
            }
            ["out", "none"] => {
                left_out.push(left_out.len() + outputs.len());
                case
            }
            ["out", "int8", shape, ref values @ ..] => {
                outputs.push(tensor(&sizes(shape), &parsed::<i8>(values)));
                case
            }
            ["out", "uint8", shape, ref values @ ..] => {
                outputs.push(tensor(&sizes(shape), &parsed::<u8>(values)));
                case
            }
            ["out", shape, ref values @ ..] => {
                outputs.push(tensor(&sizes(shape), &parsed::<f32>(values)));
                case
            }
            _ => panic!("{title}: {line}"),
        };
    }
    case = case.outputs(outputs.len() + left_out.len());
    for output in left_out {
        case = case.without_output(output);
    }
    case.gives_all_within(title, &outputs, within);
}

fn parsed<T: std::str::FromStr>(words: &[&str]) -> Vec<T> {
    let one = |word: &&str| word.parse().unwrap_or_else(|_| panic!("{word} is not a number"));
    words.iter().map(one).collect()
}

fn sizes(text: &str) -> Vec<usize> {
    match text {
        "-" => vec![],
        sizes => parsed(&sizes.split(',').collect::<Vec<_>>()),
    }
}

/// Multiples of 1/64 from −2 to 2, as `make.py` makes them.
fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 / 64.0 - 2.0
    };
    (0..count).map(next).collect()
}
