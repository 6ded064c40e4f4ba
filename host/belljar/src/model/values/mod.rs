//! Checks values against the policy's rules: inputs before they are sent, outputs before they are
//! returned. A message names the rule and the position, but never a value.

mod disclose;

use belljar_abi::{DType, Dim, ValueInfo, ValueType};

use belljar_policy::{Scalar, Sizes, ValueRule};
use belljar_tensor::{Coded, Data, Tensor, bf16, f16};
use belljar_text::Escaped;

pub(super) use disclose::disclosed;

/// The key of a rule in the policy.
pub(super) fn key(table: &str, rule: &ValueRule, key: &str) -> String {
    let dot = if key.is_empty() { "" } else { "." };
    format!("`{table}.{}{dot}{key}`", Escaped::cut(&rule.name, 60))
}

/// A value that rules can be compared with.
trait Value: Copy {
    fn compare(self, with: Scalar) -> Option<std::cmp::Ordering>;
    fn wide(self) -> f64;

    fn finite(self) -> bool {
        self.wide().is_finite()
    }
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn compare(self, with: Scalar) -> Option<std::cmp::Ordering> {
                match with {
                    Scalar::Int(with) => Some(i128::from(self).cmp(&i128::from(with))),
                    // Beyond 2^53 not every integer is a float.
                    Scalar::Float(with) => (self as f64).partial_cmp(&with),
                    Scalar::Bool(_) => None,
                }
            }

            fn wide(self) -> f64 {
                self as f64
            }
        }
    )* };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn compare(self, with: Scalar) -> Option<std::cmp::Ordering> {
                match with {
                    Scalar::Int(with) => f64::from(self).partial_cmp(&(with as f64)),
                    // The policy's number is rounded to the tensor's precision.
                    Scalar::Float(with) => self.partial_cmp(&Self::narrow(with)),
                    Scalar::Bool(_) => None,
                }
            }

            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    )* };
}

/// Conversion to a float with fewer bits.
trait Narrow {
    fn narrow(wide: f64) -> Self;
}

impl Narrow for f16 {
    fn narrow(wide: f64) -> f16 {
        f16::from_f64(wide)
    }
}

impl Narrow for f32 {
    fn narrow(wide: f64) -> f32 {
        wide as f32
    }
}

impl Narrow for f64 {
    fn narrow(wide: f64) -> f64 {
        wide
    }
}

impl Narrow for bf16 {
    fn narrow(wide: f64) -> bf16 {
        bf16::from_f64(wide)
    }
}

floats!(f16, f32, f64, bf16);

impl Value for bool {
    fn compare(self, with: Scalar) -> Option<std::cmp::Ordering> {
        match with {
            Scalar::Bool(with) => Some(self.cmp(&with)),
            Scalar::Int(_) | Scalar::Float(_) => None,
        }
    }

    fn wide(self) -> f64 {
        f64::from(u8::from(self))
    }
}

/// Checks that a rule is valid for the model's declaration; otherwise returns the invalid key and
/// the cause. The declared shape counts only if it is enforced: an output's may be wrong, and the
/// rule right.
pub(super) fn validate_rule(
    rule: &ValueRule,
    declared: &ValueInfo,
    shape_binds: bool,
) -> Result<(), (&'static str, String)> {
    let dtype = match declared.value_type {
        ValueType::Tensor | ValueType::Other => declared.dtype(),
        ValueType::Sequence(dtype)
        | ValueType::Map(_, dtype)
        | ValueType::SequenceOfMaps(_, dtype)
        | ValueType::OptionalTensor(dtype)
        | ValueType::OptionalSequence(dtype) => Some(dtype),
    };
    let Some(dtype) = dtype else {
        return Err(("", "the model declares no element type that Belljar supports".into()));
    };
    if let Some(wanted) = rule.dtype.filter(|wanted| *wanted != dtype) {
        return Err(("dtype", format!("the model declares {dtype}, not {wanted}")));
    }
    if let (Some(rule), Some(dims), true) = (&rule.shape, &declared.shape, shape_binds) {
        let fits = |(sizes, dim): (&Sizes, &Dim)| match dim {
            Dim::Fixed(fixed) => sizes.allows(*fixed),
            _ => true,
        };
        if rule.len() != dims.len() || !rule.iter().zip(dims).all(fits) {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            return Err(("shape", format!("the model declares the shape [{}]", dims.join(", "))));
        }
    }
    if declared.value_type != ValueType::Tensor {
        for (key, there) in [
            ("shape", rule.shape.is_some()),
            ("value", rule.value.is_some()),
            ("max-norm", rule.max_norm.is_some()),
            ("top-k", rule.top_k.is_some()),
        ] {
            if there {
                let declared = declared.value_type;
                let why = format!(
                    "this key applies to tensors, and the model declares {declared}; dtype, min, \
                     max, finite, allowed and decimals apply to each element"
                );
                return Err((key, why));
            }
        }
    }
    let numeric = !matches!(dtype, DType::Bool | DType::String);
    for (key, there) in [
        ("min", rule.min.is_some()),
        ("max", rule.max.is_some()),
        ("max-norm", rule.max_norm.is_some()),
        ("top-k", rule.top_k.is_some()),
    ] {
        if there && !numeric {
            return Err((key, format!("{dtype} is not a numeric type")));
        }
    }
    let float = matches!(dtype, DType::F16 | DType::F32 | DType::F64 | DType::BF16);
    if rule.decimals.is_some() && !float {
        return Err(("decimals", format!("{dtype} values cannot be rounded to decimals")));
    }
    if dtype == DType::String && !rule.allowed.is_empty() {
        return Err(("allowed", "a list of allowed strings is not supported".into()));
    }
    let truths = rule.allowed.iter().all(|value| matches!(value, Scalar::Bool(_)));
    let numbers = !rule.allowed.iter().any(|value| matches!(value, Scalar::Bool(_)));
    if !rule.allowed.is_empty() && (if dtype == DType::Bool { !truths } else { !numbers }) {
        return Err(("allowed", format!("the listed values are not of the type {dtype}")));
    }
    Ok(())
}

/// The tensor of an input with a fixed value.
pub(super) fn fixed(value: Scalar, declared: &ValueInfo) -> Result<Tensor, String> {
    let dims = declared.shape.as_deref().unwrap_or_default();
    if dims.iter().any(|dim| matches!(dim, Dim::Fixed(size) if *size != 1)) {
        return Err(
            "the model declares more than one element; only inputs of one element can be fixed"
                .into(),
        );
    }
    let shape = vec![1; dims.len()];
    let dtype =
        declared.dtype().ok_or("the model declares no element type that Belljar supports")?;
    let wrong = || format!("{value} is not a valid {dtype}");
    macro_rules! data {
        ($integer:expr, [$($dtype:ident $type:ty),*]) => {
            match dtype {
                $(DType::$dtype => {
                    let value = <$type>::try_from($integer).map_err(|_| wrong())?;
                    Data::$dtype(vec![value])
                })*
                DType::F16 => Data::F16(vec![f16::from_f64($integer as f64)]),
                DType::F32 => Data::F32(vec![$integer as f32]),
                DType::F64 => Data::F64(vec![$integer as f64]),
                DType::BF16 => Data::BF16(vec![bf16::from_f64($integer as f64)]),
                _ => Data::Coded(coded(dtype, $integer as f64).ok_or_else(wrong)?),
            }
        };
    }
    let data = match value {
        Scalar::Int(value) => {
            data!(value, [I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64])
        }
        Scalar::Float(value) => match dtype {
            DType::F16 => Data::F16(vec![f16::from_f64(value)]),
            DType::F32 => Data::F32(vec![value as f32]),
            DType::F64 => Data::F64(vec![value]),
            DType::BF16 => Data::BF16(vec![bf16::from_f64(value)]),
            _ => Data::Coded(coded(dtype, value).ok_or_else(wrong)?),
        },
        Scalar::Bool(value) if dtype == DType::Bool => Data::Bool(vec![value]),
        Scalar::Bool(_) => return Err(wrong()),
    };
    Tensor::new(data, &shape).map_err(|err| err.to_string())
}

/// A number as an element of a small type.
fn coded(dtype: DType, value: f64) -> Option<Coded> {
    let mut coded = Coded::new(dtype, Vec::new())?;
    coded.push(value).ok()?;
    Some(coded)
}

/// Calls a generic function with an iterator over the elements of a numeric or boolean tensor.
macro_rules! elements {
    ($data:expr, |$values:ident| $body:expr, else $other:expr) => {
        elements!(@each $data, $values, $body, $other,
            F16 F32 F64 I8 I16 I32 I64 U8 U16 U32 U64 Bool BF16)
    };
    (@each $data:expr, $values:ident, $body:expr, $other:expr, $($variant:ident)*) => {
        match $data {
            $(Data::$variant(elements) => {
                let $values = elements.iter().copied();
                $body
            })*
            // Compared with the policy's numbers without rounding them: these types have few
            // digits.
            Data::Coded(coded) => {
                let $values = coded.values();
                $body
            }
            Data::String(_) => $other,
        }
    };
}

/// How a shape violates a rule, with the key it violates.
pub(super) fn broken_shape(table: &str, rule: &ValueRule, shape: &[u64]) -> Option<String> {
    let allowed = rule.shape.as_ref()?;
    let fits = |(sizes, size): (&Sizes, &u64)| sizes.allows(*size);
    if allowed.len() == shape.len() && allowed.iter().zip(shape).all(fits) {
        return None;
    }
    let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    let allowed = allowed.join(", ");
    let key = key(table, rule, "shape");
    Some(format!("its shape is {shape:?}, and the policy allows [{allowed}] ({key})"))
}

/// How a tensor violates a rule, with the key it violates.
pub(super) fn broken(table: &str, rule: &ValueRule, tensor: &Tensor) -> Option<String> {
    let says = |which: &str, why: String| Some(format!("{why} ({})", key(table, rule, which)));
    if rule.dtype.is_some_and(|dtype| dtype != tensor.dtype()) {
        return says("dtype", format!("it is {}", tensor.dtype()));
    }
    let dims: Vec<u64> = tensor.shape().iter().map(|dim| *dim as u64).collect();
    if let Some(why) = broken_shape(table, rule, &dims) {
        return Some(why);
    }
    let (which, why, at) = elements!(
        tensor.data(),
        |values| match element(rule, values) {
            Ok(()) => return None,
            Err(found) => found,
        },
        else return None
    );
    match at {
        Some(at) => {
            let index = belljar_tensor::unravel(at, tensor.shape());
            says(which, format!("element {index:?} {why}"))
        }
        None => says(which, why.to_owned()),
    }
}

type Broken = (&'static str, &'static str, Option<usize>);

/// Iterates over the values once for each rule, and copies none of them.
fn element<T: Value>(
    rule: &ValueRule,
    values: impl Iterator<Item = T> + Clone,
) -> Result<(), Broken> {
    let first = |which: &'static str, why: &'static str, wrong: &dyn Fn(T) -> bool| match values
        .clone()
        .position(wrong)
    {
        Some(at) => Err((which, why, Some(at))),
        None => Ok(()),
    };
    if rule.finite {
        first("finite", "is not finite", &|value| !value.finite())?;
    }
    // NaN is neither below nor above; `finite` decides whether it is allowed.
    if let Some(min) = rule.min {
        first("min", "is below the minimum", &|value| {
            value.compare(min).is_some_and(|o| o.is_lt())
        })?;
    }
    if let Some(max) = rule.max {
        first("max", "is above the maximum", &|value| {
            value.compare(max).is_some_and(|o| o.is_gt())
        })?;
    }
    if !rule.allowed.is_empty() {
        let known = |value: T| {
            rule.allowed.iter().any(|one| value.compare(*one).is_some_and(|o| o.is_eq()))
        };
        first("allowed", "is not one of the allowed values", &|value| !known(value))?;
    }
    if let Some(most) = rule.max_norm {
        let most = match most {
            Scalar::Int(most) => most as f64,
            Scalar::Float(most) => most,
            Scalar::Bool(_) => return Ok(()),
        };
        // Scaled, so that no square overflows.
        let greatest = values.clone().map(|value| value.wide().abs()).fold(0.0, f64::max);
        let sum: f64 = match greatest > 0.0 && greatest.is_finite() {
            true => values.map(|value| (value.wide() / greatest).powi(2)).sum(),
            false => f64::from(u8::from(greatest > 0.0)),
        };
        let within = greatest * sum.sqrt() <= most;
        if !within {
            return Err(("max-norm", "its norm is above the maximum", None));
        }
    }
    Ok(())
}
