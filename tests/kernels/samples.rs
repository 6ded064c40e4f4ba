//! Operators that this project computes itself if native kernels may be used, and tract otherwise.

use crate::compare::Net;
use crate::support::onnx::{int_attribute, string_attribute};

#[test]
fn linear_samples_are_close_to_those_of_the_sandbox() {
    for padding in ["zeros", "border", "reflection"] {
        for corners in [0, 1] {
            let mut net = Net::of_version(20);
            let image = net.input(&[2, 5, 9, 13]);
            // Some of the places are outside of the image.
            let places: Vec<f32> = net.numbers(2 * 7 * 6 * 2).iter().map(|at| at * 1.4).collect();
            let grid = net.input_of(&[2, 7, 6, 2], places);
            let attributes = [
                string_attribute("mode", "linear"),
                string_attribute("padding_mode", padding),
                int_attribute("align_corners", corners),
            ];
            let samples = net.op("GridSample", &[&image, &grid], &attributes);
            net.output(&samples);
            net.agrees(&[]);
        }
    }
}

#[test]
fn third_powers_are_close_to_those_of_the_sandbox() {
    let mut net = Net::new();
    let numbers: Vec<f32> = net.numbers(500).iter().map(|number| number * 1e3).collect();
    let x = net.input_of(&[5, 100], numbers);
    let three = net.constant_of(&[], &[3.0]);
    let powers = net.op("Pow", &[&x, &three], &[]);
    net.output(&powers);
    net.agrees(&["NativePointwise"]);
    let mut net = Net::new();
    let ugly = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-20, -1e20, 1e13, -2.0];
    let x = net.input_of(&[8], ugly);
    let three = net.constant_of(&[1], &[3.0]);
    let powers = net.op("Pow", &[&x, &three], &[]);
    net.output(&powers);
    net.agrees(&[]);
}
