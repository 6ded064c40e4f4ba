//! Collects scalars into the elements of a tensor.
//!
//! If the element type is known, each scalar is converted at once. Otherwise scalars are kept
//! without loss until all are read. A value that the type cannot hold must never be changed to
//! fit; only floats are rounded, as usual.

use belljar_abi::DType;

use super::lexer::Scalar;
use super::open::Open;
use crate::{Coded, Data, bf16, f16, string_memory};

/// The elements collected so far.
pub(crate) enum Elements {
    /// Elements of a known type.
    Typed(Data),
    /// Elements of an unknown type.
    Open(Open),
}

impl Elements {
    pub(crate) fn new(dtype: Option<DType>) -> Elements {
        dtype.map_or_else(|| Elements::Open(Open::default()), |dtype| Elements::Typed(empty(dtype)))
    }

    /// The bytes that `scalar` counts here.
    pub(crate) fn cost(&self, scalar: &Scalar) -> u64 {
        match (self, scalar) {
            (Elements::Typed(data), _) if data.dtype() != DType::String => {
                data.dtype().size().unwrap_or(1) as u64
            }
            (_, Scalar::Text(text)) => string_memory(text),
            _ => size_of::<u64>() as u64,
        }
    }

    /// Adds a scalar; the error describes what is wrong with it.
    pub(crate) fn push(&mut self, scalar: Scalar) -> Result<(), String> {
        match self {
            Elements::Typed(data) => convert(data, scalar),
            Elements::Open(open) => {
                open.push(scalar);
                Ok(())
            }
        }
    }

    /// The elements as `dtype`, or if that is `None` as an inferred type. The error has the index
    /// of the invalid element, and the cause.
    pub(crate) fn finish(self, dtype: Option<DType>) -> Result<Data, (usize, String)> {
        let mut open = match self {
            Elements::Typed(data) => return Ok(data),
            Elements::Open(open) => open,
        };
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => guess(&mut open)?,
        };
        let mut data = empty(dtype);
        for at in 0..open.len() {
            let Some(scalar) = open.take(at) else { continue };
            convert(&mut data, scalar).map_err(|why| (at, why))?;
        }
        Ok(data)
    }
}

fn guess(open: &mut Open) -> Result<DType, (usize, String)> {
    if let Some(at) = (0..open.len()).find(|at| !open.is_like(*at, 0)) {
        let mut shown = |at| open.take(at).as_ref().map(describe).unwrap_or_default();
        let why = format!(
            "{} among values that begin with {}; if it represents a number, specify the dtype",
            shown(at),
            shown(0)
        );
        return Err((at, why));
    }
    Ok(match () {
        () if open.is_bool(0) => DType::Bool,
        () if open.is_text(0) => DType::String,
        () if open.has_fractions() => DType::F32,
        () => DType::I64,
    })
}

macro_rules! per_type {
    ($($variant:ident($convert:expr);)*) => {
        fn empty(dtype: DType) -> Data {
            match dtype {
                $(DType::$variant => Data::$variant(Vec::new()),)*
                // Every value of another type is refused.
                _ => Coded::new(dtype, Vec::new()).map_or(Data::Bool(Vec::new()), Data::Coded),
            }
        }

        fn convert(data: &mut Data, scalar: Scalar) -> Result<(), String> {
            match data {
                $(Data::$variant(elements) => {
                    let convert: fn(Scalar) -> Result<_, String> = $convert;
                    elements.push(convert(scalar)?);
                })*
                Data::Coded(coded) => {
                    let name = coded.dtype().name();
                    let value = number(&scalar, coded.are_integers(), name)?;
                    let refused = |why| format!("{} {why} {name}", describe(&scalar));
                    coded.push(value).map_err(refused)?;
                }
            }
            Ok(())
        }
    };
}

per_type! {
    F16(|scalar| float(scalar, "f16", f16::from_f64, |_, wide| f16::from_f64(wide), f16::is_infinite));
    BF16(|scalar| {
        float(scalar, "bf16", bf16::from_f64, |_, wide| bf16::from_f64(wide), bf16::is_infinite)
    });
    F32(|scalar| float(scalar, "f32", |wide| wide as f32, |narrow, _| narrow, f32::is_infinite));
    F64(|scalar| float(scalar, "f64", |wide| wide, |_, wide| wide, f64::is_infinite));
    I8(|scalar| integer(scalar, "i8"));
    I16(|scalar| integer(scalar, "i16"));
    I32(|scalar| integer(scalar, "i32"));
    I64(|scalar| integer(scalar, "i64"));
    U8(|scalar| integer(scalar, "u8"));
    U16(|scalar| integer(scalar, "u16"));
    U32(|scalar| integer(scalar, "u32"));
    U64(|scalar| integer(scalar, "u64"));
    Bool(|scalar| match scalar {
        Scalar::Bool(value) => Ok(value),
        other => Err(format!("{} is not a bool; write true or false", describe(&other))),
    });
    String(|scalar| match scalar {
        Scalar::Text(text) => Ok(text),
        other => Err(format!("{} is not a string", describe(&other))),
    });
}

fn integer<T: TryFrom<i64> + TryFrom<u64>>(scalar: Scalar, name: &str) -> Result<T, String> {
    let value = match &scalar {
        Scalar::Int(value) => T::try_from(*value).ok(),
        Scalar::Uint(value) => T::try_from(*value).ok(),
        // Minus zero is a valid integer; other integral floats are beyond 64 bits.
        Scalar::Float { wide, integral: true, .. } if *wide == 0.0 => T::try_from(0i64).ok(),
        Scalar::Float { integral: true, .. } => None,
        other => return Err(format!("{} is not an integer, as {name} requires", describe(other))),
    };
    value.ok_or_else(|| format!("{} is out of range of {name}", describe(&scalar)))
}

/// A number for a small type, or infinity or NaN unless the type is an integer.
fn number(scalar: &Scalar, integer: bool, name: &str) -> Result<f64, String> {
    let fits = match scalar {
        Scalar::Int(_) | Scalar::Uint(_) => true,
        Scalar::Float { integral, .. } => !integer || *integral,
        Scalar::Text(_) => !integer,
        Scalar::Bool(_) => false,
    };
    if !fits {
        let what = if integer { "an integer" } else { "a number" };
        return Err(format!("{} is not {what}, as {name} requires", describe(scalar)));
    }
    match scalar {
        Scalar::Int(value) => Ok(*value as f64),
        Scalar::Uint(value) => Ok(*value as f64),
        Scalar::Float { wide, .. } if wide.is_infinite() => {
            Err(format!("{} is out of range of {name}", describe(scalar)))
        }
        Scalar::Float { wide, .. } => Ok(*wide),
        other => match other {
            Scalar::Text(text) if text == "NaN" => Ok(f64::NAN),
            Scalar::Text(text) if text == "Infinity" => Ok(f64::INFINITY),
            Scalar::Text(text) if text == "-Infinity" => Ok(f64::NEG_INFINITY),
            other => Err(format!("{} is not a number", describe(other))),
        },
    }
}

fn float<T: Copy>(
    scalar: Scalar,
    name: &str,
    from_f64: fn(f64) -> T,
    from_text: fn(f32, f64) -> T,
    is_infinite: fn(T) -> bool,
) -> Result<T, String> {
    let value = match &scalar {
        // Each is rounded once, directly to the type.
        Scalar::Int(value) => from_text(*value as f32, *value as f64),
        Scalar::Uint(value) => from_text(*value as f32, *value as f64),
        Scalar::Float { wide, narrow, .. } => from_text(*narrow, *wide),
        Scalar::Text(text) => match text.as_str() {
            "NaN" => return Ok(from_f64(f64::NAN)),
            "Infinity" => return Ok(from_f64(f64::INFINITY)),
            "-Infinity" => return Ok(from_f64(f64::NEG_INFINITY)),
            _ => {
                let found = describe(&scalar);
                return Err(format!(
                    "{found} is not a number (of strings, only \"NaN\", \"Infinity\" and \
                     \"-Infinity\" are)"
                ));
            }
        },
        Scalar::Bool(_) => return Err(format!("{} is not a number", describe(&scalar))),
    };
    if is_infinite(value) {
        return Err(format!("{} is out of range of {name}", describe(&scalar)));
    }
    Ok(value)
}

/// The scalar for a message: short and safe to print.
fn describe(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Int(value) => value.to_string(),
        Scalar::Uint(value) => value.to_string(),
        Scalar::Float { wide, .. } if wide.is_infinite() => "a number beyond f64".into(),
        Scalar::Float { wide, .. } => format!("{wide:?}"),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Text(text) => format!("the string {:?}", text.chars().take(40).collect::<String>()),
    }
}
