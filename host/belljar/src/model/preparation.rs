//! Sandboxes that are prepared for inputs of some shapes: idle ones, those that start from a
//! snapshot, and new ones. A plan with open dimensions serves all sizes that it holds for.

use std::sync::{Arc, PoisonError};

use belljar_abi::{GuestError, InputShape, OpenDim, Preparation, Reply};

use super::answers::{decode, refusal, reply, unexpected};
use super::contract::Contract;
use super::shared::{Prepared, Shared, Waiting};
use super::side_files::Granted;
use crate::error::{ErrorKind, Phase};
use crate::sandbox::{Call, Limit, Payload, PlanShapes, Sandbox, Snapshot, SnapshotKey};
use belljar_confine::role::Role;

/// The memory of a prepared sandbox, and the shapes that it accepts.
pub(super) type Kept = (Arc<PlanShapes>, Arc<Snapshot>);

/// A prepared sandbox, and the shapes that it accepts.
pub(super) type Ready = (Arc<PlanShapes>, Box<dyn Sandbox>);

impl Shared {
    /// The memory of a sandbox with an accepted plan, if it is in the store.
    fn stored_snapshot(
        &self,
        accepts: impl Fn(&PlanShapes) -> bool,
    ) -> Result<Option<Kept>, ErrorKind> {
        let Some(store) = self.host.store() else { return Ok(None) };
        let limit = self.policy.limits.memory;
        let stored = store.snapshot(&self.snapshot_key(), accepts, limit);
        let stored = stored.map_err(|_| Limit::Memory { limit })?;
        Ok(stored.map(|(plan, snapshot)| (Arc::new(plan), Arc::new(snapshot))))
    }

    fn snapshot_key(&self) -> SnapshotKey<'_> {
        SnapshotKey {
            model: self.bytes.digest(),
            side_files: self.side_files.iter().map(|granted| granted.file.digest()).collect(),
            deterministic: self.policy.compute.deterministic,
            native_kernels: self.policy.compute.native_kernels(),
            fixed: &self.fixed,
        }
    }

    /// How many snapshots are kept, in memory and in the store.
    fn max_snapshots(&self) -> usize {
        usize::try_from(self.policy.limits.snapshots).unwrap_or(usize::MAX)
    }

    /// Keeps a snapshot for other sandboxes.
    fn share(&self, plan: &Arc<PlanShapes>, snapshot: &Arc<Snapshot>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.snapshots.retain(|(other, _)| other != plan);
        waiting.snapshots.push((Arc::clone(plan), Arc::clone(snapshot)));
        let surplus = waiting.snapshots.len().saturating_sub(self.max_snapshots());
        waiting.snapshots.drain(..surplus);
    }

    /// A sandbox that is prepared for these shapes: an idle one, or a new one.
    pub(super) fn prepared_sandbox(
        &self,
        contract: &Contract,
        shapes: &[InputShape],
    ) -> Result<Ready, ErrorKind> {
        let accepts = |plan: &PlanShapes| plan.accepts(shapes) && contract.accepts(plan);
        let kept = loop {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Waiting { prepared, snapshots, .. } = &mut *waiting;
            let kept = snapshots.iter().filter(|(plan, _)| accepts(plan));
            // A snapshot for exactly these shapes was made because the other did not answer them.
            let kept = kept.min_by_key(|(plan, _)| plan.is_open());
            let fits = |one: &Prepared| match kept {
                Some((plan, _)) => one.plan == *plan,
                None => accepts(&one.plan),
            };
            if let Some(at) = prepared.iter().rposition(fits) {
                let Prepared { plan, sandbox, .. } = prepared.remove(at);
                drop(waiting);
                match self.alive(sandbox) {
                    Some(sandbox) => return Ok((plan, sandbox)),
                    None => continue,
                }
            }
            break kept.map(|(plan, snapshot)| (Arc::clone(plan), Arc::clone(snapshot)));
        };
        let kept = match kept {
            Some(kept) => Some(kept),
            None => self.stored_snapshot(accepts)?.inspect(|(plan, snapshot)| {
                self.share(plan, snapshot);
            }),
        };
        // It starts while another sandbox prepares the model.
        let sandbox = self.new_sandbox(Role::Run)?;
        let kept = match kept {
            Some(kept) => kept,
            None => self.prepared_snapshot(contract, shapes)?,
        };
        self.adopted(sandbox, kept)
    }

    /// A new sandbox that is prepared for exactly these shapes.
    pub(super) fn exact_sandbox(&self, shapes: &[InputShape]) -> Result<Ready, ErrorKind> {
        let sandbox = self.new_sandbox(Role::Run)?;
        let examined = self.examined(shapes, &[])?;
        let (kept, _) = examined.map_err(refusal)?;
        self.adopted(sandbox, kept)
    }

    fn adopted(
        &self,
        mut sandbox: Box<dyn Sandbox>,
        (plan, snapshot): Kept,
    ) -> Result<Ready, ErrorKind> {
        self.call(&mut *sandbox, Call::Adopt, Payload::Snapshot(snapshot), Phase::Prepare)?;
        Ok((plan, sandbox))
    }

    /// The memory that sandboxes of this plan start from.
    pub(super) fn snapshot(
        &self,
        contract: &Contract,
        plan: &PlanShapes,
    ) -> Result<Arc<Snapshot>, ErrorKind> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = waiting.snapshots.iter().find(|(kept, _)| **kept == *plan);
        let kept = kept.map(|(_, snapshot)| Arc::clone(snapshot));
        drop(waiting);
        match kept {
            Some(snapshot) => Ok(snapshot),
            None => Ok(self.prepared_snapshot(contract, &plan.shapes)?.1),
        }
    }

    /// Prepares the model for these shapes, and for other sizes of open dimensions if that is
    /// possible, in a sandbox that is used for nothing else, and keeps the snapshot for others.
    fn prepared_snapshot(
        &self,
        contract: &Contract,
        shapes: &[InputShape],
    ) -> Result<Kept, ErrorKind> {
        // The last bits of an answer may depend on the sizes that a plan was made with.
        let open = match self.policy.compute.deterministic {
            true => Vec::new(),
            false => contract.open_dims(shapes),
        };
        let mut examined = self.examined(shapes, &open);
        // Open dimensions may take more memory or time, or meet a defect.
        let failed = matches!(
            examined,
            Err(ErrorKind::Limit(Limit::Memory { .. } | Limit::PrepareTime { .. })
                | ErrorKind::Model(_))
        );
        if failed && !open.is_empty() {
            examined = self.examined(shapes, &[]);
        }
        let (kept, _) = examined?.map_err(refusal)?;
        Ok(kept)
    }

    /// Prepares the model for these shapes, in which some dimensions are open. Returns the shapes
    /// that it is prepared for, and what is still undecided; or the guest's refusal unchanged.
    pub(super) fn examined(
        &self,
        shapes: &[InputShape],
        open: &[OpenDim],
    ) -> Result<Result<(Kept, Preparation), GuestError>, ErrorKind> {
        let loaded = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).loaded.take();
        let mut sandbox = match loaded.and_then(|sandbox| self.alive(sandbox)) {
            Some(sandbox) => sandbox,
            None => self.loaded_sandbox()?,
        };
        for Granted { file, .. } in &self.side_files {
            let payload = Payload::Sealed(Arc::clone(file.sealed()));
            let answer = self.call(&mut *sandbox, Call::External, payload, Phase::Prepare)?;
            match reply(&answer, Phase::Prepare)? {
                Reply::Ok => {}
                _ => return Err(unexpected()),
            }
        }
        let payload = Payload::Bytes(self.snapshot_key().message(shapes, open));
        let answer = self.call(&mut *sandbox, Call::Prepare, payload, Phase::Prepare)?;
        let mut preparation = match decode(&answer.message)? {
            Reply::Prepared(preparation) => preparation,
            Reply::Error(refusal) => return Ok(Err(refusal)),
            _ => return Err(unexpected()),
        };
        let snapshot = answer.snapshot.ok_or_else(unexpected)?;
        let plan = PlanShapes {
            shapes: shapes.to_vec(),
            open: std::mem::take(&mut preparation.open),
            sizes: std::mem::take(&mut preparation.sizes),
        };
        // The guest opens no other dimensions, and its plan is at least for these shapes.
        let asked = |opened: &OpenDim| {
            open.iter().any(|o| (o.input, o.axis) == (opened.input, opened.axis))
        };
        if !plan.open.iter().all(asked) || !plan.accepts(shapes) {
            return Err(unexpected());
        }
        let plan = Arc::new(plan);
        if let Some(store) = self.host.store() {
            store.keep_snapshot(
                &self.snapshot_key(),
                &self.label,
                &plan,
                &snapshot,
                self.max_snapshots(),
            );
        }
        self.share(&plan, &snapshot);
        Ok(Ok(((plan, snapshot), preparation)))
    }
}
