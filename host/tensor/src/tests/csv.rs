//! Tests of CSV files.

use proptest::prelude::*;

use super::super::csv::{header, read_columns, read_one};
use super::{AMPLE, DType, Tensor, TensorError, assert_malformed, assert_same};

fn read(text: &str, dtype: Option<DType>) -> Result<Tensor, TensorError> {
    read_one(text.as_bytes(), dtype, None, AMPLE)
}

fn matrix<T>(values: Vec<T>, shape: [usize; 2]) -> Tensor
where
    super::Data: From<Vec<T>>,
{
    Tensor::new(values, &shape).unwrap()
}

#[test]
fn numbers_keep_their_type_and_every_digit() {
    let text = "9007199254740993,-0\n+7,007\n";
    let expected = matrix(vec![9_007_199_254_740_993i64, 0, 7, 7], [2, 2]);
    assert_same(&read(text, Some(DType::I64)).unwrap(), &expected);
    let floats = read("-0,.5\n5.,1e-999\n", Some(DType::F32)).unwrap();
    assert_same(&floats, &matrix(vec![-0.0f32, 0.5, 5.0, 0.0], [2, 2]));
    let text = "1.00000005960464477539062500000000000001";
    let once = read(text, Some(DType::F32)).unwrap();
    assert_same(&once, &matrix(vec![1.0f32 + f32::EPSILON], [1, 1]));
    let bools = read("True,FALSE\n", Some(DType::Bool)).unwrap();
    assert_same(&bools, &matrix(vec![true, false], [1, 2]));
    assert_same(&read("1,2.5\n", None).unwrap(), &matrix(vec![1.0f32, 2.5], [1, 2]));
    assert_same(&read("1,2\n", None).unwrap(), &matrix(vec![1i64, 2], [1, 2]));
    for (text, dtype, says) in [
        ("3.0", DType::I64, "line 1, column 1: 3.0 is not an integer"),
        ("300", DType::U8, "300 is out of range of u8"),
        ("nan", DType::I32, "NaN is not an integer"),
        ("1", DType::Bool, "1 is not a bool"),
        ("0x10", DType::I32, "no rows"),
        ("1\n0x10", DType::I32, "\"0x10\" is not a number"),
        ("1\n1_000", DType::I32, "\"1_000\" is not a number"),
    ] {
        assert_malformed(read(text, Some(dtype)), says);
    }
}

#[test]
fn strings_are_unchanged() {
    let texts = |values: &[&str], shape| {
        matrix(values.iter().map(ToString::to_string).collect::<Vec<_>>(), shape)
    };
    let text = "a,\" b \"\n\"x\"\"y,\nz\",#1\n nan , \n";
    let expected = texts(&["a", " b ", "x\"y,\nz", "#1", " nan ", " "], [3, 2]);
    assert_same(&read(text, Some(DType::String)).unwrap(), &expected);
    assert_malformed(read("\"a\"b\n", Some(DType::String)), "after the closing quote");
    let bytes: &[u8] = b"a\xff\n";
    assert_malformed(read_one(bytes, Some(DType::String), None, AMPLE), "not UTF-8");
}

#[test]
fn shape_comes_from_the_lines_or_the_declaration() {
    let shape = |text: &str, rank| {
        let tensor = read_one(text.as_bytes(), Some(DType::F32), rank, AMPLE).unwrap();
        tensor.shape().to_vec()
    };
    assert_eq!(shape("1\n2\n3", None), [3, 1]);
    assert_eq!(shape("1\n2\n3", Some(1)), [3]);
    assert_eq!(shape("1,2,3", Some(1)), [3]);
    assert_eq!(shape("1,2\n3,4", Some(1)), [2, 2]);
    assert_eq!(shape("1", Some(0)), [0usize; 0]);
    assert_eq!(shape("1,2", Some(0)), [1, 2]);
}

#[test]
fn limits_are_enforced() {
    let read = |text: &str, dtype, limit| read_one(text.as_bytes(), dtype, None, limit);
    assert!(read("1,2\n3,4", Some(DType::F32), 16).is_ok());
    let result = read("1,2\n3,4", Some(DType::F32), 15);
    assert!(matches!(result, Err(TensorError::TooLarge { limit: 15, .. })), "{result:?}");
    assert!(read("a,bc", Some(DType::String), 51).is_ok());
    for (text, dtype, limit) in [("a,bc", Some(DType::String), 50), ("1,2", None, 15)] {
        assert!(matches!(read(text, dtype, limit), Err(TensorError::TooLarge { .. })), "{text}");
    }
    let long = "1".repeat(5000);
    assert!(matches!(read(&long, Some(DType::F32), AMPLE), Err(TensorError::TooLarge { .. })));
    let endless = std::io::repeat(b'\n');
    let result = read_one(endless, Some(DType::F32), None, 100);
    assert!(matches!(result, Err(TensorError::TooLarge { .. })));
    let columns = (0..1025).map(|at| format!("c{at}"));
    let columns = columns.collect::<Vec<_>>().join(",");
    let result = read_columns(columns.as_bytes(), |_| (None, None), AMPLE);
    assert_malformed(result, "more than 1024 columns");
}

#[test]
fn headers_are_found_in_the_first_bytes() {
    assert_eq!(header(b"\xef\xbb\xbfa, b ,\"c,d\"\r\n1,2,3"), ["a", "b", "c,d"]);
    assert_eq!(header(b"a,b"), [""; 0]);
    assert_eq!(header(b"\"a\n,b"), [""; 0]);
    assert_eq!(header(b""), [""; 0]);
}

proptest! {
    #[test]
    fn numbers_are_read_as_they_are_written(
        rows in prop::collection::vec(prop::collection::vec(any::<f64>(), 3), 1..6),
        separator in prop::sample::select(&[",", ";", "\t", " ", ", "][..]),
        end in prop::sample::select(&["\n", "\r\n"][..]),
    ) {
        let line = |row: &Vec<f64>| {
            row.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(separator)
        };
        let text: String = rows.iter().map(|row| line(row) + end).collect();
        let flat: Vec<f64> = rows.concat();
        let found = read(&text, Some(DType::F64)).expect("our own text");
        let expected = super::with_one_nan(&matrix(flat, [rows.len(), 3]));
        assert_same(&super::with_one_nan(&found), &expected);
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "[0-9a,;\t \r\n\"#.eE+-]{0,60}") {
        for dtype in [None, Some(DType::F32), Some(DType::String)] {
            let _ = read(&text, dtype);
        }
        let _ = read_columns(text.as_bytes(), |_| (Some(DType::F32), Some(1)), AMPLE);
        let _ = header(text.as_bytes());
    }
}
