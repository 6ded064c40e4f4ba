//! Operators that make, move, choose and convert elements.

pub(crate) mod arrange;
pub(crate) mod cast;
pub(crate) mod concat;
pub(crate) mod expand;
pub(crate) mod eye_like;
pub(crate) mod gather;
pub(crate) mod image_decoder;
pub(crate) mod one_hot;
pub(crate) mod pad;
pub(crate) mod range;
pub(crate) mod reshape;
pub(crate) mod resize;
pub(crate) mod scatter;
pub(crate) mod shape;
pub(crate) mod slice;
pub(crate) mod space_to_depth;
pub(crate) mod split;
pub(crate) mod squeeze;
pub(crate) mod trilu;
pub(crate) mod unique;

use crate::framework::registration::{Registration, upstream};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    arrange::OPERATORS,
    cast::OPERATORS,
    concat::OPERATORS,
    expand::OPERATORS,
    eye_like::OPERATORS,
    gather::OPERATORS,
    image_decoder::OPERATORS,
    one_hot::OPERATORS,
    pad::OPERATORS,
    range::OPERATORS,
    reshape::OPERATORS,
    resize::OPERATORS,
    resize::nearest::OPERATORS,
    scatter::OPERATORS,
    shape::OPERATORS,
    slice::OPERATORS,
    space_to_depth::OPERATORS,
    split::OPERATORS,
    squeeze::OPERATORS,
    trilu::OPERATORS,
    unique::OPERATORS,
    UPSTREAM,
];

/// The operators that tract computes according to the specification.
const UPSTREAM: &[Registration] = &[
    upstream("CastLike"),
    upstream("Constant"),
    upstream("DepthToSpace"),
    upstream("Identity"),
    upstream("NonZero"),
    upstream("Transpose"),
];

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor, texts};

    #[test]
    fn depth_to_space_orders_channels_by_its_mode() {
        let blocks = || case("DepthToSpace").int("blocksize", 2).input(counting(&[1, 8, 1, 1]));
        let depth_first = tensor(&[1, 2, 2, 2], &[0f32, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
        blocks().gives(depth_first);
        blocks().text("mode", "CRD").gives(counting(&[1, 2, 2, 2]));
        case("DepthToSpace").int("blocksize", 2).input(counting(&[1, 6, 1, 1])).fails("");
    }

    #[test]
    fn non_zero_counts_nan_and_skips_zeros_of_both_signs() {
        let numbers = tensor(&[2, 2], &[f32::NAN, -0.0, 0.0, 1e-40]);
        case("NonZero").input(numbers).gives(tensor(&[2, 2], &[0i64, 1, 0, 1]));
        case("NonZero").input(row(&[false, true])).gives(tensor(&[1, 1], &[1i64]));
        case("NonZero").input(row(&[0i64, 1 << 40])).gives(tensor(&[1, 1], &[1i64]));
        case("NonZero").input(row(&[0f32])).gives(tensor::<i64>(&[1, 0], &[]));
    }

    #[test]
    fn transpose_reverses_dimensions_by_default() {
        case("Transpose")
            .input(counting(&[1, 2, 3]))
            .gives(tensor(&[3, 2, 1], &[0f32, 3.0, 1.0, 4.0, 2.0, 5.0]));
        case("Transpose")
            .ints("perm", &[0, 2, 1])
            .input(counting(&[1, 2, 3]))
            .gives(tensor(&[1, 3, 2], &[0f32, 3.0, 1.0, 4.0, 2.0, 5.0]));
        let words = texts(&["a", "b"]).into_shape(&[1, 2]).unwrap();
        let expected = texts(&["a", "b"]).into_shape(&[2, 1]).unwrap();
        case("Transpose").input(words).gives(expected);
        case("Transpose").input(scalar(1f32)).gives(scalar(1f32));
    }

    #[test]
    fn constant_takes_every_value_attribute() {
        case("Constant").tensor("value", &row(&[1u16])).gives(row(&[1u16]));
        case("Constant").int("value_int", 1 << 40).gives(scalar(1i64 << 40));
        case("Constant").ints("value_ints", &[-1, 1 << 40]).gives(row(&[-1i64, 1 << 40]));
        case("Constant").float("value_float", 0.5).gives(scalar(0.5f32));
        case("Constant").floats("value_floats", &[f32::NAN]).gives(row(&[f32::NAN]));
        case("Constant").text("value_string", "a").gives(scalar("a".to_owned()));
        case("Constant").texts("value_strings", &["a", ""]).gives(texts(&["a", ""]));
    }

    #[test]
    fn identity_and_cast_like_keep_values() {
        case("Identity").input(texts(&["a"])).gives(texts(&["a"]));
        case("Identity").input(tensor::<bool>(&[0, 2], &[])).gives(tensor::<bool>(&[0, 2], &[]));
        case("CastLike").input(row(&[1.9f32, -1.9])).input(row(&[0i64])).gives(row(&[1i64, -1]));
        case("CastLike").input(row(&[2f32, 0.0])).input(scalar(true)).gives(row(&[true, false]));
    }
}
