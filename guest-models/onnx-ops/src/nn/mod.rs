//! Layers of neural networks.

pub(crate) mod attention;
pub(crate) mod batch_normalization;
pub(crate) mod causal_conv;
pub(crate) mod conv;
pub(crate) mod conv_transpose;
mod double_normalization;
mod double_sample;
pub(crate) mod global_lp_pool;
pub(crate) mod grid_sample;
pub(crate) mod linear_attention;
pub(crate) mod losses;
pub(crate) mod max_roi_pool;
pub(crate) mod non_max_suppression;
pub(crate) mod normalization;
pub(crate) mod pool;
pub(crate) mod recurrent;
pub(crate) mod regions;
pub(crate) mod rotary_embedding;
pub(crate) mod softmax;
pub(crate) mod window_spec;
pub(crate) mod windows;

use crate::framework::registration::{Registration, upstream};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    attention::OPERATORS,
    batch_normalization::OPERATORS,
    causal_conv::OPERATORS,
    conv::OPERATORS,
    conv_transpose::OPERATORS,
    global_lp_pool::OPERATORS,
    grid_sample::OPERATORS,
    linear_attention::OPERATORS,
    losses::OPERATORS,
    max_roi_pool::OPERATORS,
    non_max_suppression::OPERATORS,
    normalization::OPERATORS,
    pool::OPERATORS,
    recurrent::OPERATORS,
    regions::OPERATORS,
    rotary_embedding::OPERATORS,
    softmax::OPERATORS,
    windows::OPERATORS,
    UPSTREAM,
];

/// The operators that tract computes according to the specification.
const UPSTREAM: &[Registration] = &[upstream("InstanceNormalization")];

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn group_normalization_has_scales_by_channel() {
        let norm = case("GroupNormalization").int("num_groups", 1).float("epsilon", 0.0);
        let norm = norm.input(tensor(&[1, 2, 2], &[1f32, 1.0, 3.0, 3.0]));
        let norm = norm.input(row(&[1f32, 10.0])).input(row(&[0f32, 5.0]));
        norm.gives_near(tensor(&[1, 2, 2], &[-1f32, -1.0, 15.0, 15.0]), 1e-6);
    }

    #[test]
    fn instance_normalization_is_by_sample_and_channel() {
        let norm = case("InstanceNormalization").float("epsilon", 0.0);
        let norm = norm.input(tensor(&[2, 1, 2], &[1f32, 3.0, 10.0, 30.0]));
        let norm = norm.input(row(&[2f32])).input(row(&[1f32]));
        norm.gives_near(tensor(&[2, 1, 2], &[-1f32, 3.0, -1.0, 3.0]), 1e-6);
    }

    #[test]
    fn rms_normalization_is_from_its_axis_on() {
        let norm = || case("RMSNormalization").float("epsilon", 0.0);
        let rows = norm().input(tensor(&[2, 2], &[1f32, 7.0, 3.0, -3.0])).input(row(&[1f32, 2.0]));
        rows.gives_near(tensor(&[2, 2], &[0.2f32, 2.8, 1.0, -2.0]), 1e-6);
        let all = norm().int("axis", 0).input(tensor(&[2, 2], &[1f32, 1.0, 1.0, -1.0]));
        let scale = tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        all.input(scale).gives_near(tensor(&[2, 2], &[1f32, 2.0, 3.0, -4.0]), 1e-6);
    }

    #[test]
    fn rms_normalization_refuses_an_axis_outside_of_the_tensor() {
        for axis in [2, -3] {
            let norm = case("RMSNormalization").int("axis", axis);
            norm.input(tensor(&[1, 1], &[1f32])).input(row(&[1f32])).fails(&axis.to_string());
        }
    }
}
