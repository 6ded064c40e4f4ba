//! Belljar's built-in guest. An instance loads, prepares and runs one ONNX model.
//!
//! It is compiled to a core WebAssembly module for `wasm32-unknown-unknown`. It imports the log and
//! the kernels of the host, and no files, clock or randomness: every answer is a function of the
//! model, its inputs and the seed of the run. Only the profiling variant, which serves no requests, imports the clock
//! that [`profile`] reads (see `guest-models/README.md`).
//!
//! The host calls `belljar_initialize` once. For each message, it calls `belljar_alloc` and writes
//! the message there. The calls come in this order: `belljar_load`, `belljar_describe`, any number
//! of `belljar_external`, `belljar_prepare` and any number of `belljar_run`. `belljar_load` and
//! `belljar_external` begin a file, whose bytes follow in order in calls of `belljar_part`.
//! `belljar_picture` is for an instance without a model. Each of these calls returns the location of
//! a message in memory: its address in the low 32 bits, its length in the high 32. The message is
//! valid until the next call.

mod describe;
mod entropy;
mod explain;
mod folded;
mod gate;
mod heap;
mod host;
mod kernels;
mod load;
mod memory;
mod native;
mod open;
mod picture;
mod prepare;
mod profile;
mod run;
mod sizes;
mod spans;
mod undecided;
mod weights;

use std::cell::RefCell;

use belljar_abi::{ABI_VERSION, GuestErrorCode, encode_error, encode_ok};

use picture::PictureError;

/// Why a call is refused, as reported to the host.
pub(crate) struct Refusal {
    code: GuestErrorCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: GuestErrorCode, text: impl ToString) -> Refusal {
        Refusal { code, text: text.to_string() }
    }
}

/// The state of the model of this instance.
enum Stage {
    Empty,
    /// Bytes of the model are missing.
    Loading(Box<load::Loading>),
    /// Bytes of a file with external data are missing.
    Filling(Box<load::Loaded>, load::Filling),
    Loaded(Box<load::Loaded>),
    Prepared(prepare::Prepared),
}

struct Guest {
    stage: Stage,
    /// The last answer; it must outlive the call that made it.
    reply: Vec<u8>,
}

thread_local! {
    static GUEST: RefCell<Guest> =
        const { RefCell::new(Guest { stage: Stage::Empty, reply: Vec::new() }) };
}

/// Runs one call, keeps its answer, and returns the location of the answer.
fn answer(call: impl FnOnce(&mut Stage) -> Result<Vec<u8>, Refusal>) -> u64 {
    GUEST.with_borrow_mut(|guest| {
        // The last answer is freed before the call needs memory.
        guest.reply = Vec::new();
        guest.reply = match call(&mut guest.stage) {
            Ok(message) => message,
            Err(refusal) => encode_error(refusal.code, &refusal.text),
        };
        (guest.reply.len() as u64) << 32 | guest.reply.as_ptr() as u64
    })
}

fn out_of_order(wanted: &str) -> Refusal {
    Refusal::new(GuestErrorCode::Protocol, format!("{wanted} was called out of order"))
}

/// The version of the messages and exports of this guest.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_abi_version() -> u32 {
    ABI_VERSION
}

/// Runs the constructors that fill tract's registries, and installs the panic hook. Later calls
/// have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_initialize() {
    memory::run_constructors_once();
    host::install_reporting();
}

/// Begins a model of `len` bytes, which follow in calls of `belljar_part`. The last one decodes it.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_load(len: u64) -> u64 {
    answer(|stage| {
        let Stage::Empty = stage else { return Err(out_of_order("load")) };
        let len = length(len)?;
        *stage = Stage::Loading(Box::new(load::Loading::new(len)));
        read_part(stage, &[])
    })
}

/// Reads the next bytes of a file, in the message at `address`. A file that is refused is dropped,
/// and the model with it.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_part(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| read_part(stage, &bytes))
}

fn read_part(stage: &mut Stage, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    *stage = match std::mem::replace(stage, Stage::Empty) {
        Stage::Loading(mut loading) => {
            loading.read(bytes)?;
            match loading.is_complete() {
                true => Stage::Loaded(Box::new(loading.finish()?)),
                false => Stage::Loading(loading),
            }
        }
        Stage::Filling(mut loaded, mut filling) => {
            filling.read(&mut loaded, bytes)?;
            match filling.is_complete() {
                true => {
                    filling.finish(&mut loaded)?;
                    Stage::Loaded(loaded)
                }
                false => Stage::Filling(loaded, filling),
            }
        }
        other => {
            *stage = other;
            return Err(out_of_order("part"));
        }
    };
    Ok(encode_ok())
}

/// The length of a file.
fn length(len: u64) -> Result<usize, Refusal> {
    let too_large = |_| Refusal::new(GuestErrorCode::Protocol, "a file's length exceeds 32 bits");
    usize::try_from(len).map_err(too_large)
}

/// Describes the loaded model.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_describe() -> u64 {
    answer(|stage| match stage {
        Stage::Loaded(loaded) => Ok(describe::describe(loaded)?.encode()),
        _ => Err(out_of_order("describe")),
    })
}

/// Begins a file with external data of the loaded model, of `len` bytes, which follow in calls of
/// `belljar_part`: the length of the location that the model uses for the file, in four bytes, the
/// location, and the file's content.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_external(len: u64) -> u64 {
    answer(|stage| {
        let len = length(len)?;
        *stage = match std::mem::replace(stage, Stage::Empty) {
            Stage::Loaded(loaded) => Stage::Filling(loaded, load::Filling::new(len)),
            other => {
                *stage = other;
                return Err(out_of_order("external"));
            }
        };
        read_part(stage, &[])
    })
}

/// Builds and optimises the loaded model for the input shapes in the message at `address`. Returns
/// the nodes that may still fail at run time.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_prepare(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| {
        // The decoded model is freed in any case, because it is not needed a second time.
        match std::mem::replace(stage, Stage::Empty) {
            Stage::Loaded(loaded) => {
                let (prepared, preparation) = prepare::prepare(*loaded, &bytes)?;
                *stage = Stage::Prepared(prepared);
                Ok(preparation.encode())
            }
            other => {
                *stage = other;
                Err(out_of_order("prepare"))
            }
        }
    })
}

/// Runs the prepared model on the tensors in the message at `address`, with the seed in it.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_run(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| match stage {
        Stage::Prepared(prepared) => run::run(prepared, bytes),
        _ => Err(out_of_order("run")),
    })
}

/// Runs the prepared model as `belljar_run` does, and also returns the time of each node. Only the
/// profiling variant has a clock.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_profile(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| match stage {
        Stage::Prepared(prepared) => profile::run(prepared, bytes),
        _ => Err(out_of_order("profile")),
    })
}

/// Converts the image file in the message at `address` to a tensor. Refused in an instance that has
/// a model.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_picture(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| {
        let Stage::Empty = stage else { return Err(out_of_order("picture")) };
        picture::picture(&bytes).map_err(|err| match err {
            PictureError::Message(why) => Refusal::new(GuestErrorCode::Protocol, why),
            PictureError::File(why) => Refusal::new(GuestErrorCode::BadInput, why),
            PictureError::Size(why) => Refusal::new(GuestErrorCode::ShapesRefused, why),
            PictureError::TooLarge(why) => Refusal::new(GuestErrorCode::PictureTooLarge, why),
        })
    })
}

/// Panics. For tests of how the host handles a panic, since no model is known to cause one.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_panic() -> u64 {
    answer(|_| panic!("on demand"))
}

/// Returns the kernels in the registries, as text in an error message of kind `Protocol`. For
/// tests: a kernel that the linker dropped makes models slow, but causes no failure.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_kernels() -> u64 {
    answer(|_| Err(Refusal::new(GuestErrorCode::Protocol, kernels::list())))
}
