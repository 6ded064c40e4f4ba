//! Turns of several peers, taken in rounds, and the statistics of their times.
//!
//! The speed of a machine changes during a measurement. So peers take turns within each round, and
//! a ratio is formed within a round, where both had the same conditions; the median is taken last.

use std::time::{Duration, Instant};

use anyhow::Result;
use belljar::RunCost;

use crate::inputs::Case;
use crate::peers::Peer;
use crate::say;

/// How long one peer's turn should take: long enough for the clock, short enough that a machine
/// seldom changes between one turn and the next.
const TURN: Duration = Duration::from_millis(100);

/// The minimum and maximum number of runs in one turn. With fewer than three, the first run, which
/// finds the processor's caches full of another peer's data, would decide the median.
const MIN_RUNS: usize = 3;
const MAX_RUNS: usize = 1000;

/// One figure for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        median(&self.0)
    }

    /// A quarter of the values are at most this one.
    pub(crate) fn quartile(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 4).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The ratio to `other`: the median of the ratios within each round.
    pub(crate) fn ratio(&self, other: &Samples) -> f64 {
        let ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(ours, its)| ours / its).collect();
        median(&ratios)
    }
}

/// NaN for an empty slice.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted.get(middle - 1).unwrap_or(value)) / 2.0,
        (None, _) => f64::NAN,
    }
}

/// The measurements of one model, each list in the order of the peers.
pub(crate) struct Warm {
    /// From the file to a model that can run, measured once, in milliseconds.
    pub(crate) load: Vec<Samples>,
    /// One run of a model that has run before, in milliseconds.
    pub(crate) run: Vec<Samples>,
    /// To make the instance of a run, in microseconds; empty for peers without sandboxes.
    pub(crate) instantiate: Vec<Samples>,
    /// To undo what a run wrote, in microseconds; likewise.
    pub(crate) reset: Vec<Samples>,
    /// The sandbox's linear memory, in bytes.
    pub(crate) memory: Vec<Option<u64>>,
}

/// Loads the model in every peer, checks the outputs of each, and times its runs.
pub(crate) fn warm(peers: &mut [Box<dyn Peer>], case: &Case, rounds: usize) -> Result<Warm> {
    let none = vec![Samples::default(); peers.len()];
    let (instantiate, reset) = (none.clone(), none.clone());
    let mut warm = Warm { load: Vec::new(), run: none, instantiate, reset, memory: Vec::new() };
    let mut iterations = Vec::new();
    for peer in peers.iter_mut() {
        warm.load.push(Samples(vec![millis(peer.load(case)?)]));
        let outputs = peer.outputs()?;
        case.check(peer.name(), &outputs)?;
        // The first run is not typical; the second is.
        let second = peer.run(1)?.into_iter().sum::<Duration>();
        iterations.push(turns(second));
    }
    let start = Instant::now();
    for _ in 0..rounds {
        let figures = warm.run.iter_mut().zip(&mut warm.instantiate).zip(&mut warm.reset);
        for ((peer, count), ((run, instantiate), reset)) in
            peers.iter_mut().zip(&iterations).zip(figures)
        {
            let times: Vec<f64> = peer.run(*count)?.into_iter().map(millis).collect();
            run.0.push(median(&times));
            if !peer.costs().is_empty() {
                let micros = |part: fn(&RunCost) -> Duration| -> Vec<f64> {
                    peer.costs().iter().map(|cost| part(cost).as_secs_f64() * 1e6).collect()
                };
                instantiate.0.push(median(&micros(|cost| cost.instantiate)));
                reset.0.push(median(&micros(|cost| cost.reset)));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    say(format!("{}: {rounds} rounds of warm runs in {seconds:.0} s", case.name));
    warm.memory.extend(peers.iter().map(|peer| peer.sandbox_memory()));
    Ok(warm)
}

/// The number of runs in one turn, from the time of one run.
pub(crate) fn turns(one: Duration) -> usize {
    let count = TURN.as_nanos() / one.as_nanos().max(1);
    usize::try_from(count).unwrap_or(MAX_RUNS).clamp(MIN_RUNS, MAX_RUNS)
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_does_not_depend_on_the_machines_speed() {
        let ours = Samples(vec![20.0, 40.0, 80.0]);
        let its = Samples(vec![10.0, 20.0, 40.0]);
        assert_eq!(ours.ratio(&its), 2.0);
        assert_eq!((ours.median(), ours.min(), ours.max()), (40.0, 20.0, 80.0));
    }

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_number_of_runs_in_a_turn_is_bounded() {
        assert_eq!(turns(Duration::from_secs(3)), MIN_RUNS);
        assert_eq!(turns(Duration::from_millis(10)), 10);
        assert_eq!(turns(Duration::ZERO), MAX_RUNS);
    }
}
