//! Elements of eight bits and fewer without a Rust type: the five kinds of float8, float4, and
//! integers of four and two bits, stored as their codes.

use belljar_abi::DType;
use belljar_abi::codes::{self, Beyond, Round};

/// Codes of one such type, one element in each byte: the code in the low bits, the others zero.
///
/// ```
/// use belljar_tensor::{Coded, DType};
///
/// let coded = Coded::new(DType::F8E4M3FN, vec![0x38, 0xb8]).unwrap();
/// assert_eq!(coded.values().collect::<Vec<f64>>(), [1.0, -1.0]);
/// assert!(Coded::new(DType::I4, vec![16]).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    dtype: DType,
    codes: Vec<u8>,
}

impl Coded {
    /// Codes of this type; `None` if it is not a type of eight bits or fewer without a Rust type,
    /// or if a code is invalid.
    #[must_use]
    pub fn new(dtype: DType, codes: Vec<u8>) -> Option<Coded> {
        let fits = matches!(codes::bits(dtype), Some(1..=8)) && codes::are_codes(dtype, &codes);
        fits.then_some(Coded { dtype, codes })
    }

    /// Adds codes of the same type.
    pub(super) fn extend(&mut self, other: &Coded) {
        if self.dtype == other.dtype {
            self.codes.extend_from_slice(&other.codes);
        }
    }

    /// A number of zeros, or of ones for float8e8m0, which has no zero.
    pub(super) fn zeros(dtype: DType, count: usize) -> Option<Coded> {
        let code = if dtype == DType::F8E8M0 { 127 } else { 0 };
        Coded::new(dtype, vec![code; count])
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The codes.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The exact values of the codes.
    pub fn values(&self) -> impl Iterator<Item = f64> + Clone + '_ {
        self.codes.iter().map(|code| codes::decode(self.dtype, (*code).into()).into())
    }

    /// The value at an index.
    pub fn value(&self, at: usize) -> Option<f64> {
        self.codes.get(at).map(|code| codes::decode(self.dtype, (*code).into()).into())
    }

    /// The value of a code of this type.
    pub fn meaning(dtype: DType, code: u8) -> f64 {
        codes::decode(dtype, code.into()).into()
    }

    /// The codes; they may only be changed to valid codes of this type.
    pub fn codes_mut(&mut self) -> &mut [u8] {
        &mut self.codes
    }

    /// Whether they are integers.
    pub fn are_integers(&self) -> bool {
        codes::is_integer(self.dtype)
    }

    /// Adds the code of the nearest value; integers must be exact, and finite numbers must be
    /// within the type's range.
    pub fn push(&mut self, value: f64) -> Result<(), &'static str> {
        let code = match self.dtype {
            DType::F8E8M0 => codes::encode_e8m0(value, Beyond::Overflow, Round::Nearest),
            dtype => codes::encode(dtype, value, Beyond::Overflow),
        };
        let meant = f64::from(codes::decode(self.dtype, code));
        let kept = match value {
            value if value.is_nan() => meant.is_nan(),
            // This type has no zero and no sign.
            value if self.dtype == DType::F8E8M0 => meant.is_finite() && value > 0.0,
            value if self.are_integers() || value.is_infinite() => meant == value,
            // Larger numbers become infinity, NaN, or the maximum itself.
            value => meant.is_finite() && value.abs() <= self.greatest(),
        };
        if !kept {
            return Err("is out of range of");
        }
        // Codes of these types fit a byte.
        self.codes.push(code as u8);
        Ok(())
    }

    fn greatest(&self) -> f64 {
        let code = codes::encode(self.dtype, f64::MAX, Beyond::Saturate);
        codes::decode(self.dtype, code).into()
    }

    /// The code of the minimum, which may be negative infinity.
    pub fn least(&self) -> u8 {
        let order = |a: &u8, b: &u8| {
            let value = |code: &u8| f64::from(codes::decode(self.dtype, (*code).into()));
            value(a).total_cmp(&value(b))
        };
        let most = codes::bits(self.dtype).map_or(0, |bits| u8::MAX >> (8 - bits.min(8)));
        let numbers = (0..=most).filter(|c| !codes::decode(self.dtype, (*c).into()).is_nan());
        numbers.min_by(order).unwrap_or(0)
    }
}
