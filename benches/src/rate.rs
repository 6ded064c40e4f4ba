//! Runs per second with several clients at the same time.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::inputs::Case;
use crate::measure::Samples;
use crate::options::Options;
use crate::peers::Peer;
use crate::peers::belljar::{Belljar, Folders, Way};
use crate::peers::process::{ProcessPeer, Program};
use crate::report::{Kind, Table};
use crate::say;

/// Rounds, maximum number of clients, and the length of a turn: several runs of the slowest model.
const ROUNDS: usize = 3;
const CLIENTS: usize = 4;
const TURN: Duration = Duration::from_millis(1000);

pub(crate) fn rate(options: &Options, cases: &[Case], programs: &[Program]) -> Result<Table> {
    let way = Way { idle: CLIENTS, ..Way::default() };
    let folders = Folders::of(&options.root);
    let mut peers: Vec<Box<dyn Peer>> =
        vec![Box::new(Belljar::new("Belljar", way, &options.belljar, &folders)?)];
    for program in programs {
        peers.push(Box::new(ProcessPeer::new(program.clone())));
    }
    let kinds = std::iter::once(Kind::Belljar).chain(std::iter::repeat(Kind::Reference));
    let mut table = Table {
        id: "rate",
        title: "Runs per second, with several clients at once",
        unit: "/s",
        note: "Each client sends its next request as soon as it has its answer. Belljar has a \
               sandbox for each client and resets it after each run; tract has one plan and \
               onnxruntime one session that a thread for each client runs, each run on one \
               thread. More is better.",
        columns: peers.iter().map(|peer| peer.name().to_owned()).zip(kinds).collect(),
        rows: Vec::new(),
    };
    // A quick run takes one turn of half the length.
    let turn = if options.quick { TURN / 2 } else { TURN };
    let rounds = if options.quick { 1 } else { ROUNDS };
    for case in cases {
        for peer in &mut peers {
            peer.load(case)?;
            let outputs = peer.outputs()?;
            case.check(peer.name(), &outputs)?;
            // Makes Belljar start its other sandboxes.
            peer.rate(CLIENTS, turn / 2).with_context(|| peer.name().to_owned())?;
        }
        for clients in 1..=CLIENTS {
            let mut found = vec![Samples::default(); peers.len()];
            for _ in 0..rounds {
                for (peer, samples) in peers.iter_mut().zip(&mut found) {
                    samples.0.push(peer.rate(clients, turn)?);
                }
            }
            let named = format!("{}, {clients} at once", case.name);
            table.rows.push((named, found));
        }
        say(format!("{}: {rounds} rounds of up to {CLIENTS} clients", case.name));
    }
    Ok(table)
}
