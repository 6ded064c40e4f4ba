//! Which experts compute a token.

use super::Experts;

impl Experts {
    /// The experts of a token, and their shares.
    pub(super) fn choose(&self, scores: &[f32], given: Option<&[f32]>) -> Vec<(usize, f32)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Of equal scores the first is chosen, and a zero has no sign.
        order.sort_by(|a, b| (scores[*b] + 0.0).total_cmp(&(scores[*a] + 0.0)));
        order.truncate(self.chosen);
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let power = |score: f32| (f64::from(score) - f64::from(most)).exp();
        let mut shares: Vec<f64> = match given {
            Some(given) => order.iter().map(|at| f64::from(given[*at])).collect(),
            None => {
                let sum: f64 = scores.iter().map(|score| power(*score)).sum();
                order.iter().map(|at| power(scores[*at]) / sum).collect()
            }
        };
        if self.normalize {
            let sum: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= sum);
        }
        order.into_iter().zip(shares.into_iter().map(|share| share as f32)).collect()
    }
}
