//! A hostile process of a guest program: it attacks its supervisor, as after an escape from the
//! sandbox or a breach of the compiler.
//!
//! The bytes of its "program" name the order at which it misbehaves, and the attack.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use belljar::DType;
use belljar_abi::{TensorView, encode_tensors};
use serde_json::{Value, json};

use super::hostile_worker::{crash, is, map_for_ever, memory, receive, send, send_bytes};

/// The first bytes of every component.
pub(crate) const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";

/// The bytes of a "program" whose process makes this attack at this order.
pub(crate) fn program(order: &str, behaviour: &str) -> Vec<u8> {
    [HEAD, format!("{order} {behaviour} ").as_bytes()].concat()
}

/// A text with control characters.
const UGLY: &str = "\u{1b}[2Jhere I am\n\u{202e}";

struct Process {
    socket: OwnedFd,
    shared: Option<OwnedFd>,
    text: String,
}

/// Serves the supervisor at the other end of standard input.
pub(crate) fn serve() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let Some((setup, _)) = receive(&socket) else { return };
    let work = &setup["work"];
    let files = work["Program"]["files"].as_u64().unwrap_or(0);
    for _ in 0..files {
        receive(&socket);
    }
    send(&socket, &json!({ "Ok": [] }), &[]);
    let mut process = Process { socket, shared: None, text: String::new() };
    match work == "CompileProgram" {
        true => process.compile(),
        false => process.load(),
    }
}

impl Process {
    fn receive(&self) -> Option<(Value, Vec<OwnedFd>)> {
        receive(&self.socket)
    }

    fn send(&self, message: &Value) {
        send(&self.socket, message, &[]);
    }

    fn read_text(&mut self, fd: &OwnedFd) {
        let mut text = [0; 64];
        let len = rustix::io::pread(fd, &mut text[..], HEAD.len() as u64).unwrap();
        self.text = String::from_utf8_lossy(&text[..len]).trim_end_matches('\0').to_owned();
    }

    /// The attack to make at an order.
    fn behaviour(&self, order: &str) -> String {
        let mut words = self.text.split(' ');
        match words.next() == Some(order) {
            true => words.next().unwrap_or_default().to_owned(),
            false => String::new(),
        }
    }

    /// Makes an attack that is possible at any order. Returns whether it was one of these.
    fn usual(&self, behaviour: &str) -> bool {
        match behaviour {
            "exit" => std::process::exit(3),
            "crash" => crash(),
            "close" => {
                rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
                std::thread::sleep(Duration::from_secs(600));
            }
            "hang" => std::thread::sleep(Duration::from_secs(600)),
            "garbage" => send_bytes(&self.socket, b"{\"Answers\": 1e999, \xff", &[]),
            "other" => self.send(&json!({ "Ok": [] })),
            "long" => {
                let size = 1 << 20;
                rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, size).unwrap();
                send_bytes(&self.socket, &vec![b' '; (128 << 10) + 1], &[]);
            }
            "descriptors" => {
                let made = memory(b"x", 4096);
                let with: Vec<_> = (0..253).map(|_| made.as_fd()).collect();
                send(&self.socket, &json!({ "Answers": { "Ok": null } }), &with);
            }
            _ => return false,
        }
        true
    }

    fn compile(&mut self) {
        let Some((_, descriptors)) = self.receive() else { return };
        self.read_text(&descriptors[0]);
        let behaviour = self.behaviour("compile");
        if self.usual(&behaviour) {
            return;
        }
        let code = program("", "");
        let whole = [&code[..HEAD.len()], self.text.as_bytes()].concat();
        let good = || memory(&whole, whole.len() as u64);
        let compiled = json!({ "Ok": null });
        let with = |code: OwnedFd| send(&self.socket, &compiled, &[code.as_fd()]);
        match &*behaviour {
            "no-code" => self.send(&compiled),
            "empty" => with(memory(b"", 0)),
            "pipe" => with(rustix::pipe::pipe().unwrap().0),
            "huge" => with(memory(&whole, (512 << 20) + 1)),
            "writable" => {
                let made = good();
                map_for_ever(&made, 4096);
                with(made);
                // The mapping must exist until the supervisor ends this process.
                std::thread::sleep(Duration::from_secs(600));
            }
            "refuses" => self.send(&json!({ "Err": UGLY.repeat(100) })),
            _ => with(good()),
        }
    }

    fn load(&mut self) {
        let Some((order, descriptors)) = self.receive() else { return };
        assert_eq!(order, "Load");
        self.read_text(&descriptors[0]);
        self.shared = descriptors.into_iter().find(|fd| is(fd, "memfd:belljar-tensors"));
        let behaviour = self.behaviour("load");
        match &*behaviour {
            behaviour if self.usual(behaviour) => return,
            "refuses" => {
                self.send(&json!({ "Loaded": { "Err": { "Refused": UGLY.repeat(100) } } }));
                return;
            }
            "fails" => {
                let failure = json!({ "Failed": { "Trapped": UGLY.repeat(100) } });
                self.send(&json!({ "Loaded": { "Err": failure } }));
                return;
            }
            "answers" => self.answer(0),
            _ => self.send(&json!({ "Loaded": { "Ok": null } })),
        }
        let Some(_) = self.receive() else { return };
        self.run();
    }

    fn answer(&self, len: u64) {
        let spent = json!({
            "memory": u64::MAX, "bytes_written": u64::MAX, "files_created": u32::MAX,
            "open_handles": u32::MAX, "connections": u32::MAX, "bytes_sent": u64::MAX,
            "bytes_received": u64::MAX,
        });
        self.send(&json!({ "Answers": { "Ok": [len, spent] } }));
    }

    /// Answers with these values, written into the shared buffer.
    fn answer_with(&self, names: &[&str], data: &[u8]) {
        let dims = vec![data.len() as u64];
        let view = |name| TensorView { name, dtype: DType::U8, dims: dims.clone(), data };
        let views: Vec<_> = names.iter().map(|name| view(*name)).collect();
        self.answer_bytes(&encode_tensors(&views));
    }

    fn answer_bytes(&self, message: &[u8]) {
        rustix::io::pwrite(self.shared.as_ref().unwrap(), message, 0).unwrap();
        self.answer(message.len() as u64);
    }

    /// Asks for something, and returns whether it was granted.
    fn asks(&self, ask: Value) -> bool {
        self.send(&json!({ "Asks": ask }));
        let Some((reply, descriptors)) = self.receive() else { std::process::exit(0) };
        let answer = &reply["answer"];
        let refused = answer.get("Refused").is_some() || answer["Seen"] == "Unseen";
        !descriptors.is_empty() || !refused
    }

    fn decided(&self, resource: &str, allowed: bool) {
        let decided =
            json!({ "resource": resource, "access": UGLY, "allowed": allowed, "rule": UGLY });
        self.send(&json!({ "Decided": decided }));
    }

    fn run(&self) {
        let behaviour = self.behaviour("run");
        let connect = |host: Value| json!({ "Connect": [host, 80, "Tcp"] });
        let refused = |given: bool| match given {
            true => self.answer_with(&["sgiven"], b"it was given"),
            false => self.send(&json!({ "Answers": { "Err": { "GaveUp": UGLY.repeat(100) } } })),
        };
        match &*behaviour {
            behaviour if self.usual(behaviour) => {}
            "gives-up" => refused(false),
            "fails" => {
                let failure = json!({ "Failed": { "Trapped": UGLY.repeat(100) } });
                self.send(&json!({ "Answers": { "Err": failure } }));
            }
            "claims-to-be-lost" => {
                let loss = json!({ "end": "HungUp", "began": false, "served": false });
                let failure = json!({ "Failed": { "Lost": loss } });
                self.send(&json!({ "Answers": { "Err": failure } }));
            }
            "longer-than-its-buffer" => self.answer(u64::MAX),
            "no-message" => self.answer_bytes(&[0xab; 100]),
            "twice" => self.answer_with(&["sa", "sa"], b"x"),
            "no-kind" => self.answer_with(&["xa"], b"x"),
            "no-text" => self.answer_with(&["sa"], &[0xff, 0xfe]),
            "too-much" => self.answer_with(&["ba"], &vec![0; 2 << 20]),
            "loads-twice" => self.send(&json!({ "Loaded": { "Ok": null } })),
            "asks-for-a-model" => refused(self.asks(json!({ "Named": "magika" }))),
            "brings-a-model" => {
                rustix::io::pwrite(self.shared.as_ref().unwrap(), b"model", 0).unwrap();
                refused(self.asks(json!({ "Brought": 5 })));
            }
            "brings-too-much" => refused(self.asks(json!({ "Brought": u64::MAX }))),
            "runs-no-model" => refused(self.asks(json!({ "Compute": [u32::MAX, 0] }))),
            "connects" => refused(self.asks(connect(json!({ "Address": "127.0.0.1" })))),
            "connects-to-metadata" => {
                refused(self.asks(connect(json!({ "Address": "169.254.169.254" }))));
            }
            "connects-by-name" => refused(self.asks(connect(json!({ "Name": "localhost" })))),
            "connects-to-no-name" => refused(self.asks(connect(json!({ "Name": UGLY })))),
            "looks-outside" => {
                let look = |grant: &str, folder: &str, name: &str| {
                    let at =
                        json!({ "grant": grant, "folder": folder, "name": name, "is": [0, 0] });
                    self.asks(json!({ "Look": at }))
                };
                let paths = [("/etc", "passwd"), ("..", "etc"), (".", "../etc"), ("", UGLY)];
                let grants = ["/", "", "/data", UGLY];
                let seen =
                    grants.map(|grant| paths.map(|(folder, name)| look(grant, folder, name)));
                refused(seen.as_flattened().contains(&true));
            }
            "looks-without-end" => {
                let at = json!({ "grant": "/", "folder": ".", "name": "x", "is": [0, 0] });
                while !self.asks(json!({ "Look": at })) {}
            }
            "prints" => {
                for _ in 0..1000 {
                    self.send(&json!({ "Prints": ["Out", UGLY] }));
                }
                refused(false);
            }
            "claims-grants" => {
                self.decided("/etc/shadow", true);
                self.decided(UGLY, false);
                refused(self.asks(connect(json!({ "Address": "127.0.0.1" }))));
            }
            "decides-without-end" => {
                for at in 0.. {
                    self.decided(&format!("/{at}"), false);
                }
            }
            "speaks-without-end" => loop {
                self.send(&json!({ "Prints": ["Out", "x"] }));
            },
            "asks-without-end" => while !self.asks(json!({ "Named": "magika" })) {},
            "does-not-listen" => loop {
                self.send(&json!({ "Asks": { "Named": "magika" } }));
            },
            _ => self.answer_with(&["sy"], b"good"),
        }
        // Stays alive after the answer, so that the supervisor must end it.
        std::thread::sleep(Duration::from_secs(60));
    }
}
