//! Numbers that float16 cannot sum: the sums are out of range or lose all digits.

/// A narrow float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    F16,
    Bf16,
}

impl Type {
    pub(crate) const BOTH: [Type; 2] = [Type::F16, Type::Bf16];

    /// The nearest number of this type.
    pub(crate) fn round(self, value: f64) -> f64 {
        match self {
            // Converting to float32 first is exact for the numbers used here.
            Type::F16 => half::f16::from_f32(value as f32).to_f64(),
            Type::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        }
    }

    pub(crate) fn code(self, value: f64) -> u16 {
        match self {
            Type::F16 => half::f16::from_f32(value as f32).to_bits(),
            Type::Bf16 => half::bf16::from_f32(value as f32).to_bits(),
        }
    }

    /// Its number in ONNX.
    pub(crate) fn onnx(self) -> i64 {
        match self {
            Type::F16 => 10,
            Type::Bf16 => 16,
        }
    }

    /// A unit in the last place of a number of this magnitude.
    pub(crate) fn unit(self, size: f64) -> f64 {
        let (digits, least) = match self {
            Type::F16 => (10, -24),
            Type::Bf16 => (7, -133),
        };
        if size == 0.0 || !size.is_finite() {
            return 2f64.powi(least);
        }
        2f64.powi((size.abs().log2().floor() as i32 - digits).max(least))
    }
}

/// The difficulty of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sum of two is out of the range of float16.
    Large,
    /// They are large, and only differ in their last bit.
    Near,
    /// There are thousands, so that a float16 sum stops growing.
    Long,
    /// They are a few steps of float16.
    Tiny,
    /// Their sum is small, but partial sums are out of the range of float16.
    Cancelling,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Large, Kind::Near, Kind::Long, Kind::Tiny, Kind::Cancelling];
}

/// Deterministic numbers of one kind and type.
#[derive(Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) kind: Kind,
    pub(crate) narrow: Type,
}

/// Deterministic numbers from 0 to 1.
fn uniform(count: usize, seed: u64) -> impl DoubleEndedIterator<Item = f64> {
    (0..count as u64).map(move |at| {
        let mixed = (at + 1 + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    })
}

impl Draw {
    /// How many terms a sum of this kind has.
    pub(crate) fn count(self) -> usize {
        if self.kind == Kind::Long { 4096 } else { 64 }
    }

    /// This number of terms.
    pub(crate) fn terms(self, count: usize) -> Vec<f64> {
        self.scaled(count, 1.0)
    }

    /// Terms whose squares are difficult but in range.
    pub(crate) fn roots(self, count: usize) -> Vec<f64> {
        match self.kind {
            Kind::Large | Kind::Near | Kind::Cancelling => self.scaled(count, 1.0 / 16.0),
            Kind::Long => self.terms(count),
            // float16 cannot represent their squares.
            Kind::Tiny => self.scaled(count, 100.0),
        }
    }

    fn scaled(self, count: usize, scale: f64) -> Vec<f64> {
        let numbers = uniform(count, 1);
        let drawn: Vec<f64> = match self.kind {
            Kind::Large => numbers.map(|u| 35000.0 + 20000.0 * u).collect(),
            Kind::Near => {
                let step = self.narrow.unit(50000.0);
                let first = self.narrow.round(50000.0);
                numbers.map(|u| first + if u < 0.5 { step } else { 0.0 }).collect()
            }
            Kind::Long => numbers.map(|u| 0.5 + u).collect(),
            Kind::Tiny => numbers.map(|u| 1e-6 * (0.5 + u)).collect(),
            Kind::Cancelling => {
                let up = uniform(count / 2, 1).map(|u| 20000.0 + 20000.0 * u);
                let down = uniform(count / 2, 1).map(|u| -20000.0 - 20000.0 * u).rev();
                let odd = (count % 2 == 1).then_some(1.0);
                up.chain(down).chain(odd).collect()
            }
        };
        drawn.into_iter().map(|value| self.narrow.round(value * scale)).collect()
    }

    /// Weights for the terms, so that the weighted sum is in range.
    pub(crate) fn weights(self, count: usize) -> Vec<f64> {
        let weight = |u: f64| match self.kind {
            Kind::Large | Kind::Near => (0.5 + u) / 128.0,
            Kind::Cancelling => 1.0,
            Kind::Long | Kind::Tiny => 0.5 + u,
        };
        uniform(count, 2).map(|u| self.narrow.round(weight(u))).collect()
    }
}
