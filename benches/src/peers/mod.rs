//! Those that are compared: Belljar in its several ways, and runtimes beside it.
//!
//! A peer measures itself, so that asking it costs nothing that would count. Each computes a run on
//! one thread, unless it was made for more.

pub(crate) mod belljar;
pub(crate) mod process;

use std::time::Duration;

use ::belljar::RunCost;
use anyhow::Result;

use crate::inputs::Case;

/// Something that runs models.
pub(crate) trait Peer {
    /// Its name, as the head of a column.
    fn name(&self) -> &str;

    /// Its version; known once a model is loaded.
    fn version(&self) -> &str;

    /// Takes a model, in place of the one before, to where the next step is a run. Says how long
    /// the work took that depends on the model, start of a process excluded.
    fn load(&mut self, case: &Case) -> Result<Duration>;

    /// Runs the model; one time for each run.
    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>>;

    /// Runs in a second when so many clients ask at the same time and again once they are answered.
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
