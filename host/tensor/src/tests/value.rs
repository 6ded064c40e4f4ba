//! Values that cross as several tensors, and answers that are not such tensors.

use belljar_abi::{Part, ValueType};

use crate::{DType, Map, Tensor, Value, take_value};

fn row<T: crate::Element>(values: Vec<T>) -> Tensor {
    let count = values.len();
    Tensor::new(T::into_data(values), &[count]).unwrap()
}

fn texts(values: &[&str]) -> Tensor {
    row(values.iter().map(|text| (*text).to_owned()).collect())
}

fn map(keys: &[&str], values: &[f32]) -> Map {
    Map::new(texts(keys), row(values.to_vec())).unwrap()
}

/// The value that comes back.
fn crossed(value: &Value, declared: ValueType) -> Value {
    let parts = value.to_parts(declared).unwrap();
    let tensors = parts.into_iter().map(|(_, tensor)| tensor.into_owned());
    Value::from_parts(declared, tensors.collect()).unwrap()
}

#[test]
fn sequences_and_maps_are_the_same_after_they_crossed() {
    let shapes: [&[usize]; 5] = [&[2, 3], &[], &[0, 4], &[1], &[2, 1, 2]];
    let tensor = |shape: &&[usize]| {
        let count = shape.iter().product();
        Tensor::new(vec![1.5f32; count], shape).unwrap()
    };
    let sequence = Value::Sequence(shapes.iter().map(tensor).collect());
    assert_eq!(crossed(&sequence, ValueType::Sequence(DType::F32)), sequence);
    for empty in [Value::Sequence(vec![]), Value::Sequence(vec![texts(&["a"]), texts(&[])])] {
        assert_eq!(crossed(&empty, ValueType::Sequence(DType::String)), empty);
    }
    let one = Value::Map(map(&["a", "b"], &[1.0, 2.0]));
    assert_eq!(crossed(&one, ValueType::Map(DType::String, DType::F32)), one);
    let maps = Value::Maps(vec![map(&["a"], &[1.0]), map(&[], &[]), map(&["a"], &[3.0])]);
    assert_eq!(crossed(&maps, ValueType::SequenceOfMaps(DType::String, DType::F32)), maps);
}

#[test]
fn an_absent_optional_has_no_parts_and_one_that_is_there_is_its_element() {
    let types = [ValueType::OptionalTensor(DType::F32), ValueType::OptionalSequence(DType::F32)];
    for declared in types {
        assert_eq!(Value::Absent.to_parts(declared), Ok(vec![]));
    }
    let tensor = Value::Tensor(row(vec![1f32]));
    let parts = tensor.to_parts(types[0]).unwrap();
    assert_eq!(parts[0].0, Part::Whole);
    let of = |declared, shapes: &[usize], data: Vec<i64>, more: Vec<Tensor>| {
        let shapes = Tensor::new(data, shapes).unwrap();
        let mut parts = vec![row(vec![1f32; shapes.len()]), shapes];
        parts.extend(more);
        Value::from_parts(declared, parts)
    };
    assert_eq!(of(types[0], &[1, 1], vec![1], vec![]), Ok(tensor.clone()));
    assert_eq!(of(types[0], &[0, 1], vec![], vec![]), Ok(Value::Absent));
    assert!(of(types[0], &[2, 1], vec![1, 1], vec![]).is_err());
    let there = |there| vec![Tensor::scalar(there)];
    let sequence = Value::Sequence(vec![row(vec![1f32])]);
    assert_eq!(of(types[1], &[1, 1], vec![1], there(true)), Ok(sequence));
    assert_eq!(of(types[1], &[0, 1], vec![], there(true)), Ok(Value::Sequence(vec![])));
    assert_eq!(of(types[1], &[0, 1], vec![], there(false)), Ok(Value::Absent));
    assert!(of(types[1], &[1, 1], vec![1], there(false)).is_err());
}

#[test]
fn values_of_other_types_than_the_declared_are_refused() {
    let sequence = ValueType::Sequence(DType::F32);
    let why = |value: Value, declared| value.to_parts(declared).unwrap_err();
    let tensor = Value::Tensor(row(vec![1f32]));
    assert_eq!(
        why(tensor.clone(), sequence),
        "the model declares seq(tensor(float)), and it is a tensor"
    );
    let wrong = Value::Sequence(vec![row(vec![1i64])]);
    assert_eq!(why(wrong, sequence), "its tensors are i64, and the model declares f32");
    assert!(why(Value::Absent, sequence).contains("absent"));
    let keys = ValueType::Map(DType::I64, DType::F32);
    assert_eq!(
        why(Value::Map(map(&["a"], &[1.0])), keys),
        "the model declares map(int64, float), and its keys are string, not i64"
    );
    let doubles = ValueType::Map(DType::String, DType::F64);
    assert_eq!(
        why(Value::Map(map(&["a"], &[1.0])), doubles),
        "the model declares map(string, double), and its values are f32, not f64"
    );
    let double = ValueType::OptionalTensor(DType::F64);
    assert!(why(tensor, double).contains("f32"));
}

#[test]
fn keys_of_a_map_differ_and_are_integers_or_strings() {
    let why = |keys, values| Map::new(keys, values).unwrap_err().to_string();
    assert!(why(texts(&["a", "a"]), row(vec![1f32, 2.0])).contains("the same"));
    assert!(why(row(vec![7i64, 7]), row(vec![1f32, 2.0])).contains("the same"));
    assert!(why(row(vec![1f32]), row(vec![1f32])).contains("neither"));
    assert!(why(texts(&["a"]), row(vec![1f32, 2.0])).contains("same length"));
    assert!(why(Tensor::scalar(1i64), Tensor::scalar(1i64)).contains("same length"));
}

#[test]
fn hostile_parts_are_refused() {
    let sequence = |elements: usize, shape: &[usize], sizes: Vec<i64>| {
        let parts = vec![row(vec![0f32; elements]), Tensor::new(sizes, shape).unwrap()];
        Value::from_parts(ValueType::Sequence(DType::F32), parts)
    };
    assert!(sequence(6, &[2, 2], vec![2, 2, 1, 2]).is_ok());
    // Too few elements, too many, and sizes that overflow or are negative.
    assert!(sequence(5, &[2, 2], vec![2, 2, 1, 2]).is_err());
    assert!(sequence(7, &[2, 2], vec![2, 2, 1, 2]).is_err());
    assert!(sequence(1, &[1, 2], vec![i64::MAX, i64::MAX]).is_err());
    assert!(sequence(1, &[1, 1], vec![-2]).is_err());
    assert!(sequence(1, &[1, 2], vec![-1, 1]).is_err());
    // Rows without sizes take no bytes.
    assert!(sequence(0, &[usize::MAX, 0], vec![]).is_err());
    assert!(sequence(3, &[3, 0], vec![]).is_ok());
    assert!(sequence(0, &[1 << 40, 0], vec![]).is_err());
    // Tensors without elements do take bytes, but more memory than bytes.
    let many = (1 << 20) + 1;
    assert!(sequence(0, &[many, 1], vec![0; many]).is_err());
    let maps = |keys: &[i64], values: usize, lengths: Vec<i64>| {
        let parts = vec![row(keys.to_vec()), row(vec![0f32; values]), row(lengths)];
        Value::from_parts(ValueType::SequenceOfMaps(DType::I64, DType::F32), parts)
    };
    assert!(maps(&[1, 2, 1], 3, vec![2, 1]).is_ok());
    assert!(maps(&[1, 2, 1], 2, vec![2, 1]).is_err());
    assert!(maps(&[1, 2, 1], 3, vec![2]).is_err());
    assert!(maps(&[1, 2, 1], 3, vec![2, 2]).is_err());
    assert!(maps(&[1, 2, 1], 3, vec![4, -1]).is_err());
    assert!(maps(&[1, 2, 1], 3, vec![i64::MAX, i64::MAX]).is_err());
    assert!(maps(&[1, 1], 2, vec![2]).is_err());
    assert!(maps(&[], 0, vec![0; many]).is_err());
    for declared in [ValueType::Map(DType::I64, DType::F32), ValueType::OptionalTensor(DType::F32)]
    {
        assert!(Value::from_parts(declared, vec![]).is_err());
    }
}

#[test]
fn the_length_of_a_sequence_of_arrays_is_one_integer_and_their_number() {
    let read = |length: Tensor| {
        let scalar = |at: usize| (format!("s.{at}"), Tensor::scalar(1f32));
        let mut arrays = vec![scalar(0), scalar(1), ("s.length".to_owned(), length)];
        take_value("s", ValueType::Sequence(DType::F32), &mut arrays).map_err(|err| err.to_string())
    };
    assert!(
        matches!(read(Tensor::scalar(2i64)), Ok(Some(Value::Sequence(found))) if found.len() == 2)
    );
    assert!(read(Tensor::scalar(5i64)).unwrap_err().contains("s.length is 5, but the file has 2"));
    assert!(read(Tensor::scalar(-1i64)).unwrap_err().contains("s.length is -1"));
    assert!(
        read(Tensor::scalar(2i32)).unwrap_err().contains("s.length is i32 [], expected one i64")
    );
    assert!(read(row(vec![1i64, 1])).unwrap_err().contains("s.length is i64 [2]"));
}
