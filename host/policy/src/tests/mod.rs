//! Tests of the policy module: the format, the walk to a file, the template, and the policies
//! that come with Belljar.

mod address;
mod canonical;
mod ceiling;
mod ceiling_files;
mod format;
mod granted_files;
mod grants;
mod load;
mod schema;
mod shipped;
mod template;
mod units;

use super::*;

/// The error's text. Checks what every message must satisfy: one to three lines, all printable.
fn refused(text: &str) -> String {
    let error = Policy::parse(text, "test.toml").expect_err(text).to_string();
    assert!((1..=3).contains(&error.lines().count()), "{error}");
    assert!(!error.chars().any(|c| c.is_control() && c != '\n'), "{error:?}");
    assert!(error.len() < 2000, "{error}");
    error
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
}
