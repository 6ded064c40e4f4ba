//! Tests of npy files.

use proptest::prelude::*;

use super::super::npy::{read, read_as, write};
use super::{
    AMPLE, DType, Data, Tensor, TensorError, any_tensor, assert_malformed, assert_same, bf16, f16,
};

/// A version 1.0 file with this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn dict(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

fn read_file(descr: &str, shape: &str, data: &[u8]) -> Result<Tensor, TensorError> {
    read(file(&dict(descr, shape), data).as_slice(), AMPLE)
}

fn written(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(tensor, &mut bytes).expect("writing to memory");
    bytes
}

#[test]
fn output_is_identical_to_numpy() {
    let tensor = Tensor::new(vec![1i16, -2, 3], &[1, 3]).unwrap();
    let mut expected = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (1, 3), }";
    expected.extend_from_slice(format!("{header:<117}\n").as_bytes());
    expected.extend_from_slice(&[1, 0, 0xfe, 0xff, 3, 0]);
    assert_eq!(written(&tensor), expected);
}

#[test]
fn reads_every_descr() {
    let cases: [(&str, &[u8], Data); 17] = [
        ("|b1", &[1, 0], vec![true, false].into()),
        ("|i1", &[255, 1], vec![-1i8, 1].into()),
        ("|u1", &[255, 1], vec![255u8, 1].into()),
        ("<u1", &[255, 1], vec![255u8, 1].into()),
        ("<i2", &[1, 2, 0, 0], vec![0x0201i16, 0].into()),
        (">i2", &[1, 2, 0, 0], vec![0x0102i16, 0].into()),
        ("<u2", &[1, 2, 0, 0], vec![0x0201u16, 0].into()),
        (">u2", &[1, 2, 0, 0], vec![0x0102u16, 0].into()),
        (">i4", &[0, 0, 0, 1, 0, 0, 0, 2], vec![1i32, 2].into()),
        ("<u4", &[1, 0, 0, 0, 2, 0, 0, 0], vec![1u32, 2].into()),
        ("<f2", &[0, 0x3c, 0, 0xc0], vec![f16::ONE, f16::from_f32(-2.0)].into()),
        (">f4", &[0x3f, 0x80, 0, 0, 0x80, 0, 0, 0], vec![1f32, -0.0].into()),
        ("|S3", b"ab\0\0b\0", vec!["ab".to_owned(), "\0b".to_owned()].into()),
        ("<U1", &[0xe9, 0, 0, 0, 0, 0, 0, 0], vec!["é".to_owned(), String::new()].into()),
        (">U1", &[0, 1, 0xf6, 0, 0, 0, 0, 65], vec!["😀".to_owned(), "A".to_owned()].into()),
        ("<f8", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0], vec![1f64, 0.0].into()),
        (">u8", &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 0], vec![9u64, 256].into()),
    ];
    for (descr, bytes, expected) in cases {
        let tensor = read_file(descr, "(2,)", bytes).expect(descr);
        assert_same(&tensor, &Tensor::new(expected, &[2]).unwrap());
    }
}

#[test]
fn unsupported_types_are_refused_by_name() {
    for (descr, says) in [
        ("|O", "pickle"),
        ("O", "pickle"),
        ("<c8", "complex"),
        ("<M8[ns]", "dates"),
        ("<m8", "dates"),
        ("|V16", "bfloat16"),
        ("<f16", "long double"),
    ] {
        let error = read_file(descr, "()", &[0; 16]).expect_err(descr);
        assert!(matches!(error, TensorError::Unsupported { .. }), "{descr}: {error:?}");
        assert!(error.to_string().contains(says), "{descr}: {error}");
    }
    let records = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}";
    let error = read(file(records, &[0; 4]).as_slice(), AMPLE).expect_err("records");
    assert!(error.to_string().contains("records"), "{error}");
}

/// numpy has no names for the types of ml_dtypes: only the caller knows the type of such bytes.
#[test]
fn raw_bytes_have_the_requested_type() {
    let read = |descr: &str, dtype, bytes: &[u8]| {
        let header = dict(descr, "(2,)");
        read_as(file(&header, bytes).as_slice(), dtype, AMPLE)
    };
    let brain = read("<V2", Some(DType::BF16), &[0x80, 0x3f, 0, 0xc0]).unwrap();
    let expected = [bf16::from_f32(1.0), bf16::from_f32(-2.0)];
    assert_eq!(brain.as_slice::<bf16>(), Some(expected.as_slice()));
    for (descr, dtype) in [
        ("|V1", DType::I4),
        ("<V1", DType::F8E4M3FN),
        // numpy writes float8e5m2 this way, and refuses to read it.
        ("<f1", DType::F8E5M2),
    ] {
        let tensor = read(descr, Some(dtype), &[15, 1]).unwrap();
        let Data::Coded(coded) = tensor.data() else { panic!("{tensor:?}") };
        assert_eq!((coded.dtype(), coded.codes()), (dtype, [15, 1].as_slice()));
    }
    assert_malformed(read("<V1", Some(DType::I4), &[16, 1]), "not a valid i4");
    for asked in [None, Some(DType::F32), Some(DType::U8), Some(DType::BF16)] {
        let error = read("<V1", asked, &[0, 0]).unwrap_err();
        assert!(matches!(error, TensorError::Unsupported { .. }), "{asked:?}: {error:?}");
    }
    // A type with a name keeps it, whatever type is requested.
    assert_eq!(read("|u1", Some(DType::U4), &[1, 2]).unwrap().dtype(), DType::U8);
}

#[test]
fn refuses_descrs_numpy_does_not_write() {
    for descr in
        ["", "f4", "=f4", "|f4", "<f", "<f3", "<f04", "<f+4", "<f4 ", "<x4", "<b2", "<S4", "|U4"]
    {
        let result = read_file(descr, "()", &[0; 4]);
        if descr == "<S4" {
            assert!(result.is_ok(), "the order of bytes does not matter");
        } else {
            assert_malformed(result, "dtype");
        }
    }
    assert_malformed(read_file("<f99999999999999999999999", "()", &[]), "dtype");
}

#[test]
fn accepts_keys_in_any_order_and_spacing() {
    for header in [
        "{'shape':(2,),'fortran_order':False,'descr':'|u1'}",
        "  { \"fortran_order\" : True ,\n 'shape' : ( 2 , ) , 'descr' : \"|u1\" , }   \n",
    ] {
        let tensor = read(file(header, &[1, 2]).as_slice(), AMPLE).expect(header);
        assert_eq!(tensor.as_slice::<u8>(), Some([1, 2].as_slice()));
    }
}

#[test]
fn malformed_headers_are_refused() {
    let entry = "'descr': '|u1', 'fortran_order': False, 'shape': ()";
    for (header, says) in [
        (String::new(), "missing '{'"),
        ("{}".into(), "no \"descr\""),
        (format!("{{{entry}"), "missing '}'"),
        (format!("{{{entry}}}x"), "closing brace"),
        (format!("{{{entry}}}{{}}"), "closing brace"),
        (format!("{{{entry}, 'shape': ()}}"), "duplicate key \"shape\""),
        (format!("{{{entry}, 'more': ()}}"), "unknown key"),
        (format!("{{{entry},,}}"), "missing string"),
        ("{'descr': '|u1', 'shape': ()}".into(), "no \"fortran_order\""),
        ("{'descr': '|u1', 'fortran_order': 0, 'shape': ()}".into(), "expected True or False"),
        ("{'descr': '|u\\x31', 'fortran_order': False, 'shape': ()}".into(), "non-ASCII"),
        ("{'descr': '|u1".into(), "unclosed"),
        ("{'descr': 'é', 'fortran_order': False, 'shape': ()}".into(), "non-ASCII"),
    ] {
        assert_malformed(read(file(&header, &[0]).as_slice(), AMPLE), says);
    }
}

#[test]
fn malformed_shapes_are_refused() {
    for (shape, says) in [
        ("(3)", "without a comma"),
        ("3", "missing '('"),
        ("[3]", "missing '('"),
        ("(,)", "missing dimension"),
        ("(3,,)", "missing dimension"),
        ("(-1,)", "negative"),
        ("(+1,)", "missing dimension"),
        ("(1.0,)", "without a comma"),
        ("(3L)", "without a comma"),
        ("(3LL,)", "without a comma"),
        ("(3 L,)", "without a comma"),
        ("(3l,)", "without a comma"),
        ("(L,)", "missing dimension"),
        ("(0x3,)", "without a comma"),
        ("(03,)", "leading zero"),
        ("(18446744073709551616,)", "64 bits"),
        ("(99999999999999999999999999999999999999999,)", "64 bits"),
        ("((3,),)", "missing dimension"),
    ] {
        assert_malformed(read_file("|u1", shape, &[0; 3]), says);
    }
    let nested = format!("{}3", "(".repeat(60_000));
    assert_malformed(read_file("|u1", &nested, &[]), "missing dimension");
    let many = format!("({})", "1,".repeat(33));
    assert!(matches!(read_file("|u1", &many, &[0]), Err(TensorError::Shape { .. })));
    for shape in ["(4294967296, 4294967296)", "(18446744073709551615, 2)"] {
        assert!(matches!(read_file("|u1", shape, &[]), Err(TensorError::Shape { .. })));
    }
    let wide = read_file("<f8", "(9223372036854775807,)", &[]);
    assert!(matches!(wide, Err(TensorError::Shape { .. })));
    let wide = read_file("<U9223372036854775807", "(1,)", &[]);
    assert!(matches!(wide, Err(TensorError::Shape { .. })));
}

#[test]
fn long_integers_of_python_2() {
    let expected = Tensor::new(vec![1u8, 2, 3], &[3, 1]).unwrap();
    assert_eq!(read_file("|u1", "(3L, 1L)", &[1, 2, 3]).unwrap(), expected);
    assert_eq!(read_file("|u1", "(3L, 1L,)", &[1, 2, 3]).unwrap(), expected);
}

#[test]
fn scalars_and_empty_arrays() {
    assert_eq!(read_file("<i2", "()", &[7, 0]).unwrap(), Tensor::scalar(7i16));
    for shape in ["(0,)", "(0, 3)", "(18446744073709551615, 0, 18446744073709551615)"] {
        assert_eq!(read_file("<f4", shape, &[]).expect(shape).len(), 0);
    }
    assert_malformed(read_file("<f4", "(0,)", &[0]), "extra bytes");
    // Elements without bytes could be claimed in any number.
    assert_malformed(read_file("<U0", "(3,)", &[]), "zero width");
    assert_eq!(read_file("|S0", "(0,)", &[]).unwrap().len(), 0);
}

#[test]
fn memory_grows_only_with_real_data() {
    // Even without a limit, only bytes that exist may cost memory.
    for (descr, shape) in [
        ("<f8", "(1152921504606846975,)"),
        ("|u1", "(9223372036854775807,)"),
        ("|S1", "(9999999999999,)"),
        ("|S999999999999", "(3,)"),
    ] {
        let bytes = file(&dict(descr, shape), &[1; 100]);
        assert_malformed(read(bytes.as_slice(), u64::MAX), "the data ends after");
        assert!(matches!(read(bytes.as_slice(), AMPLE), Err(TensorError::TooLarge { .. })));
    }
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_malformed(read(long.as_slice(), AMPLE), "above the maximum");
}

#[test]
fn the_limit_is_exact() {
    let bytes = file(&dict("<f4", "(5, 2)"), &[0; 40]);
    assert!(read(bytes.as_slice(), 40).is_ok());
    assert!(matches!(read(bytes.as_slice(), 39), Err(TensorError::TooLarge { limit: 39, .. })));
    // Short strings take more memory than space in the file.
    let bytes = file(&dict("|S1", "(10,)"), &[b'x'; 10]);
    assert!(read(bytes.as_slice(), 240).is_ok());
    assert!(matches!(read(bytes.as_slice(), 239), Err(TensorError::TooLarge { .. })));
}

#[test]
fn versions() {
    let header = dict("|u1", "(1,)");
    for major in [2, 3] {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', major, 0];
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.push(9);
        assert_eq!(read(bytes.as_slice(), AMPLE).unwrap().as_slice(), Some([9u8].as_slice()));
    }
    for version in [[0, 0], [1, 1], [4, 0], [9, 0]] {
        let mut bytes = file(&header, &[9]);
        bytes[6..8].copy_from_slice(&version);
        let result = read(bytes.as_slice(), AMPLE);
        assert!(matches!(result, Err(TensorError::Unsupported { .. })), "{version:?}");
    }
    let mut bytes = file(&header, &[9]);
    bytes[0] = b'P';
    assert_malformed(read(bytes.as_slice(), AMPLE), "magic");
}

#[test]
fn invalid_elements_are_refused() {
    assert_malformed(read_file("|b1", "(2,)", &[1, 2]), "not 0 or 1");
    assert_malformed(read_file("|S2", "(1,)", &[0xc3, 0x28]), "string 0");
    assert_malformed(read_file("<U1", "(2,)", &[65, 0, 0, 0, 0, 0xd8, 0, 0]), "string 1");
    assert_malformed(read_file("<U1", "(1,)", &[0, 0, 0x11, 0]), "string 0");
}

#[test]
fn fortran_order_becomes_row_major() {
    let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 2), }";
    // Element (i, j, k) has the value 100 i + 10 j + k.
    let stored = [0, 100, 10, 110, 20, 120, 1, 101, 11, 111, 21, 121];
    let tensor = read(file(header, &stored).as_slice(), AMPLE).unwrap();
    let expected = [0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121];
    assert_eq!(tensor.as_slice::<u8>(), Some(expected.as_slice()));

    let header = "{'descr': '|S1', 'fortran_order': True, 'shape': (2, 2), }";
    let tensor = read(file(header, b"acbd").as_slice(), AMPLE).unwrap();
    let expected = ["a", "b", "c", "d"].map(String::from);
    assert_eq!(tensor.as_slice::<String>(), Some(expected.as_slice()));
}

#[test]
fn strings_that_npy_cannot_keep_are_not_written() {
    let nul = Tensor::new(vec!["a\0".to_owned()], &[1]).unwrap();
    assert!(matches!(write(&nul, Vec::new()), Err(TensorError::Unsupported { .. })));
    let mut strings = vec![String::new(); 1 << 14];
    strings[0] = "x".repeat(1 << 15);
    let wide = Tensor::new(strings, &[1 << 14]).unwrap();
    assert!(matches!(write(&wide, std::io::sink()), Err(TensorError::TooLarge { .. })));
}

#[test]
fn more_than_one_chunk() {
    let count = 300_000usize;
    let values: Vec<u32> = (0..count as u32).collect();
    let tensor = Tensor::new(values, &[count]).unwrap();
    let mut bytes = written(&tensor);
    assert_same(&read(bytes.as_slice(), 4 * count as u64).unwrap(), &tensor);
    bytes.pop();
    assert_malformed(read(bytes.as_slice(), 4 * count as u64), "after 299999 of 300000 elements");
}

proptest! {
    #[test]
    fn written_tensors_read_back(tensor in any_tensor()) {
        let bytes = written(&tensor);
        let read = read_as(bytes.as_slice(), Some(tensor.dtype()), AMPLE);
        assert_same(&read.expect("our own file"), &tensor);
    }

    #[test]
    fn cut_or_extended_files_are_refused(tensor in any_tensor()) {
        let mut bytes = written(&tensor);
        for len in 0..bytes.len() {
            let result = read_as(&bytes[..len], Some(tensor.dtype()), AMPLE);
            prop_assert!(matches!(result, Err(TensorError::Malformed { .. })), "{}", len);
        }
        bytes.push(0);
        assert_malformed(read_as(bytes.as_slice(), Some(tensor.dtype()), AMPLE), "extra bytes");
    }

    #[test]
    fn mutated_files_do_not_panic(
        tensor in any_tensor(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(&tensor);
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read_as(bytes.as_slice(), Some(tensor.dtype()), AMPLE);
    }

    #[test]
    fn arbitrary_headers_do_not_panic(header in "[{}()'a-zA-Z:, 0-9|<>_\\[\\]-]{0,80}") {
        let _ = read(file(&header, &[0; 8]).as_slice(), AMPLE);
        let _ = read_file(&header, "()", &[0; 8]);
        let _ = read_file("|u1", &header, &[0; 8]);
    }
}
