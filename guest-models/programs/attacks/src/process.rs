//! Operations on the environment, standard streams, clocks and random numbers.

use wasip2::cli::environment::{get_arguments, get_environment, initial_cwd};
use wasip2::cli::exit::exit;
use wasip2::cli::stderr::get_stderr;
use wasip2::cli::stdin::get_stdin;
use wasip2::cli::stdout::get_stdout;
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::random::insecure::get_insecure_random_u64;
use wasip2::random::insecure_seed::insecure_seed;
use wasip2::random::random::{get_random_bytes, get_random_u64};

use crate::{Outcome, number};

pub fn act(words: &[&str]) -> Option<Outcome> {
    Some(Ok(match words {
        ["environment"] => {
            let set = get_environment().into_iter();
            set.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        }
        ["arguments"] => get_arguments().join(" "),
        ["cwd"] => initial_cwd().unwrap_or_default(),
        ["stdin"] => match get_stdin().blocking_read(1) {
            Ok(found) => format!("{} bytes", found.len()),
            Err(_) => "closed".to_owned(),
        },
        ["print", text] => match get_stdout().blocking_write_and_flush(text.as_bytes()) {
            Ok(()) => "ok".to_owned(),
            Err(_) => "refused".to_owned(),
        },
        ["print-error", text] => match get_stderr().blocking_write_and_flush(text.as_bytes()) {
            Ok(()) => "ok".to_owned(),
            Err(_) => "refused".to_owned(),
        },
        ["wall-clock"] => wall_clock::now().seconds.to_string(),
        ["monotonic-clock"] => monotonic_clock::now().to_string(),
        ["sleep", nanoseconds] => match number(nanoseconds) {
            Ok(time) => {
                monotonic_clock::subscribe_duration(time).block();
                "ok".to_owned()
            }
            Err(wrong) => return Some(Err(wrong)),
        },
        ["random"] => {
            let bytes = get_random_bytes(4);
            let seed = insecure_seed();
            format!("{} {bytes:?} {} {seed:?}", get_random_u64(), get_insecure_random_u64())
        }
        ["random-bytes", count] => match number(count) {
            Ok(count) => get_random_bytes(count).len().to_string(),
            Err(wrong) => return Some(Err(wrong)),
        },
        ["exit"] => {
            exit(Ok(()));
            "still here".to_owned()
        }
        _ => return None,
    }))
}
