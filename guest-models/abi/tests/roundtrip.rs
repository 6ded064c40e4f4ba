//! Every message that is encoded decodes to what it was made from, and nothing else decodes.

use belljar_abi::picture::{Channels, Layout, PictureOptions, Resize, decode_picture};
use belljar_abi::{
    ALIGN, DType, Description, Dim, ExternalData, FunctionInfo, GuestErrorCode, InputShape,
    MAX_ERROR_TEXT, MAX_LIST, MAX_NAME, MAX_OPEN_DIMS, MAX_RANK, MAX_TENSORS, MAX_UNDECIDED,
    Missing, OpenDim, OperatorCount, OpsetImport, Preparation, Reply, Run, SizeRange, TensorView,
    Undecided, ValueInfo, ValueType, decode_reply, decode_run, decode_shapes, decode_tensors,
    element_count, encode_error, encode_ok, encode_run, encode_shapes, encode_tensors, encoded_len,
    fixed_data_len,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// A tensor that owns what a view borrows.
#[derive(Clone, Debug)]
struct Owned {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    data: Vec<u8>,
}

impl Owned {
    fn view(&self) -> TensorView<'_> {
        let Owned { name, dtype, dims, data } = self;
        TensorView { name, dtype: *dtype, dims: dims.clone(), data }
    }
}

fn views(tensors: &[Owned]) -> Vec<TensorView<'_>> {
    tensors.iter().map(Owned::view).collect()
}

fn any_tensor() -> impl Strategy<Value = Owned> {
    (".{0,12}", prop::sample::select(DType::ALL), vec(0u64..4, 0..4)).prop_flat_map(
        |(name, dtype, dims)| {
            let count = element_count(&dims).expect("small") as usize;
            let data = match dtype {
                DType::Bool => vec(0u8..2, count).boxed(),
                DType::String => vec(".{0,5}", count).prop_map(|texts| wire(&texts)).boxed(),
                DType::U4 | DType::I4 | DType::F4E2M1 => vec(0u8..16, count).boxed(),
                DType::U2 | DType::I2 => vec(0u8..4, count).boxed(),
                _ => vec(any::<u8>(), count * dtype.size().expect("fixed")).boxed(),
            };
            data.prop_map(move |data| Owned { name: name.clone(), dtype, dims: dims.clone(), data })
        },
    )
}

fn wire(texts: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn any_shapes() -> impl Strategy<Value = Vec<InputShape>> {
    let shape = (".{0,12}", vec(any::<u64>(), 0..5));
    vec(shape.prop_map(|(name, dims)| InputShape { name, dims }), 0..4)
}

fn any_value() -> impl Strategy<Value = ValueInfo> {
    let dim = prop_oneof![
        any::<u64>().prop_map(Dim::Fixed),
        ".{0,8}".prop_map(Dim::Symbol),
        Just(Dim::Unknown),
    ];
    (".{0,8}", any::<u32>(), prop::option::of(vec(dim, 0..4)), any::<bool>()).prop_map(
        |(name, elem_type, shape, has_default)| ValueInfo {
            name,
            elem_type,
            value_type: ValueType::Tensor,
            shape,
            has_default,
        },
    )
}

prop_compose! {
    fn any_description()(
        numbers in any::<(i64, i64, u64, u64, u64, bool)>(),
        texts in vec(".{0,8}", 5),
        (inputs, outputs) in (vec(any_value(), 0..3), vec(any_value(), 0..3)),
        imports in vec((".{0,8}", any::<i64>()), 0..3),
        counts in vec((".{0,8}", ".{0,8}", any::<u64>()), 0..3),
        metadata in vec((".{0,8}", ".{0,8}"), 0..3),
        external in vec((".{0,8}", ".{0,8}", "[0-9]{0,4}", "[0-9]{0,4}"), 0..3),
    ) -> Description {
        let (ir_version, model_version, nodes, random_nodes, parameters, truncated) = numbers;
        let [producer_name, producer_version, domain, doc_string, graph_name] =
            texts.try_into().expect("five texts");
        let opset_imports = imports
            .into_iter()
            .map(|(domain, version)| OpsetImport { domain, version })
            .collect();
        let operators = counts
            .iter()
            .cloned()
            .map(|(domain, op_type, count)| {
                let refused = format!("no {op_type}");
                OperatorCount { domain, op_type, count, refused }
            })
            .collect();
        let functions = counts
            .into_iter()
            .map(|(domain, name, nodes)| FunctionInfo { domain, name, nodes })
            .collect();
        let external_data = external
            .into_iter()
            .map(|(tensor, location, offset, length)| {
                ExternalData { tensor, location, offset, length }
            })
            .collect();
        Description {
            ir_version, producer_name, producer_version, domain, model_version, doc_string,
            graph_name, inputs, outputs, opset_imports, operators, nodes, random_nodes, parameters,
            metadata, functions, external_data, truncated,
        }
    }
}

fn any_error() -> impl Strategy<Value = (GuestErrorCode, String)> {
    use GuestErrorCode::*;
    (
        prop::sample::select(vec![
            NotOnnx,
            ModelRefused,
            BadInput,
            RunFailed,
            Protocol,
            ShapesRefused,
            PictureTooLarge,
        ]),
        ".{0,40}",
    )
}

fn any_preparation() -> impl Strategy<Value = Preparation> {
    let missing = prop::sample::select(vec![Missing::Values, Missing::Sizes]);
    let undecided = (".{0,8}", ".{0,8}", missing).prop_map(|(node, operator, missing)| Undecided {
        node,
        operator,
        missing,
    });
    let range = (any::<u64>(), any::<u64>(), 1..=u64::MAX).prop_map(|(a, b, step)| SizeRange {
        min: a.min(b),
        max: a.max(b),
        step,
    });
    let sizes = vec(range, 1..4);
    let open = vec((any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>()), 0..4);
    (vec(undecided, 0..4), any::<bool>(), open, sizes).prop_map(|(undecided, more, open, sizes)| {
        let open = open.into_iter().map(|(input, axis, symbol, more)| OpenDim {
            input,
            axis,
            symbol: symbol % sizes.len() as u32,
            more,
        });
        Preparation { undecided, more, open: open.collect(), sizes }
    })
}

/// Some dimensions of these shapes, with one symbol for each size.
fn open_dims(shapes: &[InputShape]) -> Vec<OpenDim> {
    let mut sizes: Vec<u64> = Vec::new();
    let mut open = Vec::new();
    for (input, shape) in shapes.iter().enumerate() {
        for (axis, size) in shape.dims.iter().enumerate().step_by(2) {
            let symbol = sizes.iter().position(|other| other == size).unwrap_or_else(|| {
                sizes.push(*size);
                sizes.len() - 1
            });
            let (input, axis, symbol) = (input as u32, axis as u32, symbol as u32);
            // One dimension is given as its size and nothing, the others as 1 and the rest.
            let more = if axis == 0 { 0 } else { size.saturating_sub(1) };
            let symbol = 2 * symbol + u32::from(axis != 0);
            open.push(OpenDim { input, axis, symbol, more });
        }
    }
    open
}

/// A valid message of any kind.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(encode_ok()),
        any_error().prop_map(|(code, text)| encode_error(code, &text)),
        any_description().prop_map(|description| description.encode()),
        any_preparation().prop_map(|preparation| preparation.encode()),
        vec(any_tensor(), 0..4).prop_map(|tensors| encode_tensors(&views(&tensors))),
        (any::<u32>(), vec(any_tensor(), 0..4))
            .prop_map(|(seed, tensors)| encode_run(seed, &views(&tensors))),
        (any_shapes(), vec(any_tensor(), 0..2)).prop_map(|(shapes, fixed)| encode_shapes(
            &shapes,
            &[],
            &views(&fixed)
        )),
    ]
}

/// Decodes by every decoder; whatever a decoder lets through must hold what it promises.
fn accepted(bytes: &[u8]) -> bool {
    let reply = decode_reply(bytes);
    if let Ok(Reply::Tensors(tensors)) = &reply {
        tensors.iter().for_each(check);
    }
    if let Ok(Reply::Error(error)) = &reply {
        assert!(error.text.len() <= MAX_ERROR_TEXT);
    }
    let tensors = decode_tensors(bytes);
    tensors.iter().flatten().for_each(check);
    let run = decode_run(bytes);
    run.iter().flat_map(|run| &run.inputs).for_each(check);
    reply.is_ok() || tensors.is_ok() || run.is_ok() || decode_shapes(bytes).is_ok()
}

fn check(view: &TensorView<'_>) {
    assert!(view.dims.len() <= MAX_RANK && view.name.len() <= MAX_NAME);
    let count = element_count(&view.dims).expect("a decoded shape does not overflow");
    match view.dtype.size() {
        Some(size) => {
            assert_eq!(view.data.len() as u64, count * size as u64);
            assert_eq!(fixed_data_len(view.dtype, &view.dims), Some(view.data.len() as u64));
            assert_eq!(view.strings().count(), 0);
        }
        None => {
            assert_eq!(view.strings().count() as u64, count);
            let len: usize = view.strings().map(|text| 4 + text.len()).sum();
            assert_eq!(len, view.data.len());
        }
    }
    if view.dtype == DType::Bool {
        assert!(view.data.iter().all(|byte| *byte < 2));
    }
}

/// Where the padding before each tensor's data lies in the message of these tensors.
fn paddings(tensors: &[Owned]) -> Vec<std::ops::Range<usize>> {
    let mut at = 12;
    let padding = |tensor: &Owned| {
        let start = at + 4 + tensor.name.len() + 4 + 4 + 8 * tensor.dims.len() + 8;
        let end = start.next_multiple_of(ALIGN);
        at = end + tensor.data.len();
        start..end
    };
    tensors.iter().map(padding).collect()
}

proptest! {
    #[test]
    fn tensors_round_trip(tensors in vec(any_tensor(), 0..5)) {
        let views = views(&tensors);
        let bytes = encode_tensors(&views);
        prop_assert!(bytes.len() <= encoded_len(&views));
        prop_assert_eq!(&decode_tensors(&bytes).unwrap(), &views);
        match decode_reply(&bytes) {
            Ok(Reply::Tensors(decoded)) => prop_assert_eq!(&decoded, &views),
            other => prop_assert!(false, "{:?}", other),
        }
        for (padding, view) in paddings(&tensors).iter().zip(&views) {
            prop_assert!(bytes[padding.end..].starts_with(view.data));
        }
    }

    #[test]
    fn runs_round_trip(seed in any::<u32>(), tensors in vec(any_tensor(), 0..5)) {
        let inputs = views(&tensors);
        let bytes = encode_run(seed, &inputs);
        prop_assert_eq!(decode_run(&bytes), Ok(Run { seed, inputs }));
        // A run is a question, never an answer.
        prop_assert!(decode_reply(&bytes).is_err() && decode_tensors(&bytes).is_err());
    }

    #[test]
    fn shapes_round_trip(shapes in any_shapes(), fixed in vec(any_tensor(), 0..3)) {
        let fixed = views(&fixed);
        let open = open_dims(&shapes);
        let bytes = encode_shapes(&shapes, &open, &fixed);
        let decoded = decode_shapes(&bytes).unwrap();
        prop_assert_eq!((decoded.shapes, decoded.open, decoded.fixed), (shapes, open, fixed));
        // Shapes are a question, never an answer.
        prop_assert!(decode_reply(&bytes).is_err());
    }

    #[test]
    fn open_dimensions_that_the_shapes_do_not_have_are_refused(
        shapes in any_shapes(), input in 0u32..6, axis in 0u32..6, symbol in 0u32..300,
    ) {
        let exists = shapes.get(input as usize).is_some_and(|s| (axis as usize) < s.dims.len());
        let bytes = encode_shapes(&shapes, &[OpenDim { input, axis, symbol, more: 0 }], &[]);
        let valid = exists && (symbol as usize) < MAX_OPEN_DIMS;
        prop_assert_eq!(decode_shapes(&bytes).is_ok(), valid);
    }

    #[test]
    fn descriptions_round_trip(description in any_description()) {
        match decode_reply(&description.encode()) {
            Ok(Reply::Description(decoded)) => prop_assert_eq!(decoded, description),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn preparations_round_trip(preparation in any_preparation()) {
        match decode_reply(&preparation.encode()) {
            Ok(Reply::Prepared(decoded)) => prop_assert_eq!(decoded, preparation),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn errors_round_trip((code, text) in any_error()) {
        match decode_reply(&encode_error(code, &text)) {
            Ok(Reply::Error(error)) => prop_assert_eq!((error.code, error.text), (code, text)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn truncated_or_extended_messages_are_errors(mut bytes in any_message(), more in any::<u8>()) {
        prop_assert!(accepted(&bytes));
        for len in 0..bytes.len() {
            prop_assert!(!accepted(&bytes[..len]), "cut to {}", len);
        }
        bytes.push(more);
        prop_assert!(!accepted(&bytes));
    }

    #[test]
    fn padding_must_be_zero(
        tensors in vec(any_tensor(), 1..4),
        at in any::<prop::sample::Index>(),
        value in 1u8..,
    ) {
        let mut bytes = encode_tensors(&views(&tensors));
        let padding: Vec<usize> = paddings(&tensors).into_iter().flatten().collect();
        prop_assume!(!padding.is_empty());
        bytes[padding[at.index(padding.len())]] = value;
        prop_assert!(!accepted(&bytes));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        accepted(&bytes);
    }

    #[test]
    fn arbitrary_bytes_after_a_valid_header_do_not_panic(
        kind in 0u32..11,
        bytes in vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>()], 0..300),
    ) {
        let mut message = encode_ok()[..4].to_vec();
        message.extend_from_slice(&kind.to_le_bytes());
        message.extend_from_slice(&bytes);
        accepted(&message);
    }

    #[test]
    fn mutated_messages_do_not_panic(
        mut bytes in any_message(),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        words in vec((any::<prop::sample::Index>(), any::<u32>()), 0..3),
    ) {
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Lengths and counts are words: hit them whole, too.
        for (at, value) in words {
            let at = at.index(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        accepted(&bytes);
    }
}

#[test]
fn ok_round_trips() {
    assert!(matches!(decode_reply(&encode_ok()), Ok(Reply::Ok)));
    assert!(decode_tensors(&encode_ok()).is_err());
    assert!(decode_shapes(&encode_ok()).is_err());
}

#[test]
fn long_texts_are_truncated_at_a_character_boundary() {
    let text = "é".repeat(MAX_ERROR_TEXT);
    match decode_reply(&encode_error(GuestErrorCode::RunFailed, &text[..])) {
        Ok(Reply::Error(error)) => assert_eq!(error.text.len(), MAX_ERROR_TEXT),
        other => panic!("{other:?}"),
    }
    let description = Description {
        graph_name: format!("x{text}"),
        metadata: vec![(text.clone(), text); MAX_LIST + 1],
        ..Description::default()
    };
    match decode_reply(&description.encode()) {
        Ok(Reply::Description(decoded)) => {
            assert!(decoded.truncated);
            assert_eq!(decoded.metadata.len(), MAX_LIST);
            assert_eq!(decoded.graph_name.len() % 2, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_preparation_names_no_more_nodes_than_its_bound() {
    let undecided =
        Undecided { node: "é".repeat(200), operator: "Gather".into(), missing: Missing::Values };
    let long = Preparation {
        undecided: vec![undecided; MAX_UNDECIDED + 1],
        more: false,
        ..Preparation::default()
    };
    match decode_reply(&long.encode()) {
        Ok(Reply::Prepared(decoded)) => {
            assert!(decoded.more);
            assert_eq!(decoded.undecided.len(), MAX_UNDECIDED);
            assert_eq!(decoded.undecided[0].node.len(), 256);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn image_options_and_the_file_after_them_round_trip() {
    let options = PictureOptions {
        dtype: DType::F16,
        layout: Layout::Hwc,
        channels: Channels::Bgr,
        upright: true,
        resize: Some(Resize::Cover(640, 480)),
        crop: Some((32, 1)),
        scale: 1.0 / 255.0,
        mean: [0.5, -1.0, f64::MAX],
        std: [1.0, 2.0, 3.0],
        room: u64::MAX,
    };
    let resizes =
        [None, Some(Resize::Stretch(1, 65_535)), Some(Resize::Shorter(7)), options.resize];
    for (resize, file) in resizes.into_iter().zip([&b""[..], b"\x89PNG", b"\0", &[7; 500]]) {
        let options = PictureOptions { resize, ..options };
        let mut message = options.start_message();
        let start = message.len();
        message.extend_from_slice(file);
        assert_eq!(decode_picture(&message), Ok((options, file)));
        // Nothing shorter is a message, and no other value of a field with few of them.
        assert!((0..start).all(|cut| decode_picture(&message[..cut]).is_err()));
        for (at, value) in [(4, 4), (8, 0), (12, 5), (16, 3), (20, 2), (24, 4)] {
            let mut changed = message.clone();
            changed[at] = value;
            assert!(decode_picture(&changed).is_err(), "{at}");
        }
    }
    for (resize, crop) in [(Some(Resize::Stretch(0, 5)), None), (None, Some((0, 5)))] {
        let message = PictureOptions { resize, crop, ..options }.start_message();
        assert!(decode_picture(&message).is_err());
    }
}

#[test]
fn bounds_hold() {
    let name = "n".repeat(MAX_NAME);
    let tensor = |name: &str, rank: usize| Owned {
        name: name.into(),
        dtype: DType::U8,
        dims: vec![1; rank],
        data: vec![7],
    };
    let encoded = |tensor: Owned| encode_tensors(&[tensor.view()]);
    assert!(decode_tensors(&encoded(tensor(&name, MAX_RANK))).is_ok());
    assert!(decode_tensors(&encoded(tensor(&name, MAX_RANK + 1))).is_err());
    assert!(decode_tensors(&encoded(tensor(&format!("{name}n"), 1))).is_err());
    let many = vec![tensor("x", 0); MAX_TENSORS + 1];
    assert!(decode_tensors(&encode_tensors(&views(&many[1..]))).is_ok());
    assert!(decode_tensors(&encode_tensors(&views(&many))).is_err());
}

#[test]
fn lengths_must_match_shapes() {
    let refused = |dtype, dims: &[u64], data: &[u8]| {
        let view = TensorView { name: "x", dtype, dims: dims.to_vec(), data };
        assert!(decode_tensors(&encode_tensors(&[view])).is_err(), "{dtype} {dims:?} {data:?}");
    };
    refused(DType::F32, &[2], &[0; 4]);
    refused(DType::F32, &[2], &[0; 12]);
    refused(DType::F32, &[0], &[0; 4]);
    refused(DType::U8, &[1 << 32, 1 << 32], &[]);
    refused(DType::U64, &[1 << 61], &[]);
    refused(DType::Bool, &[1], &[2]);
    refused(DType::String, &[1], &[]);
    refused(DType::String, &[u64::MAX], &[]);
    refused(DType::String, &[0], &[0, 0, 0, 0]);
    refused(DType::String, &[1], &[1, 0, 0, 0]);
    refused(DType::String, &[1], &[1, 0, 0, 0, 0xff]);
    refused(DType::String, &[1], &[0xff, 0xff, 0xff, 0xff, b'x']);
    // A zero makes a tensor empty, whatever its other sizes are.
    assert_eq!(element_count(&[u64::MAX, u64::MAX, 0]), Some(0));
    assert_eq!(element_count(&[u64::MAX, 2]), None);
    assert_eq!(element_count(&[]), Some(1));
    assert_eq!(fixed_data_len(DType::String, &[1]), None);
}

#[test]
fn every_type_is_found_by_its_number() {
    for dtype in DType::ALL {
        assert_eq!(DType::from_onnx(dtype.to_onnx()), Some(*dtype));
        assert_eq!(DType::onnx_name(dtype.to_onnx()), dtype.name());
        assert_eq!(dtype.to_string(), dtype.name());
    }
    assert_eq!(DType::from_onnx(0), None);
    assert_eq!(DType::from_onnx(14), None);
    assert_eq!(DType::onnx_name(14), "complex64");
}

#[test]
fn unequal_sizes_of_one_symbol_and_empty_ranges_are_refused() {
    let shape = InputShape { name: "x".into(), dims: vec![2, 3] };
    let open = |axis, symbol| OpenDim { input: 0, axis, symbol, more: 0 };
    let larger = |axis, more| OpenDim { input: 0, axis, symbol: 0, more };
    assert!(
        decode_shapes(&encode_shapes(std::slice::from_ref(&shape), &[open(0, 0), open(1, 1)], &[]))
            .is_ok()
    );
    let decodes = |open: &[OpenDim]| {
        decode_shapes(&encode_shapes(std::slice::from_ref(&shape), open, &[])).is_ok()
    };
    assert!(!decodes(&[open(0, 0), open(1, 0)]));
    assert!(decodes(&[larger(0, 0), larger(1, 1)]) && decodes(&[larger(0, 2), larger(1, 3)]));
    assert!(!decodes(&[larger(0, 0), larger(1, 2)]) && !decodes(&[larger(0, 3)]));
    let reply = |range| {
        let sizes = vec![range];
        decode_reply(&Preparation { sizes, ..Preparation::default() }.encode()).is_ok()
    };
    assert!(reply(SizeRange { min: 1, max: 1, step: 1 }));
    assert!(!reply(SizeRange { min: 2, max: 1, step: 1 }));
    assert!(!reply(SizeRange { min: 1, max: 2, step: 0 }));
    let unknown = Preparation { open: vec![open(0, 0)], ..Preparation::default() };
    assert!(decode_reply(&unknown.encode()).is_err());
}
