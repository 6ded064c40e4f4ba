//! The only functions this guest imports, and what it says through them.

/// Level of a line that tells why the guest is about to trap.
const PANIC: u32 = 0;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Gives the host a line of text. The host keeps a bounded amount.
    #[link_name = "log"]
    fn host_log(level: u32, address: *const u8, len: usize);
}

fn say(level: u32, text: &str) {
    // SAFETY: address and length are those of a live string; the host only reads.
    unsafe { host_log(level, text.as_ptr(), text.len()) }
}

struct ToHost;

impl log::Log for ToHost {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // tract has much to say; what this crate says is for people.
        let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        metadata.level() <= log::Level::Warn || ours && metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            say(record.level() as u32, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Sends warnings, errors and panics to the host.
pub(crate) fn install_reporting() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic without a message");
        match info.location() {
            Some(at) => say(PANIC, &format!("{text} ({}:{})", at.file(), at.line())),
            None => say(PANIC, text),
        }
    }));
    if log::set_logger(&ToHost).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
