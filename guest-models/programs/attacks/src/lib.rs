//! Runs a script of WASI calls and reports the outcome of each line, for tests of what a host
//! refuses. It calls the WASI interfaces directly, so that no C library checks the arguments before
//! the host.
//!
//! Input: `do`, text, one operation per line. Output: `outcomes`, text, one line for each: `ok`
//! with the result, or `error` with the name of the code.

mod files;
mod process;
mod sockets;

use belljar::program::values::Value;

wit_bindgen::generate!({
    path: "../../wit",
    world: "belljar:program/program",
});

struct Attacks;

export!(Attacks);

/// The outcome of one line.
type Outcome = Result<String, String>;

/// Everything that the script opened, by the names in the script.
#[derive(Default)]
struct Held {
    files: files::Files,
    sockets: sockets::Sockets,
}

impl Guest for Attacks {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let [(name, Value::Text(script))] = &inputs[..] else {
            return Err("expected one input, `do`, a text".into());
        };
        if name != "do" {
            return Err(format!("expected the input `do`, found {name:?}"));
        }
        let mut held = Held::default();
        let mut outcomes = String::new();
        for line in script.lines().filter(|line| !line.is_empty()) {
            let words: Vec<String> = line.split(' ').map(unescape).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match act(&mut held, &words) {
                Ok(found) => outcomes.push_str(&found),
                Err(code) => outcomes.push_str(&format!("error {code}")),
            }
            outcomes.push('\n');
        }
        Ok(vec![("outcomes".to_owned(), Value::Text(outcomes))])
    }
}

fn act(held: &mut Held, words: &[&str]) -> Outcome {
    files::act(&mut held.files, words)
        .or_else(|| sockets::act(&mut held.sockets, words))
        .or_else(|| process::act(words))
        .unwrap_or_else(|| Err(format!("(the script) {words:?}")))
}

/// Replaces escapes: `\0`, `\s` for a space, `\e` for the empty string, `\L` for 5,000 letters,
/// `\n` and `\x` for an escape character.
fn unescape(word: &str) -> String {
    word.replace("\\0", "\0")
        .replace("\\s", " ")
        .replace("\\e", "")
        .replace("\\n", "\n")
        .replace("\\x", "\u{1b}")
        .replace("\\L", &"l".repeat(5000))
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("(the script) {word:?} is not a number"))
}
