//! The peers that are compared: Belljar in several configurations, and other runtimes.
//!
//! A peer measures its own runs, so that communicating with it is not part of the times. It
//! computes a run on one thread, unless it was created with more.

pub(crate) mod belljar;
pub(crate) mod process;

use std::time::Duration;

use ::belljar::RunCost;
use anyhow::Result;

use crate::inputs::Case;

/// A program or library that runs models.
pub(crate) trait Peer {
    /// Its name, as the head of a column.
    fn name(&self) -> &str;

    /// Its version; known once a model is loaded.
    fn version(&self) -> &str;

    /// Replaces the loaded model by this one, ready to run. Returns the time of the work that
    /// depends on the model, without the start of a process.
    fn load(&mut self, case: &Case) -> Result<Duration>;

    /// Runs the model, and returns the time of each run.
    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>>;

    /// Runs per second with so many clients, each of which sends its next request once it has its
    /// answer.
    fn rate(&mut self, clients: usize, time: Duration) -> Result<f64>;

    /// The outputs of a run, flat, in the order in which the model declares them.
    fn outputs(&mut self) -> Result<Vec<Vec<f32>>>;

    /// What the sandbox reported about each of the latest runs, for peers that have one.
    fn costs(&self) -> &[RunCost] {
        &[]
    }

    /// Size of the sandbox's linear memory after a run, for peers that have one.
    fn sandbox_memory(&self) -> Option<u64> {
        None
    }
}
