//! One declaration of a model: how it reads in messages, and how a tensor or a shape differs from
//! it.

use belljar_abi::{DType, Dim, ValueInfo};

use super::Symbols;
use belljar_tensor::Tensor;

/// A declaration in readable form: `image: f32 [batch, 3, 224, 224]`.
pub(in crate::model) fn declaration(value: &ValueInfo) -> String {
    let dtype = value.type_name();
    let Some(dims) = &value.shape else { return format!("{}: {dtype}", value.name) };
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("{}: {dtype} [{}]", value.name, dims.join(", "))
}

/// The error for a declaration without a supported element type.
pub(super) fn no_type(declared: &ValueInfo) -> String {
    match declared.elem_type {
        0 => "the model does not declare it as a tensor with an element type, which is not \
              supported"
            .into(),
        other => {
            let name = DType::onnx_name(other);
            format!("the model declares it as {name}, which is not supported")
        }
    }
}

/// How to convert an input to the declared type; empty if it has the declared type.
pub(super) fn to_convert(declared: &ValueInfo, tensor: &Tensor) -> String {
    let Some(dtype) = declared.dtype().filter(|dtype| *dtype != tensor.dtype()) else {
        return String::new();
    };
    let numpy = match dtype {
        DType::F16 => "np.float16",
        DType::F32 => "np.float32",
        DType::F64 => "np.float64",
        DType::I8 => "np.int8",
        DType::I16 => "np.int16",
        DType::I32 => "np.int32",
        DType::I64 => "np.int64",
        DType::U8 => "np.uint8",
        DType::U16 => "np.uint16",
        DType::U32 => "np.uint32",
        DType::U64 => "np.uint64",
        DType::Bool => "np.bool_",
        DType::String => "np.str_",
        DType::BF16 => "ml_dtypes.bfloat16",
        _ => return String::new(),
    };
    format!(". Convert it: in numpy `.astype({numpy})`")
}

/// How a shape differs from its declaration.
pub(super) enum Misfit {
    /// The rank or a fixed size differs.
    Shape,
    /// A symbol has this other size elsewhere.
    Symbol(String, u64),
}

impl Misfit {
    pub(super) fn symbol(self) -> Option<(String, u64)> {
        match self {
            Misfit::Shape => None,
            Misfit::Symbol(name, size) => Some((name, size)),
        }
    }

    /// Details in addition to the two shapes.
    pub(super) fn detail(&self) -> String {
        match self {
            Misfit::Shape => String::new(),
            Misfit::Symbol(name, size) => format!("; {name:?} is {size} elsewhere"),
        }
    }
}

/// The difference of a shape from its declaration, if any; records the sizes of symbols.
pub(super) fn misfit(declared: &ValueInfo, shape: &[u64], symbols: &mut Symbols) -> Option<Misfit> {
    let dims = declared.shape.as_ref()?;
    let fixed = |(dim, size): (&Dim, &u64)| match dim {
        Dim::Fixed(fixed) => fixed == size,
        Dim::Symbol(_) | Dim::Unknown => true,
    };
    if dims.len() != shape.len() || !dims.iter().zip(shape).all(fixed) {
        return Some(Misfit::Shape);
    }
    let mut found = None;
    for (dim, size) in dims.iter().zip(shape) {
        let Dim::Symbol(name) = dim else { continue };
        let sizes = symbols.entry(name.clone()).or_default();
        if sizes.contains(size) {
            continue;
        }
        if let (Some(other), None) = (sizes.first(), &found) {
            found = Some(Misfit::Symbol(name.clone(), *other));
        }
        sizes.push(*size);
    }
    found
}
