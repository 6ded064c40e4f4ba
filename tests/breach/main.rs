//! Workers that an attacker has taken over. These need the feature `test-hooks`.

#[path = "../support/mod.rs"]
mod support;

mod assume_breach;
mod filter_rules;
mod foreign_guest;
mod known;
