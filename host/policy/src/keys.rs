//! Every table and key of the format, with what may stand there: the one list from which the reader,
//! the JSON Schema, and `policy fmt` work.
//!
//! The reader refuses what is not listed before it looks at it, so that the list is complete by
//! construction; a test gives it every key that is listed, so that it lists nothing else.

use std::time::Duration;

use super::{Bounds, bounds, quota_bounds};

/// A table of the format.
pub(super) struct Table {
    /// Its key at the top level; empty for the top level itself.
    pub(super) key: &'static str,
    /// What messages call it.
    pub(super) shown: &'static str,
    /// Whether it is a list of tables.
    pub(super) list: bool,
    /// Whether there is one for each name that stands below it.
    pub(super) named: bool,
    /// One sentence for editors.
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
}

/// A key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) required: bool,
    /// One sentence for editors.
    pub(super) about: &'static str,
}

/// What may stand as a value.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Version,
    Digest,
    Size(Bounds<u64>),
    Time(Bounds<Duration>),
    Count(Bounds<u32>),
    /// Off unless `true`.
    Switch,
    /// One of these; the first is the default.
    Choice(&'static [&'static str]),
    /// Several of these; the first alone is the default.
    Several(&'static [&'static str]),
    /// One line for people.
    Line,
    /// What a program calls something.
    Name,
    HostPath,
    GuestPath,
    Peer,
    Port,
    /// Names and values.
    Environment,
    /// A number.
    Number,
    /// A number, or a truth.
    Scalar,
    /// Several of these.
    Scalars,
    /// A number from the first to the second.
    Whole(u32, u32),
    /// An element type.
    Dtype,
    /// Sizes, of which `"?"` is any.
    Dims,
    /// On unless `false`.
    On,
    /// Only in ceilings: names of variables, hosts or patterns of them, ports and ranges of them.
    Names,
    Hosts,
    Ports,
    /// What this build does not understand yet, and refuses.
    Reserved,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: false, about }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: true, about }
}

/// Most threads that a policy can allow one run.
pub(super) const THREADS: Bounds<u32> = Bounds { min: 1, default: 1, max: 64 };

pub(super) const CONFINEMENTS: &[&str] = &["strict", "best-effort"];
pub(super) const DECLARED_SHAPES: &[&str] = &["report", "strict"];
pub(super) const KERNELS: &[&str] = &["native", "sandbox"];
pub(super) const ACCESSES: &[&str] = &["read", "write"];
pub(super) const PROTOCOLS: &[&str] = &["tcp", "udp"];
pub(super) const REACHES: &[&str] = &["public", "private", "loopback", "link-local"];

pub(super) const TOP: Table = Table {
    key: "",
    shown: "the top level",
    list: false,
    named: false,
    about: "What one model, or one guest program, may use.",
    keys: &[
        required("version", Shape::Version, "Version of the format."),
        key(
            "confinement",
            Shape::Choice(CONFINEMENTS),
            "Whether a layer of the kernel around worker processes may be missing.",
        ),
        key(
            "declared-shapes",
            Shape::Choice(DECLARED_SHAPES),
            "Whether outputs of another shape than the model declares are refused.",
        ),
    ],
};

pub(super) const MODEL: Table = Table {
    key: "model",
    shown: "[model]",
    list: false,
    named: false,
    about: "Which model the policy is for.",
    keys: &[key("sha256", Shape::Digest, "SHA-256 of the only model file accepted.")],
};

pub(super) const LIMITS: Table = Table {
    key: "limits",
    shown: "[limits]",
    list: false,
    named: false,
    about: "How much one sandbox may use.",
    keys: &[
        key("memory", Shape::Size(bounds::MEMORY), "Memory of the sandbox."),
        key("run-time", Shape::Time(bounds::RUN_TIME), "Wall time of one run."),
        key(
            "prepare-time",
            Shape::Time(bounds::PREPARE_TIME),
            "Wall time to load, describe and optimise.",
        ),
        key("model-size", Shape::Size(bounds::MODEL_SIZE), "The model file."),
        key("input-size", Shape::Size(bounds::INPUT_SIZE), "All inputs of a run together."),
        key("output-size", Shape::Size(bounds::OUTPUT_SIZE), "All outputs of a run together."),
        key("log-size", Shape::Size(bounds::LOG_SIZE), "Log kept per sandbox."),
        key("stack", Shape::Size(bounds::STACK), "Stack for WebAssembly code."),
        key(
            "snapshots",
            Shape::Count(bounds::SNAPSHOTS),
            "Combinations of input shapes for which the prepared model is kept.",
        ),
    ],
};

pub(super) const COMPUTE: Table = Table {
    key: "compute",
    shown: "[compute]",
    list: false,
    named: false,
    about: "How a model is computed.",
    keys: &[
        key("deterministic", Shape::Switch, "Bit-identical answers on every machine, but slower."),
        key("kernels", Shape::Choice(KERNELS), "Who computes products and what surrounds them."),
        key("threads", Shape::Count(THREADS), "Threads that one run may compute with."),
    ],
};

pub(super) const PROGRAM: Table = Table {
    key: "program",
    shown: "[program]",
    list: false,
    named: false,
    about: "A guest program: what of a process it has. Everything is off until granted.",
    keys: &[
        key("sha256", Shape::Digest, "SHA-256 of the only program accepted."),
        key("stdout", Shape::Switch, "Whether what it prints reaches standard output."),
        key("stderr", Shape::Switch, "Whether what it prints reaches standard error."),
        key("clocks", Shape::Switch, "The wall clock and the monotonic clock."),
        key("randomness", Shape::Switch, "Random numbers."),
        key("arguments", Shape::Switch, "Arguments given on the command line."),
        key("environment", Shape::Environment, "Its environment, whole."),
        key(
            "reason",
            Shape::Line,
            "Why; required with clocks, randomness, arguments or environment.",
        ),
    ],
};

pub(super) const MODELS: Table = Table {
    key: "models",
    shown: "[[models]]",
    list: true,
    named: false,
    about: "A model that the program may load.",
    keys: &[
        required("name", Shape::Name, "The name the program asks for."),
        key("path", Shape::HostPath, "The file; without it the program brings the bytes."),
        required("sha256", Shape::Digest, "SHA-256 of the only file accepted."),
        key(
            "policy",
            Shape::HostPath,
            "A policy file for this model: its limits, rules of values, and files it keeps data in.",
        ),
    ],
};

pub(super) const FILESYSTEM: Table = Table {
    key: "filesystem",
    shown: "[[filesystem]]",
    list: true,
    named: false,
    about: "A file or folder that is granted, with everything below it.",
    keys: &[
        required("host", Shape::HostPath, "Where it is: absolute, or from the policy's folder."),
        required("guest", Shape::GuestPath, "Where the program sees it."),
        key("access", Shape::Choice(ACCESSES), "How it may be used; writing includes reading."),
        key(
            "sha256",
            Shape::Digest,
            "For a file of a model: SHA-256 of the only content accepted.",
        ),
        required("reason", Shape::Line, "Why it is needed."),
    ],
};

pub(super) const NETWORK: Table = Table {
    key: "network",
    shown: "[[network]]",
    list: true,
    named: false,
    about: "A peer that the program may talk to.",
    keys: &[
        required("host", Shape::Peer, "A name or an address."),
        required("port", Shape::Port, "The port."),
        key("protocol", Shape::Choice(PROTOCOLS), "How they talk."),
        key("reaches", Shape::Several(REACHES), "Kinds of addresses that the host may have."),
        required("reason", Shape::Line, "Why it is needed."),
    ],
};

pub(super) const QUOTAS: Table = Table {
    key: "quotas",
    shown: "[quotas]",
    list: false,
    named: false,
    about: "How much one run of the program may do with its grants.",
    keys: &[
        key("bytes-written", Shape::Size(quota_bounds::BYTES_WRITTEN), "Written to files."),
        key("files-created", Shape::Count(quota_bounds::FILES_CREATED), "Files and folders made."),
        key("open-handles", Shape::Count(quota_bounds::OPEN_HANDLES), "Open at once."),
        key("connections", Shape::Count(quota_bounds::CONNECTIONS), "Connections made."),
        key("bytes-sent", Shape::Size(quota_bounds::BYTES_SENT), "Sent over all connections."),
        key(
            "bytes-received",
            Shape::Size(quota_bounds::BYTES_RECEIVED),
            "Received over all connections.",
        ),
    ],
};

pub(super) const INPUTS: Table = Table {
    key: "inputs",
    shown: "[inputs.NAME]",
    list: false,
    named: true,
    about: "What the values of an input must be; what breaks it does not reach the model.",
    keys: &[
        key("value", Shape::Scalar, "The one value, which the model is prepared with."),
        key("dtype", Shape::Dtype, "The element type."),
        key("shape", Shape::Dims, "The shape; \"?\" stands for any size."),
        key("min", Shape::Number, "No element is below."),
        key("max", Shape::Number, "No element is above."),
        key("finite", Shape::On, "Whether NaN and infinities are refused."),
        key("max-norm", Shape::Number, "The most that the root of the sum of squares may be."),
        key("allowed", Shape::Scalars, "The values that elements may have."),
    ],
};

pub(super) const OUTPUTS: Table = Table {
    key: "outputs",
    shown: "[outputs.NAME]",
    list: false,
    named: true,
    about: "What the values of an output must be; what breaks it is withheld.",
    keys: &[
        key("dtype", Shape::Dtype, "The element type."),
        key("shape", Shape::Dims, "The shape; \"?\" stands for any size."),
        key("min", Shape::Number, "No element is below."),
        key("max", Shape::Number, "No element is above."),
        key("finite", Shape::On, "Whether NaN and infinities are withheld."),
        key("max-norm", Shape::Number, "The most that the root of the sum of squares may be."),
        key("allowed", Shape::Scalars, "The values that elements may have."),
        key(
            "top-k",
            Shape::Whole(1, u32::MAX),
            "How many of the greatest along the last axis are told.",
        ),
        key(
            "decimals",
            Shape::Whole(0, super::values::MOST_DECIMALS),
            "Digits behind the point that numbers are rounded to.",
        ),
    ],
};

/// The format of a policy, in canonical order.
pub(super) const POLICY: &[&Table] = &[
    &TOP,
    &MODEL,
    &PROGRAM,
    &MODELS,
    &FILESYSTEM,
    &NETWORK,
    &INPUTS,
    &OUTPUTS,
    &LIMITS,
    &QUOTAS,
    &COMPUTE,
];

pub(super) const EXCESSES: &[&str] = &["cut", "refuse"];

pub(super) const CEILING_TOP: Table = Table {
    key: "",
    shown: "the top level",
    list: false,
    named: false,
    about: "The most that any policy can grant on this machine.",
    keys: &[
        required("version", Shape::Version, "Version of the format."),
        key("excess", Shape::Choice(EXCESSES), "What becomes of a policy that asks for more."),
        key("require-pin", Shape::Switch, "Whether policies must pin their model or program."),
        key("confinement", Shape::Choice(CONFINEMENTS), "The least that policies must demand."),
        key(
            "declared-shapes",
            Shape::Choice(DECLARED_SHAPES),
            "The least that policies must demand of shapes.",
        ),
        key("signers", Shape::Reserved, "Whose signatures are accepted."),
    ],
};

pub(super) const CEILING_PROGRAM: Table = Table {
    key: "program",
    shown: "[program]",
    list: false,
    named: false,
    about: "Whether guest programs may run, and what of a process they may be granted.",
    keys: &[
        key("stdout", Shape::Switch, "Whether standard output may be granted."),
        key("stderr", Shape::Switch, "Whether standard error may be granted."),
        key("clocks", Shape::Switch, "Whether clocks may be granted."),
        key("randomness", Shape::Switch, "Whether randomness may be granted."),
        key("arguments", Shape::Switch, "Whether arguments may be granted."),
        key("environment", Shape::Names, "Variables that may be set."),
    ],
};

pub(super) const CEILING_FILESYSTEM: Table = Table {
    key: "filesystem",
    shown: "[[filesystem]]",
    list: true,
    named: false,
    about: "A root below which files may be granted.",
    keys: &[
        required("path", Shape::HostPath, "Where it is: an absolute path."),
        key("access", Shape::Choice(ACCESSES), "The greatest access."),
    ],
};

pub(super) const CEILING_NETWORK: Table = Table {
    key: "network",
    shown: "[[network]]",
    list: true,
    named: false,
    about: "Peers that may be granted.",
    keys: &[
        required("host", Shape::Hosts, "A name, an address, *.NAME for all names below, or *."),
        required("ports", Shape::Ports, "Ports, and ranges such as \"8000-8100\"."),
        key("protocol", Shape::Choice(PROTOCOLS), "How they talk."),
        key("reaches", Shape::Several(REACHES), "Kinds of addresses that may be reached."),
    ],
};

pub(super) const CEILING_COMPUTE: Table = Table {
    key: "compute",
    shown: "[compute]",
    list: false,
    named: false,
    about: "The most of how a model is computed.",
    keys: &[
        key("kernels", Shape::Choice(KERNELS), "\"sandbox\" forbids native kernels."),
        key("threads", Shape::Count(THREADS), "Most threads of one run."),
    ],
};

/// The format of a ceiling, in canonical order.
pub(super) const CEILING: &[&Table] = &[
    &CEILING_TOP,
    &CEILING_PROGRAM,
    &CEILING_FILESYSTEM,
    &CEILING_NETWORK,
    &LIMITS,
    &QUOTAS,
    &CEILING_COMPUTE,
];
