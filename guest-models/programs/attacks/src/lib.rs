//! Tries what a script says against the interfaces of WASI, and tells what came of each line: for
//! tests of what a host refuses. It calls the interfaces themselves, so that no C library's own
//! checks stand before the host's.
//!
//! Input: `do`, text, one operation a line. Output: `outcomes`, text, one line for each: `ok`, what
//! was found, or `error` and the code's name.

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

/// What came of one line.
type Outcome = Result<String, String>;

/// Everything that lines opened, by the names they gave it.
#[derive(Default)]
struct Held {
    files: files::Files,
    sockets: sockets::Sockets,
}

impl Guest for Attacks {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let [(name, Value::Text(script))] = &inputs[..] else {
            return Err("one input is expected, called `do`: a text".into());
        };
        if name != "do" {
            return Err(format!("the input is called `do`, not {name:?}"));
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

/// What cannot stand in a line: `\0`, `\s` for a space, `\e` for nothing, `\L` for 5,000 letters,
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
    word.parse().map_err(|_| format!("(the script) {word:?} is no number"))
}
