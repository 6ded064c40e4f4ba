//! What is between the layers of an expert.

use super::Experts;
use super::attributes::{Activation, Fusion};
use crate::elementwise::approximations::{gelu_by_tanh, sigmoid};

impl Experts {
    /// The gate of SwiGLU times its linear part.
    fn gated(&self, gate: f32, linear: f32) -> f32 {
        let limit = self.limit.get();
        // Comparisons that keep what is not a number.
        let below = |x: f32| if x > limit { limit } else { x };
        let gate = below(gate);
        let linear = below(if linear < -limit { -limit } else { linear });
        gate * sigmoid(self.alpha.get() * gate) * (linear + self.beta.get())
    }

    /// What the second layer reads, of the outputs of the first and of the third.
    pub(super) fn activate(
        &self,
        first: Vec<f32>,
        third: Option<Vec<f32>>,
        inner: usize,
    ) -> Vec<f32> {
        let activate: fn(f32) -> f32 = match self.activation {
            Activation::Relu => |x| if x < 0.0 { 0.0 } else { x },
            Activation::Gelu => gelu_by_tanh,
            Activation::Silu => |x| x * sigmoid(x),
            Activation::Identity => |x| x,
            Activation::SwiGlu => {
                let pair = |(gate, linear): (&f32, &f32)| self.gated(*gate, *linear);
                return match (self.fusion, third) {
                    (Fusion::Interleaved, _) => {
                        let (pairs, _) = first.as_chunks::<2>();
                        pairs.iter().map(|[gate, linear]| self.gated(*gate, *linear)).collect()
                    }
                    (Fusion::Joined, _) => {
                        let rows = first.chunks_exact((2 * inner).max(1));
                        let halves = rows.map(|row| row.split_at(inner));
                        halves
                            .flat_map(|(gate, linear)| gate.iter().zip(linear))
                            .map(pair)
                            .collect()
                    }
                    (Fusion::Apart, third) => {
                        first.iter().zip(third.iter().flatten()).map(pair).collect()
                    }
                };
            }
        };
        let mut hidden = first;
        hidden.iter_mut().for_each(|x| *x = activate(*x));
        for (hidden, third) in hidden.iter_mut().zip(third.iter().flatten()) {
            *hidden *= third;
        }
        hidden
    }
}
