//! Belljar's built-in guest: one instance holds one ONNX model, from its bytes to its answers.
//!
//! It is compiled to a core WebAssembly module for `wasm32-unknown-unknown` and imports nothing
//! but the functions in [`host`]: no files, no clock, no randomness. Every answer is a function of
//! the model and its inputs. The clock that [`profile`] reads is imported by the profiling variant
//! only, which answers no requests (see `guest-models/README.md`).
//!
//! The host calls the exports below in this order: `belljar_initialize` once; then, for each
//! message it sends, `belljar_alloc` and a write; `belljar_load`, `belljar_describe`, any number of
//! `belljar_external`, `belljar_prepare` and any number of `belljar_run`. An instance without a model
//! takes `belljar_picture`. Each call that takes a message, and `belljar_describe`, answers with the
//! place of a message in memory: its address in the low 32 bits, its length in the high 32. The
//! message stays valid until the next call.

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
mod picture;
mod prepare;
mod profile;
mod run;
mod spans;
mod undecided;

use std::cell::RefCell;

use belljar_abi::{ABI_VERSION, GuestErrorCode, encode_error, encode_ok};

use picture::PictureError;

/// Why a call is refused: what the host is told.
pub(crate) struct Refusal {
    code: GuestErrorCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: GuestErrorCode, text: impl ToString) -> Refusal {
        Refusal { code, text: text.to_string() }
    }
}

/// How far the one model of this instance has come.
enum Stage {
    Empty,
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

/// Runs one call and leaves its answer where the host finds it.
fn answer(call: impl FnOnce(&mut Stage) -> Result<Vec<u8>, Refusal>) -> u64 {
    GUEST.with_borrow_mut(|guest| {
        // The last answer is given back before the call needs memory.
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

/// The version of the messages and exports this guest speaks.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_abi_version() -> u32 {
    ABI_VERSION
}

/// Runs the constructors that fill tract's registries, and makes panics speak. Later calls do
/// nothing.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_initialize() {
    memory::run_constructors_once();
    host::install_reporting();
}

/// Decodes the model in the message at `address`, which this call takes over.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_load(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| {
        let Stage::Empty = stage else { return Err(out_of_order("load")) };
        *stage = Stage::Loaded(Box::new(load::load(bytes)?));
        Ok(encode_ok())
    })
}

/// Answers what the loaded model says about itself.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_describe() -> u64 {
    answer(|stage| match stage {
        Stage::Loaded(loaded) => Ok(describe::describe(&loaded.proto)?.encode()),
        _ => Err(out_of_order("describe")),
    })
}

/// Gives the loaded model a file in which it keeps data, in the message at `address`: the length of
/// the name by which it knows the file, in four bytes, the name, and the file's content.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_external(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| match stage {
        Stage::Loaded(loaded) => load::external(loaded, &bytes).map(|()| encode_ok()),
        _ => Err(out_of_order("external")),
    })
}

/// Builds and optimises the loaded model for the input shapes in the message at `address`. Answers
/// what is still undecided.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_prepare(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| {
        // Whatever happens the decoded model is given back: it is not needed a second time.
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

/// Runs the prepared model on the tensors in the message at `address`.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_run(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| match stage {
        Stage::Prepared(prepared) => run::run(prepared, bytes),
        _ => Err(out_of_order("run")),
    })
}

/// Runs the prepared model as `belljar_run` does, and answers how long each node took as well. Only the
/// profiling variant has a clock to tell.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_profile(address: usize, len: usize) -> u64 {
    let bytes = memory::take_message(address, len);
    answer(|stage| match stage {
        Stage::Prepared(prepared) => profile::run(prepared, bytes),
        _ => Err(out_of_order("profile")),
    })
}

/// Makes a tensor of the image file in the message at `address`. It takes no model, and is refused in
/// an instance that has one.
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

/// Panics. For tests: what a panic of the guest is to the host, although no model is known to cause
/// one.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_panic() -> u64 {
    answer(|_| panic!("on demand"))
}

/// Answers, as text in an error message of kind `Protocol`, the kernels that the registries hold.
/// For tests: a kernel that the linker dropped is a slow model, not a failure.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_kernels() -> u64 {
    answer(|_| Err(Refusal::new(GuestErrorCode::Protocol, kernels::list())))
}
