//! The log function that this guest imports, and the logger and panic hook that use it.

/// Level of a line with the reason of a trap.
const PANIC: u32 = 0;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Sends a line of text to the host, which keeps a bounded amount.
    #[link_name = "log"]
    fn host_log(level: u32, address: *const u8, len: usize);
}

fn send(level: u32, text: &str) {
    // SAFETY: address and length are those of a live string; the host only reads.
    unsafe { host_log(level, text.as_ptr(), text.len()) }
}

struct ToHost;

impl log::Log for ToHost {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // tract logs a lot; only this crate's own messages are for users.
        let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        metadata.level() <= log::Level::Warn || ours && metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            send(record.level() as u32, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Sends warnings, errors and panics to the host.
pub(crate) fn install_reporting() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("panic without a message");
        match info.location() {
            Some(at) => send(PANIC, &format!("{text} ({}:{})", at.file(), at.line())),
            None => send(PANIC, text),
        }
    }));
    if log::set_logger(&ToHost).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
