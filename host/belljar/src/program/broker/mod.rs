//! The supervisor's side of a program's run: it checks the program's requests against the policy.
//! The requests come from a process that may be compromised: names, numbers and bytes are
//! untrusted.
//!
//! Work that takes time is done by a [`TaskThread`], and stops when the run has no time left. A
//! decision must be logged before it takes effect. `models` loads and runs models, `record` prints
//! and logs.

mod models;
mod record;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::protocol::{Code, Denied};
use super::task_thread::{TaskThread, Undone};
use super::wasi::{self, AtName, Below, Denial, Views};
use crate::audit::tally::Tally;
use crate::audit::{Subject, Verdict};
use crate::error::{Error, ErrorKind};
use crate::host::Host;
use crate::host::run_context::RunContext;
use crate::model::Model;
use crate::sandbox::Limit;
use crate::trust::Digest;
use belljar_policy::{Effective, Peer, Protocol, peer_rule};

/// Additional time after the end of a run's time, for the process to report it and for the
/// remaining printed lines and decisions.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// A run gets this many times `limits.prepare-time` for each model, in addition to its own time: to
/// load it, to describe it, and to prepare it for its first inputs.
const PREPARATIONS: u32 = 3;

/// The models that a program has loaded, shared by all its runs, by their names in its policy.
pub(super) type Models = Arc<Mutex<HashMap<String, Model>>>;

/// Answers the requests of one run of one program.
pub(super) struct Broker {
    host: Host,
    label: String,
    policy: Arc<Effective>,
    subject: Subject,
    models: Models,
    peers: wasi::Broker,
    /// The models of the run by their numbers, each with its label.
    loaded: Vec<(String, Model)>,
    /// Models that could not be loaded in this run, and why: loading is not repeated.
    failures: HashMap<Source, Kept>,
    /// The remaining extra time for loading and preparing each model.
    allowances: HashMap<String, Duration>,
    /// Names of the models that were prepared in this run.
    prepared: Vec<String>,
    /// The last refusal or failure, which is reported as the cause if the program then fails.
    failure: Option<Reason>,
    /// Requests that a stub answered, which are reported if there is no other cause.
    pub(super) lacks: Vec<&'static str>,
    /// An error that ends the run even if the program ignores it.
    pub(super) broken: Option<ErrorKind>,
    /// When the run began, and its time.
    began: Instant,
    time: Duration,
    /// Time that was spent on loading and preparing models.
    pub(super) credit: Duration,
    /// Remaining bytes that it may print, and number of lines that were not printed.
    to_print: u64,
    unprinted: u64,
    tally: Arc<Tally>,
    task_thread: TaskThread,
    /// Whether the decision log or the event listener did not accept an entry in time.
    blocked: bool,
}

/// The source of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The file in the policy entry of this name.
    Named(String),
    /// Bytes from the program, with this digest.
    Brought(Digest),
}

/// A failure that may be reported again.
struct Kept {
    denied: Denied,
    error: Option<Error>,
}

/// Why a program fails, if it does.
enum Reason {
    New(Error),
    /// The stored failure of this model.
    Kept(Source),
}

impl Broker {
    pub(super) fn new(
        host: &Host,
        label: &str,
        policy: &Arc<Effective>,
        subject: Subject,
        models: &Models,
    ) -> Broker {
        Broker {
            host: host.clone(),
            label: label.to_owned(),
            policy: Arc::clone(policy),
            subject,
            models: Arc::clone(models),
            peers: wasi::Broker::new(policy.network.clone(), &policy.quotas),
            loaded: Vec::new(),
            failures: HashMap::new(),
            allowances: HashMap::new(),
            prepared: Vec::new(),
            failure: None,
            lacks: Vec::new(),
            broken: None,
            began: Instant::now(),
            time: policy.limits.run_time,
            credit: Duration::ZERO,
            to_print: policy.quotas.bytes_written,
            unprinted: 0,
            tally: Arc::default(),
            task_thread: TaskThread::default(),
            blocked: false,
        }
    }

    /// Starts the time of the run.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// When the run has no time left, with the extra time spent so far.
    pub(super) fn deadline(&self) -> Instant {
        self.after(self.time.saturating_add(self.credit))
    }

    fn after(&self, time: Duration) -> Instant {
        // A time beyond the clock's range is treated as very far away.
        self.began.checked_add(time).unwrap_or(self.began + Duration::from_secs(1 << 30))
    }

    /// The error of a run whose time is up.
    pub(super) fn out_of_time(&self) -> ErrorKind {
        Limit::RunTime { limit: self.time }.into()
    }

    /// The limits of work that is done for the run until then.
    fn context(&self, until: Instant) -> RunContext {
        RunContext { until, time: self.time, tally: Arc::clone(&self.tally) }
    }

    /// Does work that takes time, with `extra` in addition to the run's own time. Work that is not
    /// done by then ends the run.
    fn within<T: Send + 'static>(
        &mut self,
        extra: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let until = self.after(self.time.saturating_add(self.credit).saturating_add(extra));
        let done = self.task_thread.within(self.context(until), work);
        if self.tally.is_full() {
            self.too_many_decisions();
        }
        match done {
            Ok(done) if Instant::now() < until => Ok(done),
            Ok(_) | Err(Undone::Late) => {
                let kind = self.out_of_time();
                self.broken.get_or_insert(kind);
                Err(Denied::new(Code::TooLarge, "the run has no time left"))
            }
            Err(Undone::NoThread(why)) => {
                self.broken.get_or_insert(ErrorKind::Host(why.clone()));
                Err(Denied::new(Code::RuntimeError, why))
            }
        }
    }

    /// Like `within`, for loading or preparing a model. It uses the run's extra time for this model
    /// first, and then the run's own time.
    fn preparing<T: Send + 'static>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let allowance = match self.allowances.get(name) {
            Some(left) => *left,
            None => {
                let grant = self.policy.models.iter().find(|grant| grant.name == name);
                let policy = grant.and_then(|grant| self.policy.for_model(grant));
                let time = policy.map_or(Duration::ZERO, |policy| policy.limits.prepare_time);
                time.saturating_mul(PREPARATIONS)
            }
        };
        let start = Instant::now();
        let done = self.within(allowance, work);
        let spent = start.elapsed().min(allowance);
        self.credit = self.credit.saturating_add(spent);
        self.allowances.insert(name.to_owned(), allowance.saturating_sub(spent));
        done
    }

    /// Connects to a peer, if the policy grants it. The verdict is logged before anything is sent
    /// to the peer.
    pub(super) fn connect(
        &mut self,
        host: &Peer,
        port: u16,
        protocol: Protocol,
    ) -> Result<OwnedFd, Denied> {
        let until = self.deadline();
        let resource = format!("{host} port {port}");
        let rule = peer_rule(host, port, protocol);
        let judged = match self.peers.judge(host, port, protocol, until) {
            Ok(judged) => Ok(judged),
            Err(Denial::Refused { rule, why }) => {
                self.decide(&resource, "connect", Verdict::Refused, &rule);
                let kind = ErrorKind::NotGranted(format!("a connection to {resource}: {why}"));
                self.failure = Some(Reason::New(self.error(kind)));
                return Err(Denied::new(Code::Security, why));
            }
            Err(Denial::NotGranted(why)) => {
                self.decide(&resource, "connect", Verdict::Refused, &rule);
                self.failure = Some(Reason::New(self.error(ErrorKind::Host(why.clone()))));
                return Err(Denied::new(Code::Security, why));
            }
            Err(Denial::Failed(why)) => Err(wasi::Refusal(why)),
        };
        self.decide(&resource, "connect", Verdict::Allowed, &rule);
        if self.broken.is_some() {
            return Err(Denied::new(Code::RuntimeError, "the decision log cannot be written"));
        }
        judged.and_then(|judged| judged.connect(until)).map_err(|refusal| {
            self.failure = Some(Reason::New(self.error(ErrorKind::Host(refusal.0.clone()))));
            Denied::new(Code::RuntimeError, refusal.0)
        })
    }

    /// Checks a name that the program wants to remove, move or replace. The file system may be
    /// slow.
    pub(super) fn look(&mut self, views: &Arc<Views>, at: Below) -> Result<AtName, Denied> {
        let views = Arc::clone(views);
        self.within(Duration::ZERO, move || views.look(&at))
    }

    /// The last refused or failed request of the program, if there was one.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        match self.failure.take()? {
            Reason::New(error) => Some(error),
            Reason::Kept(source) => self.failures.get_mut(&source)?.error.take(),
        }
    }

    fn not_granted(&mut self, resource: &str, rule: &str, missing: String) -> Denied {
        self.decide(resource, "load", Verdict::Refused, rule);
        let kind = ErrorKind::NotGranted(missing);
        let denied = Denied::new(Code::NotFound, kind.to_string());
        self.failure = Some(Reason::New(self.error(kind)));
        denied
    }

    /// Stores an error, and returns the message that the program receives.
    fn failed(&mut self, err: Error) -> Denied {
        let denied = denied(&err);
        self.failure = Some(Reason::New(err));
        denied
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::for_model(&self.label, kind)
    }
}

/// The message about a failure that the program receives.
fn denied(err: &Error) -> Denied {
    let code = match err.kind() {
        ErrorKind::Input { .. } | ErrorKind::InputDim { .. } => Code::InvalidArgument,
        ErrorKind::Limit(_) => Code::TooLarge,
        ErrorKind::Pin { .. } | ErrorKind::FilePin { .. } | ErrorKind::Refused(_) => Code::Security,
        _ => Code::RuntimeError,
    };
    Denied::new(code, err.kind().to_string())
}
