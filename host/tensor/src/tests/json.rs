//! Tests of tensors as JSON.

use belljar_abi::ValueType;
use proptest::prelude::*;

use super::super::Value;
use super::super::json::{read_named, read_one, read_one_value, write_named, write_one};
use super::{
    AMPLE, DType, Data, Tensor, TensorError, any_tensor, assert_malformed, assert_same, f16,
    with_one_nan,
};

fn read(text: &str) -> Result<Tensor, TensorError> {
    read_one(text.as_bytes(), None, AMPLE)
}

fn read_as(text: &str, dtype: DType) -> Result<Tensor, TensorError> {
    read_one(text.as_bytes(), Some(dtype), AMPLE)
}

fn tensor(data: impl Into<Data>, shape: &[usize]) -> Tensor {
    Tensor::new(data, shape).expect("count matches")
}

fn written(tensor: &Tensor) -> String {
    let mut bytes = Vec::new();
    write_one(tensor, &mut bytes).expect("writing to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[test]
fn types_are_inferred_without_a_requested_type() {
    assert_same(&read("[[1, 2], [3, -4]]").unwrap(), &tensor(vec![1i64, 2, 3, -4], &[2, 2]));
    assert_same(&read("[1, 2.5]").unwrap(), &tensor(vec![1f32, 2.5], &[2]));
    assert_same(&read("[1, 2e0]").unwrap(), &tensor(vec![1f32, 2.0], &[2]));
    assert_same(&read(" true ").unwrap(), &Tensor::scalar(true));
    assert_same(&read("\"NaN\"").unwrap(), &Tensor::scalar("NaN".to_owned()));
    assert_same(&read("[]").unwrap(), &tensor(Vec::<i64>::new(), &[0]));
    assert_same(&read("[[], []]").unwrap(), &tensor(Vec::<i64>::new(), &[2, 0]));
    assert_malformed(read("[9223372036854775808]"), "[0]: 9223372036854775808 is out of range");
    assert_malformed(read("[1, 99999999999999999999]"), "[1]");
    assert_malformed(read("[1, \"NaN\"]"), "[1]: the string \"NaN\" among values");
    assert_malformed(read("[[true], [0]]"), "[1][0]: 0 among values");
}

#[test]
fn objects_in_any_order() {
    let expected = tensor(vec![1u8, 2, 3, 4], &[2, 2]);
    for text in [
        r#"{"dtype": "u8", "shape": [2, 2], "data": [1, 2, 3, 4]}"#,
        r#"{"data": [1, 2, 3, 4], "shape": [2, 2], "dtype": "u8"}"#,
        r#"{"data": [[1, 2], [3, 4]], "dtype": "u8"}"#,
        r#"{"data": [[1, 2], [3, 4]], "shape": [2, 2], "dtype": "u8"}"#,
    ] {
        assert_same(&read(text).expect(text), &expected);
        assert_same(&read_as(text, DType::U8).expect(text), &expected);
        assert_malformed(read_as(text, DType::I8), "i8 is required");
    }
    // The type may come after the data.
    let text = r#"{"data": ["NaN", 1, 0.1], "dtype": "f64"}"#;
    assert_same(&read(text).unwrap(), &tensor(vec![f64::NAN, 1.0, 0.1], &[3]));
    assert_malformed(read(r#"{"data": [[1, 300]], "dtype": "u8"}"#), ".data[0][1]: 300");
    assert_same(&read(r#"{"data": 5, "shape": [], "dtype": "i8"}"#).unwrap(), &Tensor::scalar(5i8));
    let empty = read(r#"{"dtype": "f32", "shape": [0, 3], "data": []}"#).unwrap();
    assert_same(&empty, &tensor(Vec::<f32>::new(), &[0, 3]));
}

#[test]
fn malformed_objects_are_refused() {
    for (text, says) in [
        (r#"{"shape": [1]}"#, "the key data is missing"),
        (r#"{"data": [1], "data": [1]}"#, "duplicate key"),
        (r#"{"dtype": "u8", "dtype": "u8", "data": 1}"#, "duplicate key"),
        (r#"{"data": [1], "name": "x"}"#, "unknown key"),
        (r#"{"data": [1], "dtype": "float32"}"#, "is not one of f16,"),
        (r#"{"data": [1], "dtype": 1}"#, "not a string"),
        (r#"{"data": [1], "shape": [-1]}"#, "not a list of dimensions"),
        (r#"{"data": [1], "shape": [1.0]}"#, "not a list of dimensions"),
        (r#"{"data": [1], "shape": 1}"#, "not a list of dimensions"),
        (r#"{"data": [1], "shape": [1,]}"#, "not a list of dimensions"),
        (r#"{"data": [[1, 2]], "shape": [2, 1]}"#, "[1, 2], but the key shape is [2, 1]"),
        (r#"{"data": [1],}"#, "missing key"),
        (r#"{"data": [1] "shape": [1]}"#, "missing comma"),
        (r#"{"data" [1]}"#, "missing colon"),
        (r#"{"data": {}}"#, "an object"),
        (r#"{"data": [1]} 2"#, "after the end"),
    ] {
        assert_malformed(read(text), says);
    }
    let count = read(r#"{"data": [1, 2, 3], "shape": [2, 2]}"#);
    assert!(matches!(count, Err(TensorError::Count { expected: 4, found: 3, .. })));
    let shape = format!(r#"{{"data": [], "shape": [{}1]}}"#, "1,".repeat(32));
    assert!(matches!(read(&shape), Err(TensorError::Shape { .. })));
    let shape = r#"{"data": [], "shape": [9223372036854775807, 9223372036854775807]}"#;
    assert!(matches!(read(shape), Err(TensorError::Shape { .. })));
}

#[test]
fn arrays_must_be_regular() {
    for (text, says) in [
        ("[[1, 2], [3]]", "[1]: an array of 1 items where its neighbours have 2"),
        ("[[1], [2, 3]]", "[1]: an array of 2 items"),
        ("[[[1]], [[2], [3]]]", "[1]: an array of 2 items"),
        ("[1, [2]]", "[1]: an array where its neighbours are scalars"),
        ("[[1], 2]", "[1]: a scalar where its neighbours are arrays"),
        ("[[], 1]", "[1]: a scalar"),
        ("[[], [1]]", "[1]: an array of 1 items"),
        ("[[[]], []]", "[1]: an array of 0 items"),
        ("[[], [[]]]", "[1]: an array of 1 items"),
        ("[1, null]", "[1]: null"),
        ("[1,]", "[1]: missing value"),
        ("[,1]", "[0]: missing value"),
        ("[1", "missing comma or closing bracket"),
        ("[1}", "missing comma or closing bracket"),
        ("[1 2]", "missing comma or closing bracket"),
        ("[", "[0]: the file ends"),
        ("", "the file ends"),
        ("]", "missing value"),
        ("[1]]", "after the end"),
        ("1 2", "after the end"),
    ] {
        assert_malformed(read(text), says);
    }
}

#[test]
fn depth_is_bounded() {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(read(&deep(32)).unwrap().shape(), [1; 32]);
    assert_malformed(read(&deep(33)), "nested too deeply");
    assert_malformed(read(&"[".repeat(500_000)), "nested too deeply");
    assert_malformed(read(&r#"{"data":"#.repeat(100_000)), "an object");
}

#[test]
fn integers_are_exact_or_refused() {
    let exact = "[9007199254740993, -9223372036854775808, 9223372036854775807]";
    let expected = vec![9_007_199_254_740_993i64, i64::MIN, i64::MAX];
    assert_same(&read(exact).unwrap(), &tensor(expected, &[3]));
    let exact = read_as("[18446744073709551615]", DType::U64).unwrap();
    assert_same(&exact, &tensor(vec![u64::MAX], &[1]));
    assert_same(&read_as("-0", DType::I32).unwrap(), &Tensor::scalar(0i32));
    assert_same(&read_as("-0", DType::U8).unwrap(), &Tensor::scalar(0u8));
    for (text, dtype, says) in [
        ("[[0, 256]]", DType::U8, "[0][1]: 256 is out of range of u8"),
        ("[-1]", DType::U64, "[0]: -1 is out of range of u64"),
        ("18446744073709551616", DType::U64, "out of range of u64"),
        ("9223372036854775808", DType::I64, "out of range of i64"),
        ("1.0", DType::I64, "1.0 is not an integer"),
        ("1e2", DType::I32, "100.0 is not an integer"),
        ("-0.0", DType::I32, "-0.0 is not an integer"),
        ("true", DType::I8, "true is not an integer"),
        ("\"1\"", DType::I8, "the string \"1\" is not an integer"),
        ("1", DType::Bool, "1 is not a bool"),
        ("1", DType::String, "1 is not a string"),
        ("[true]", DType::F32, "[0]: true is not a number"),
    ] {
        assert_malformed(read_as(text, dtype), says);
    }
}

#[test]
fn floats_are_rounded_to_nearest_or_refused() {
    let text = r#"[-0, -0.0, 0.1, "NaN", "Infinity", "-Infinity", 16777217, 1e-999]"#;
    let values = [-0.0, -0.0, 0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 16_777_216.0, 0.0];
    assert_same(&read_as(text, DType::F32).unwrap(), &tensor(values.to_vec(), &[8]));
    let halves = read_as("[65504, 0.5, \"-Infinity\"]", DType::F16).unwrap();
    let expected = vec![f16::MAX, f16::from_f32(0.5), f16::NEG_INFINITY];
    assert_same(&halves, &tensor(expected, &[3]));
    // Just above half-way between two floats: rounding to f64 first would give the wrong one.
    let text = "1.00000005960464477539062500000000000001";
    assert_same(&read_as(text, DType::F32).unwrap(), &Tensor::scalar(1.0f32 + f32::EPSILON));
    for (text, dtype, says) in [
        ("1e999", DType::F64, "a number beyond f64 is out of range of f64"),
        ("1e999", DType::F32, "out of range of f32"),
        ("-1e39", DType::F32, "-1e39 is out of range of f32"),
        ("65520", DType::F16, "65520 is out of range of f16"),
        ("\"nan\"", DType::F32, "is not a number"),
        ("\"1\"", DType::F32, "is not a number"),
        ("NaN", DType::F32, "a bare NaN"),
        ("-Infinity", DType::F32, "an invalid number"),
        ("+1", DType::F32, "invalid JSON"),
        ("01", DType::F32, "an invalid number"),
        ("1.", DType::F32, "an invalid number"),
        (".5", DType::F32, "invalid JSON"),
        ("1e", DType::F32, "an invalid number"),
        ("1e+", DType::F32, "an invalid number"),
        ("1-2", DType::F32, "an invalid number"),
        ("0x1", DType::F32, "an invalid word"),
    ] {
        assert_malformed(read_as(text, dtype), says);
    }
    let long = format!("0.{}", "1".repeat(1000));
    assert!(read_as(&long, DType::F32).is_ok());
    assert_malformed(read_as(&"1".repeat(5000), DType::F32), "more than 2048 bytes");
}

#[test]
fn strings() {
    let text = r#"["a\u00e9\ud83d\ude00\n", "é", ""]"#;
    let expected = ["aé😀\n", "é", ""].map(String::from).to_vec();
    assert_same(&read(text).unwrap(), &tensor(expected, &[3]));
    for text in [r#""\ud83d""#, r#""\x41""#, "\"a\nb\"", r#""\"#] {
        assert!(matches!(read(text), Err(TensorError::Malformed { .. })), "{text}");
    }
    let bytes: &[u8] = b"\"\xff\"";
    assert_malformed(read_one(bytes, None, AMPLE), "a string");
    assert_malformed(read("\"abc"), "unclosed");
    // A byte order mark is skipped only at the start of the text.
    assert_same(&read("\u{feff} [1]").unwrap(), &tensor(vec![1i64], &[1]));
    for text in ["\u{feff}\u{feff}[1]", "[\u{feff}1]", "[1]\u{feff}", " \u{feff}[1]", "\u{feff}"] {
        assert!(matches!(read(text), Err(TensorError::Malformed { .. })), "{text}");
    }
    let cut: &[u8] = b"\xef\xbb[1]";
    assert_malformed(read_one(cut, None, AMPLE), "invalid JSON");
}

#[test]
fn string_size_does_not_depend_on_its_escapes() {
    let text = format!("[\"{}\"]", "\\u0041".repeat(1000));
    let read = |limit| read_one(text.as_bytes(), Some(DType::String), limit);
    assert_eq!(read(1024).unwrap().as_slice::<String>().unwrap()[0], "A".repeat(1000));
    assert!(matches!(read(1023), Err(TensorError::TooLarge { .. })));
}

#[test]
fn elements_of_unknown_type_count_as_eight_bytes() {
    // Eight bytes each until the type is known, one afterwards.
    let text = br#"{"a": [true, false], "b": [true]}"#;
    let read = |limit| read_named(&text[..], |_| None, limit);
    assert!(read(16).is_ok());
    assert!(matches!(read(15), Err(TensorError::TooLarge { limit: 15, .. })));
    let late = br#"{"data": [1, 2, "NaN"], "dtype": "f16"}"#;
    let expected = vec![f16::ONE, f16::from_f32(2.0), f16::NAN];
    assert_same(&read_one(&late[..], None, 60).unwrap(), &tensor(expected, &[3]));
}

#[test]
fn limits() {
    let text = "[1, 2, 3, 4]";
    let read = |dtype, limit| read_one(text.as_bytes(), dtype, limit);
    assert!(read(Some(DType::F32), 16).is_ok());
    assert!(matches!(read(Some(DType::F32), 15), Err(TensorError::TooLarge { limit: 15, .. })));
    assert!(read(None, 32).is_ok());
    assert!(matches!(read(None, 31), Err(TensorError::TooLarge { limit: 31, .. })));
    let strings = |limit| read_one(&b"[\"a\", \"bc\"]"[..], Some(DType::String), limit);
    assert!(strings(51).is_ok());
    assert!(matches!(strings(50), Err(TensorError::TooLarge { .. })));
    let long = format!("\"{}\"", "x".repeat(10_000));
    let result = read_one(long.as_bytes(), None, 100);
    assert!(matches!(result, Err(TensorError::TooLarge { .. })));
    // White space costs no memory, but its length is limited.
    let endless = std::io::repeat(b' ');
    assert!(matches!(read_one(endless, None, 100), Err(TensorError::TooLarge { .. })));
    // All tensors share one limit.
    let text = br#"{"a": [1, 2], "b": [3, 4]}"#;
    let read = |limit| read_named(&text[..], |_| Some(DType::U8), limit);
    assert!(read(4).is_ok());
    assert!(matches!(read(3), Err(TensorError::TooLarge { limit: 3, .. })));
}

#[test]
fn keys_of_maps_are_bounded_by_the_limit_and_names_by_their_length() {
    let long = "x".repeat(5_000);
    let map = format!("{{\"{long}\": 1}}");
    let declared = (ValueType::Map(DType::String, DType::F32), None);
    let read = |limit| read_one_value(map.as_bytes(), declared, limit);
    let Ok(Value::Map(found)) = read(1 << 20) else { panic!("a map with a long key") };
    assert_eq!(found.key_texts().next().unwrap(), long);
    assert!(matches!(read(4_999), Err(TensorError::TooLarge { limit: 4_999, .. })));
    // Names of inputs are short in every model.
    let names = read_named(map.as_bytes(), |_| None, 1 << 20);
    assert!(matches!(names, Err(TensorError::TooLarge { limit: 4_096, .. })));
    let wrong = format!("{{\"{long}\": []}}");
    let why = read_one_value(wrong.as_bytes(), declared, 1 << 20).unwrap_err().to_string();
    assert!(why.len() < 200 && why.contains("a value of a map"), "{why}");
}

#[test]
fn several_tensors() {
    let text = r#"{"b": [1], "a": {"dtype": "u8", "data": 2}, "data": 0.5, "": [[]]}"#;
    let dtype_of = |name: &str| (name == "b").then_some(DType::F64);
    let tensors = read_named(text.as_bytes(), dtype_of, AMPLE).unwrap();
    let expected = [
        ("b".to_owned(), tensor(vec![1f64], &[1])),
        ("a".to_owned(), Tensor::scalar(2u8)),
        ("data".to_owned(), Tensor::scalar(0.5f32)),
        (String::new(), tensor(Vec::<i64>::new(), &[1, 0])),
    ];
    assert_eq!(tensors, expected);
    assert_eq!(read_named(&b"{}"[..], |_| None, AMPLE).unwrap(), []);
    let named = |text: &str| read_named(text.as_bytes(), |_| Some(DType::U8), AMPLE);
    assert_malformed(named(r#"{"a": 1, "a": 2}"#), "two tensors are named \"a\"");
    assert_malformed(named(r#"{"a": [[0, 256]]}"#), "\"a\"[0][1]: 256");
    assert_malformed(named(r#"{"a": {"data": [0, 256]}}"#), "\"a\".data[1]: 256");
    assert_malformed(named("[1]"), "not an object");
    assert_malformed(named(r#"{"a": 1"#), "missing comma or closing brace");
    assert_malformed(named(r#"{"a": 1}}"#), "after the end");
    let many: Vec<String> = (0..1025).map(|at| format!("\"{at}\": 1")).collect();
    assert_malformed(named(&format!("{{{}}}", many.join(","))), "more than 1024");
    let long = format!("{{\"{}\": 1}}", "n".repeat(4097));
    assert!(matches!(named(&long), Err(TensorError::TooLarge { .. })));
}

#[test]
fn writes_short_and_exact() {
    let values = vec![0.1f32, -0.0, 1.0, f32::NAN, f32::NEG_INFINITY, 16_777_216.0];
    assert_eq!(
        written(&tensor(values, &[2, 3])),
        "{\"dtype\":\"f32\",\"shape\":[2,3],\"data\":[0.1,-0.0,1.0,\"NaN\",\"-Infinity\",\
         16777216.0]}\n"
    );
    let twice = [("x".to_owned(), Tensor::scalar(1u8)), ("x".to_owned(), Tensor::scalar(1u8))];
    assert_malformed(write_named(&twice, Vec::new()), "two tensors");
}

proptest! {
    #[test]
    fn written_tensors_read_back(tensor in any_tensor()) {
        let tensor = with_one_nan(&tensor);
        let text = written(&tensor);
        assert_same(&read(&text).expect("our own text"), &tensor);
        assert_same(&read_as(&text, tensor.dtype()).expect("our own text"), &tensor);
        for len in 0..text.trim_end().len() {
            if let Some(cut) = text.get(..len) {
                prop_assert!(read(cut).is_err(), "{}", cut);
            }
        }
        let named = [("x\"\n".to_owned(), tensor)];
        let mut bytes = Vec::new();
        write_named(&named, &mut bytes).expect("writing to memory");
        let back = read_named(bytes.as_slice(), |_| None, AMPLE).expect("our own text");
        prop_assert_eq!(&back[0].0, &named[0].0);
        assert_same(&back[0].1, &named[0].1);
    }

    #[test]
    fn floats_read_as_rust_reads_them(text in "-?[1-9][0-9]{0,25}\\.[0-9]{1,25}(e-?[0-9]{1,2})?") {
        let (single, double): (f32, f64) = (text.parse().unwrap(), text.parse().unwrap());
        match read_as(&text, DType::F32) {
            Ok(tensor) => assert_same(&tensor, &Tensor::scalar(single)),
            Err(_) => prop_assert!(single.is_infinite()),
        }
        assert_same(&read_as(&text, DType::F64).unwrap(), &Tensor::scalar(double));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "[\\[\\]{}\",:0-9eE.truefalsn\\\\ +-]{0,60}") {
        let _ = read(&text);
        let _ = read_named(text.as_bytes(), |_| None, AMPLE);
        // All accepted text is JSON.
        if read(&text).is_ok() {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
        }
    }
}

#[test]
fn small_numbers_are_rounded_or_refused() {
    let read = |dtype: &str, data: &str| {
        read(&format!(r#"{{"dtype": "{dtype}", "shape": [1], "data": [{data}]}}"#))
    };
    let value = |tensor: &Tensor| match tensor.data() {
        Data::Coded(coded) => coded.values().next(),
        other => panic!("{other:?}"),
    };
    for (dtype, text, wanted) in [
        ("float8e4m3fn", "1.03", 1.0),
        ("float8e4m3fn", "-448", -448.0),
        ("float8e5m2", "\"Infinity\"", f64::INFINITY),
        ("float4e2m1", "0.3", 0.5),
        ("float8e8m0", "4", 4.0),
        ("i4", "-8", -8.0),
        ("u2", "3", 3.0),
    ] {
        assert_eq!(value(&read(dtype, text).unwrap()), Some(wanted), "{dtype} {text}");
    }
    for (dtype, text) in [
        ("float8e4m3fn", "500"),
        ("float8e4m3fn", "\"Infinity\""),
        ("float4e2m1", "7"),
        ("float4e2m1", "\"NaN\""),
        ("float8e8m0", "0"),
        ("float8e8m0", "-1"),
        ("i4", "8"),
        ("i4", "1.5"),
        ("u2", "-1"),
        ("u4", "\"NaN\""),
        ("i2", "true"),
    ] {
        assert_malformed(read(dtype, text), dtype);
    }
}
