//! A hostile worker: it attacks its supervisor, as after an escape from the sandbox.
//!
//! The bytes of its "model" name the call at which it misbehaves, and the attack.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use belljar::{DType, Description, Dim, ValueInfo};
use belljar_abi::{Preparation, TensorView, decode_run, encode_ok, encode_tensors};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// What a hostile worker does at a certain call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// No attack: the worker behaves correctly.
    Good,
    Exit,
    CloseAndLive,
    Crash,
    PanicMessage,
    Garbage,
    NoMessage,
    TooLong,
    LongerThanItsBuffer,
    OtherNumber,
    Twice,
    TwiceLater,
    ExtraDescriptors,
    UnwantedSnapshot,
    MissingSnapshot,
    SnapshotIsAPipe,
    SnapshotOfOddSize,
    SnapshotTooLarge,
    SnapshotStillWritable,
    Hang,
    DeadBeforeReading,
    ClaimsToBeLost,
    NotAMessage,
    OtherName,
    OtherType,
    OtherShape,
    FullOfDescriptors,
}

impl Behaviour {
    pub(crate) const ALL: [Behaviour; 27] = [
        Behaviour::Good,
        Behaviour::Exit,
        Behaviour::CloseAndLive,
        Behaviour::Crash,
        Behaviour::PanicMessage,
        Behaviour::Garbage,
        Behaviour::NoMessage,
        Behaviour::TooLong,
        Behaviour::LongerThanItsBuffer,
        Behaviour::OtherNumber,
        Behaviour::Twice,
        Behaviour::TwiceLater,
        Behaviour::ExtraDescriptors,
        Behaviour::UnwantedSnapshot,
        Behaviour::MissingSnapshot,
        Behaviour::SnapshotIsAPipe,
        Behaviour::SnapshotOfOddSize,
        Behaviour::SnapshotTooLarge,
        Behaviour::SnapshotStillWritable,
        Behaviour::Hang,
        Behaviour::DeadBeforeReading,
        Behaviour::ClaimsToBeLost,
        Behaviour::NotAMessage,
        Behaviour::OtherName,
        Behaviour::OtherType,
        Behaviour::OtherShape,
        Behaviour::FullOfDescriptors,
    ];
}

/// The bytes of a "model" whose worker makes this attack at `call`, and behaves correctly
/// otherwise. Every request to it must begin with the mark: a worker that sees another model, or
/// another mark, ends with [`MIXED_UP`].
pub(crate) fn model(call: &str, behaviour: Behaviour, mark: u16) -> Vec<u8> {
    format!("{call} {behaviour:?} {mark}").into_bytes()
}

/// The exit code of a worker that has seen data of another model.
pub(crate) const MIXED_UP: i32 = 9;

/// The description of one input and one output, of four numbers each.
fn description() -> Vec<u8> {
    let value = |name: &str| ValueInfo {
        name: name.into(),
        elem_type: 1,
        value_type: Default::default(),
        shape: Some(vec![Dim::Fixed(4)]),
        has_default: false,
    };
    let (inputs, outputs) = (vec![value("x")], vec![value("y")]);
    Description { inputs, outputs, ..Description::default() }.encode()
}

fn tensors(name: &str, dtype: DType, numbers: &[f32]) -> Vec<u8> {
    let dims = vec![numbers.len() as u64];
    encode_tensors(&[TensorView { name, dtype, dims, data: bytemuck::cast_slice(numbers) }])
}

/// A memory file that begins with this text.
pub(crate) fn memory(text: &[u8], len: u64) -> OwnedFd {
    let fd =
        memfd_create("belljar-snapshot", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    rustix::io::pwrite(&fd, text, 0).unwrap();
    fd
}

/// A memory snapshot that begins with this text.
fn snapshot(text: &[u8], len: u64) -> OwnedFd {
    memory(text, len)
}

struct HostileWorker {
    socket: OwnedFd,
    shared: Option<OwnedFd>,
    /// The text of the model, or of the snapshot made from it.
    text: String,
    /// The input of the last run.
    input: Vec<f32>,
}

/// Serves the supervisor at the other end of standard input.
pub(crate) fn serve() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut worker = HostileWorker { socket, shared: None, text: String::new(), input: Vec::new() };
    let Some((setup, descriptors)) = worker.receive() else { return };
    worker.shared = descriptors.into_iter().find(|fd| is(fd, "memfd:belljar-tensors"));
    if setup.get("plan").is_some() {
        worker.send(&json!({ "Ok": [] }), &[]);
    }
    loop {
        let call = worker.peek();
        if worker.behaviour(&call) == Behaviour::DeadBeforeReading {
            return;
        }
        let Some((order, descriptors)) = worker.receive() else { return };
        if let Some(fd) = descriptors.first() {
            worker.read_text(fd);
        }
        worker.obey(&call, &order);
    }
}

pub(crate) fn is(fd: &OwnedFd, what: &str) -> bool {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.to_string_lossy().contains(what))
}

impl HostileWorker {
    /// Reads the next order without removing it from the channel.
    fn peek(&self) -> String {
        let mut buffer = vec![0; 128 << 10];
        let (len, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::PEEK).unwrap();
        if len == 0 {
            // The supervisor has ended.
            std::process::exit(0);
        }
        let order: Value = serde_json::from_slice(&buffer[..len]).unwrap();
        order["call"].as_str().unwrap().to_owned()
    }

    /// The attack to make at a call.
    fn behaviour(&self, call: &str) -> Behaviour {
        let mut words = self.text.split(' ');
        let behaviour = words.next().filter(|at| *at == call).and_then(|_| words.next());
        let named =
            |name| Behaviour::ALL.into_iter().find(|behaviour| format!("{behaviour:?}") == name);
        behaviour.and_then(named).unwrap_or(Behaviour::Good)
    }

    fn mark(&self) -> f32 {
        self.text.split(' ').nth(2).unwrap_or("0").parse().unwrap()
    }

    fn receive(&self) -> Option<(Value, Vec<OwnedFd>)> {
        receive(&self.socket)
    }

    fn send(&self, message: &Value, descriptors: &[BorrowedFd<'_>]) {
        send(&self.socket, message, descriptors);
    }

    fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        send_bytes(&self.socket, bytes, descriptors);
    }

    /// Writes an answer into the shared buffer, and returns the message about it.
    fn outcome(&self, number: &Value, message: &[u8], snapshot: bool) -> Value {
        rustix::io::pwrite(self.shared.as_ref().unwrap(), message, 0).unwrap();
        self.outcome_of(number, message.len() as u64, snapshot)
    }

    fn outcome_of(&self, number: &Value, len: u64, snapshot: bool) -> Value {
        let nothing = json!({ "secs": 0, "nanos": 0 });
        let cost = json!({
            "memory": 65_536, "time": nothing, "kernels": nothing, "instantiate": nothing,
            "reset": nothing, "method": "NewMapping",
        });
        json!({ "number": number, "result": { "Ok": [len, cost] }, "log": [], "snapshot": snapshot })
    }

    fn read_text(&mut self, fd: &OwnedFd) {
        let mut text = [0; 64];
        let len = rustix::io::pread(fd, &mut text[..], 0).unwrap();
        let text = String::from_utf8_lossy(&text[..len]).trim_end_matches('\0').to_owned();
        if !self.text.is_empty() && self.text != text {
            std::process::exit(MIXED_UP);
        }
        self.text = text;
    }

    fn obey(&mut self, call: &str, order: &Value) {
        let behaviour = self.behaviour(call);
        let number = &order["number"];
        let message = match call {
            "Describe" => description(),
            "Run" => {
                let len = order["source"]["Shared"].as_u64().unwrap();
                let mut message = vec![0; len as usize];
                rustix::io::pread(self.shared.as_ref().unwrap(), &mut message[..], 0).unwrap();
                let views = decode_run(&message).unwrap().inputs;
                let numbers = views[0].data.chunks(4);
                self.input =
                    numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
                if self.input[0] != self.mark() {
                    std::process::exit(MIXED_UP);
                }
                tensors("y", DType::F32, &self.input)
            }
            "Prepare" => Preparation::default().encode(),
            _ => encode_ok(),
        };
        let text = self.text.as_bytes();
        let page = 64 << 10;
        let prepares = call == "Prepare";
        let good = |worker: &HostileWorker| {
            let made = prepares.then(|| snapshot(text, page));
            let with = made.as_ref().map(|fd| fd.as_fd());
            worker.send(&worker.outcome(number, &message, prepares), with.as_slice());
        };
        let with = |made: OwnedFd| {
            self.send(&self.outcome(number, &message, true), &[made.as_fd()]);
        };
        match behaviour {
            Behaviour::Good | Behaviour::DeadBeforeReading => good(self),
            Behaviour::Exit => std::process::exit(3),
            Behaviour::CloseAndLive => {
                // Standard input is the same socket.
                rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
                std::thread::sleep(Duration::from_secs(600));
            }
            Behaviour::Crash => crash(),
            Behaviour::PanicMessage => {
                let failure = json!({ "Panicked": "\u{1b}[2Jhere I am\n".repeat(100) });
                self.send(&failed(number, &failure), &[]);
            }
            Behaviour::Garbage => self.send_bytes(b"{\"number\": 1e999, \xff", &[]),
            Behaviour::NoMessage => self.send(&json!({ "Ok": [] }), &[]),
            Behaviour::TooLong => {
                rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, 1 << 20).unwrap();
                self.send_bytes(&vec![b' '; (128 << 10) + 1], &[]);
            }
            Behaviour::LongerThanItsBuffer => {
                self.send(&self.outcome_of(number, u64::MAX, false), &[])
            }
            Behaviour::OtherNumber => {
                let other = json!(number.as_u64().unwrap().wrapping_add(1));
                self.send(&self.outcome(&other, &message, false), &[]);
            }
            Behaviour::Twice => {
                good(self);
                self.send(&self.outcome(number, &message, false), &[]);
            }
            Behaviour::TwiceLater => {
                good(self);
                // Late enough that the second answer may arrive during the next order.
                std::thread::sleep(Duration::from_millis(50));
                self.send(&self.outcome(number, &message, false), &[]);
            }
            Behaviour::ExtraDescriptors => {
                let made = [snapshot(text, page), snapshot(text, page)];
                let with = [made[0].as_fd(), made[1].as_fd()];
                self.send(&self.outcome(number, &message, true), &with);
            }
            Behaviour::FullOfDescriptors => {
                let made = snapshot(text, page);
                let with: Vec<_> = (0..253).map(|_| made.as_fd()).collect();
                self.send(&self.outcome(number, &message, true), &with);
            }
            Behaviour::UnwantedSnapshot => with(snapshot(text, page)),
            Behaviour::MissingSnapshot => self.send(&self.outcome(number, &message, true), &[]),
            Behaviour::SnapshotIsAPipe => with(rustix::pipe::pipe().unwrap().0),
            Behaviour::SnapshotOfOddSize => with(snapshot(text, page + 1)),
            Behaviour::SnapshotTooLarge => with(snapshot(text, 1 << 40)),
            Behaviour::SnapshotStillWritable => {
                let made = snapshot(text, page);
                map_for_ever(&made, page as usize);
                with(made);
            }
            Behaviour::Hang => std::thread::sleep(Duration::from_secs(600)),
            Behaviour::ClaimsToBeLost => {
                let loss = json!({ "end": "HungUp", "began": false, "served": false });
                let failure = json!({ "Lost": loss });
                self.send(&failed(number, &failure), &[]);
            }
            Behaviour::NotAMessage => self.send(&self.outcome(number, &[0xab; 100], false), &[]),
            Behaviour::OtherName => {
                let message = tensors("z", DType::F32, &self.input);
                self.send(&self.outcome(number, &message, false), &[]);
            }
            Behaviour::OtherType => {
                let message = tensors("y", DType::I32, &self.input);
                self.send(&self.outcome(number, &message, false), &[]);
            }
            Behaviour::OtherShape => {
                let message = tensors("y", DType::F32, &[1.0; 5]);
                self.send(&self.outcome(number, &message, false), &[]);
            }
        }
    }
}

pub(crate) fn receive(socket: &OwnedFd) -> Option<(Value, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 128 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut iov, &mut ancillary, flags).ok()?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    Some((serde_json::from_slice(buffer.get(..received.bytes)?).ok()?, descriptors))
}

pub(crate) fn send(socket: &OwnedFd, message: &Value, descriptors: &[BorrowedFd<'_>]) {
    send_bytes(socket, &serde_json::to_vec(message).unwrap(), descriptors);
}

pub(crate) fn send_bytes(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

fn failed(number: &Value, failure: &Value) -> Value {
    json!({ "number": number, "result": { "Err": failure }, "log": [], "snapshot": false })
}

/// Reads from an unmapped address.
pub(crate) fn crash() {
    // SAFETY: this is not sound, on purpose: nothing is mapped at the address, so the kernel ends
    // this process.
    let read = unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() };
    std::process::exit(i32::from(read));
}

/// Maps memory for writing, and never unmaps it.
pub(crate) fn map_for_ever(memory: &OwnedFd, len: usize) {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing refers to.
    unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, memory, 0) }.unwrap();
}
