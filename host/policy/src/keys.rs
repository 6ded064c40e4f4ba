//! Every table and key of the format, and what is valid there: the single list behind the reader,
//! the JSON Schema, and `policy fmt`.
//!
//! The reader refuses keys that are not listed, so the list is complete by construction; a test
//! gives the reader every listed key, so the list contains nothing else.

use std::time::Duration;

use super::{Bounds, bounds, quota_bounds};

/// A table of the format.
pub(super) struct Table {
    /// Its key at the top level; empty for the top level itself.
    pub(super) key: &'static str,
    /// Its name in messages.
    pub(super) shown: &'static str,
    /// Whether it is a list of tables.
    pub(super) list: bool,
    /// Whether it holds one table for each name below it.
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

/// What is valid as a value.
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
    /// One line of text for people.
    Line,
    /// The name by which a program requests something.
    Name,
    HostPath,
    GuestPath,
    Peer,
    Port,
    /// Names and string values.
    Environment,
    /// A number.
    Number,
    /// A number or a boolean.
    Scalar,
    /// A list of scalars.
    Scalars,
    /// A number from the first to the second.
    Whole(u32, u32),
    /// An element type.
    Dtype,
    /// Dimensions, where `"?"` is any size.
    Dims,
    /// On unless `false`.
    On,
    /// Only in ceilings: names of variables, host patterns, and ports with ranges.
    Names,
    Hosts,
    Ports,
    /// Refused by this build, reserved for later.
    Reserved,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: false, about }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: true, about }
}

/// Threads that a policy can allow one run.
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
            "Whether a kernel protection layer around worker processes may be missing.",
        ),
        key(
            "declared-shapes",
            Shape::Choice(DECLARED_SHAPES),
            "Whether outputs are refused whose shape differs from the model's declaration.",
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
    about: "The limits of one sandbox.",
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
        key("deterministic", Shape::Switch, "Bit-identical outputs on every machine, but slower."),
        key(
            "kernels",
            Shape::Choice(KERNELS),
            "Where matrix products and adjacent operators are computed.",
        ),
        key("threads", Shape::Count(THREADS), "Threads that one run may compute with."),
        key(
            "seed",
            Shape::Whole(0, u32::MAX),
            "The seed of random numbers in runs that are given no other.",
        ),
    ],
};

pub(super) const PROGRAM: Table = Table {
    key: "program",
    shown: "[program]",
    list: false,
    named: false,
    about: "The process resources of a guest program. Everything is off until granted.",
    keys: &[
        key("sha256", Shape::Digest, "SHA-256 of the only program accepted."),
        key("stdout", Shape::Switch, "Whether its output reaches standard output."),
        key("stderr", Shape::Switch, "Whether its output reaches standard error."),
        key("clocks", Shape::Switch, "The wall clock and the monotonic clock."),
        key("randomness", Shape::Switch, "Random numbers."),
        key("arguments", Shape::Switch, "Arguments given on the command line."),
        key("environment", Shape::Environment, "Its whole environment; nothing is inherited."),
        key(
            "reason",
            Shape::Line,
            "Why it needs them; required with clocks, randomness, arguments or environment.",
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
        required("name", Shape::Name, "The name that the program requests."),
        key("path", Shape::HostPath, "The file; without it the program brings the bytes."),
        required("sha256", Shape::Digest, "SHA-256 of the only file accepted."),
        key(
            "policy",
            Shape::HostPath,
            "A policy for this model: its limits, value rules, and the files it keeps data in.",
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
        required(
            "host",
            Shape::HostPath,
            "The path on the host: absolute, or relative to the policy's folder.",
        ),
        required("guest", Shape::GuestPath, "The path at which the program sees it."),
        key("access", Shape::Choice(ACCESSES), "The access; \"write\" includes reading."),
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
    about: "A peer that the program may communicate with.",
    keys: &[
        required("host", Shape::Peer, "A name or an address."),
        required("port", Shape::Port, "The port."),
        key("protocol", Shape::Choice(PROTOCOLS), "The transport protocol."),
        key("reaches", Shape::Several(REACHES), "Kinds of addresses that the host may have."),
        required("reason", Shape::Line, "Why it is needed."),
    ],
};

pub(super) const QUOTAS: Table = Table {
    key: "quotas",
    shown: "[quotas]",
    list: false,
    named: false,
    about: "How much one run of the program may use its grants.",
    keys: &[
        key("bytes-written", Shape::Size(quota_bounds::BYTES_WRITTEN), "Written to files."),
        key(
            "files-created",
            Shape::Count(quota_bounds::FILES_CREATED),
            "Files and folders created.",
        ),
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
    about: "A rule for the values of an input; an input that violates it does not reach the model.",
    keys: &[
        key("value", Shape::Scalar, "The only value, with which the model is prepared."),
        key("dtype", Shape::Dtype, "The element type."),
        key(
            "shape",
            Shape::Dims,
            "The shape: sizes, ranges such as \"1..512\", and \"?\" for any size.",
        ),
        key("min", Shape::Number, "The minimum of every element."),
        key("max", Shape::Number, "The maximum of every element."),
        key("finite", Shape::On, "Whether NaN and infinities are refused."),
        key("max-norm", Shape::Number, "The maximum of the Euclidean norm of all elements."),
        key("allowed", Shape::Scalars, "The allowed values of elements."),
    ],
};

pub(super) const OUTPUTS: Table = Table {
    key: "outputs",
    shown: "[outputs.NAME]",
    list: false,
    named: true,
    about: "A rule for the values of an output; an output that violates it is withheld.",
    keys: &[
        key("dtype", Shape::Dtype, "The element type."),
        key(
            "shape",
            Shape::Dims,
            "The shape: sizes, ranges such as \"1..512\", and \"?\" for any size.",
        ),
        key("min", Shape::Number, "The minimum of every element."),
        key("max", Shape::Number, "The maximum of every element."),
        key("finite", Shape::On, "Whether NaN and infinities are withheld."),
        key("max-norm", Shape::Number, "The maximum of the Euclidean norm of all elements."),
        key("allowed", Shape::Scalars, "The allowed values of elements."),
        key(
            "top-k",
            Shape::Whole(1, u32::MAX),
            "How many of the largest elements along the last axis are returned.",
        ),
        key(
            "decimals",
            Shape::Whole(0, super::values::MAX_DECIMALS),
            "The number of decimals that elements are rounded to.",
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
    about: "The maximum that any policy can grant on this machine.",
    keys: &[
        required("version", Shape::Version, "Version of the format."),
        key("excess", Shape::Choice(EXCESSES), "What happens to a policy that asks for more."),
        key("require-pin", Shape::Switch, "Whether policies must pin their model or program."),
        key("confinement", Shape::Choice(CONFINEMENTS), "The minimum that policies must demand."),
        key(
            "declared-shapes",
            Shape::Choice(DECLARED_SHAPES),
            "The minimum that policies must demand of declared shapes.",
        ),
        key("signers", Shape::Reserved, "Whose signatures are accepted."),
    ],
};

pub(super) const CEILING_PROGRAM: Table = Table {
    key: "program",
    shown: "[program]",
    list: false,
    named: false,
    about: "Whether guest programs may run, and which process resources they may be granted.",
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
        required("path", Shape::HostPath, "The absolute path of the root."),
        key("access", Shape::Choice(ACCESSES), "The maximum access."),
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
        key("protocol", Shape::Choice(PROTOCOLS), "The transport protocol."),
        key("reaches", Shape::Several(REACHES), "Kinds of addresses that may be reached."),
    ],
};

pub(super) const CEILING_COMPUTE: Table = Table {
    key: "compute",
    shown: "[compute]",
    list: false,
    named: false,
    about: "The limits of how a model is computed.",
    keys: &[
        key("kernels", Shape::Choice(KERNELS), "\"sandbox\" forbids native kernels."),
        key("threads", Shape::Count(THREADS), "The maximum number of threads of one run."),
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
