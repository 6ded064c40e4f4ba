//! The cost of the process around a sandbox: until it is ready, and with each request.

use std::time::Duration;

use anyhow::Result;
use belljar::RunCost;

use crate::inputs::Case;
use crate::measure::{Samples, median, millis, turns};
use crate::options::Options;
use crate::peers::Peer;
use crate::peers::belljar::{Belljar, Folders, Way};
use crate::report::{Kind, Table};

/// Rounds.
const ROUNDS: usize = 15;

/// Starts in one round, of which the median counts.
const STARTS: usize = 5;

/// The table of starts, and that of requests.
pub(crate) fn tables(options: &Options, cases: &[Case]) -> Result<(Table, Table)> {
    let folders = Folders::of(&options.root);
    let belljar = |name, way| Belljar::new(name, way, &options.belljar, &folders);
    let mut process = belljar("Belljar", Way::default())?;
    let mut thread = belljar("Belljar on a thread", Way::on_a_thread())?;
    process.warm()?;
    let columns = || {
        let ours = [&process, &thread].map(|peer| (peer.name().to_owned(), Kind::Detail));
        ours.to_vec()
    };
    let mut start = Table {
        id: "workers",
        title: "Start of a sandbox",
        unit: "ms",
        note: "Time until a sandbox is ready for the memory of a prepared model: for a worker the \
               start of its process, loading its code, and all layers of its confinement, which \
               the supervisor has verified from outside. The value of a round is the median of its \
               starts.",
        columns: columns(),
        rows: Vec::new(),
    };
    let mut crossing = Table {
        id: "crossing",
        title: "Overhead of a request",
        unit: "µs",
        note: "The time of a request that is not spent inside the sandbox: transfer of inputs and \
               outputs, two processes or threads that wake each other, checks. The last column is \
               the difference within each round. The value of a round is the median of its runs.",
        columns: columns(),
        rows: Vec::new(),
    };
    crossing.columns.push(("added by the worker".to_owned(), Kind::Detail));

    let mut found = vec![Samples::default(); 2];
    for _ in 0..options.rounds(ROUNDS) {
        for (peer, samples) in [&process, &thread].into_iter().zip(&mut found) {
            let times = (0..STARTS).map(|_| Ok(millis(peer.start()?)));
            samples.0.push(median(&times.collect::<Result<Vec<f64>>>()?));
        }
    }
    start.rows.push(("a sandbox".to_owned(), found));

    for case in cases {
        let mut counts = Vec::new();
        for peer in [&mut process, &mut thread] {
            peer.load(case)?;
            let outputs = peer.outputs()?;
            case.check(peer.name(), &outputs)?;
            counts.push(turns(peer.run(1)?.into_iter().sum::<Duration>()));
        }
        let mut found = vec![Samples::default(); 3];
        for _ in 0..options.rounds(ROUNDS) {
            let mut round = Vec::new();
            for (peer, count) in [&mut process, &mut thread].into_iter().zip(&counts) {
                peer.run(*count)?;
                let outside = |cost: &RunCost| cost.run.saturating_sub(cost.guest).as_secs_f64();
                let costs: Vec<f64> = peer.costs().iter().map(|c| outside(c) * 1e6).collect();
                round.push(median(&costs));
            }
            if let [process, thread] = round[..] {
                round.push(process - thread);
            }
            found.iter_mut().zip(round).for_each(|(samples, value)| samples.0.push(value));
        }
        crossing.rows.push((case.name.clone(), found));
    }
    Ok((start, crossing))
}
