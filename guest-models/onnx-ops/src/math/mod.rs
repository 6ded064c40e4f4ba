//! Algebra, reductions and spectra.

pub(crate) mod algebra;
pub(crate) mod cumulative;
pub(crate) mod einsum;
pub(crate) mod fourier;
pub(crate) mod gemm;
pub(crate) mod matmul;
pub(crate) mod reduce;
pub(crate) mod top_k;

use crate::framework::registration::{Registration, upstream};

pub use reduce::{Reduction, ReductionKind};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    algebra::OPERATORS,
    cumulative::OPERATORS,
    einsum::OPERATORS,
    gemm::OPERATORS,
    matmul::OPERATORS,
    reduce::OPERATORS,
    fourier::OPERATORS,
    top_k::OPERATORS,
    UPSTREAM,
];

/// The operators that tract computes according to the specification.
const UPSTREAM: &[Registration] = &[upstream("MelWeightMatrix")];

#[cfg(test)]
mod tests {
    use crate::testing::{case, scalar, tensor};

    #[test]
    fn mel_weight_matrix_has_triangles_between_evenly_spaced_mels() {
        let case = case("MelWeightMatrix").constants().input(scalar(2i64)).input(scalar(16i64));
        let case = case.input(scalar(8i64)).input(scalar(0f32)).input(scalar(4f32));
        // Bins of frequencies that are evenly spaced in mels, rounded as in the specification.
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
        let place = |at: f64| (17.0 * hertz(at / 4.0 * mel(4.0)) / 8.0).floor();
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(place), [0.0, 2.0, 4.0, 6.0]);
        let first = [0f32, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let second = [0f32, 0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0];
        let columns: Vec<f32> = first.iter().zip(&second).flat_map(|(a, b)| [*a, *b]).collect();
        case.gives_within(tensor(&[9, 2], &columns), 1e-6);
    }
}
