//! The command line, as people and scripts use it.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod commands;
mod dims;
mod doctor;
mod endings;
mod exit_codes;
mod inspect;
mod pictures;
mod running;
mod supervisor_memory;
mod tensor_files;
mod values;
mod workers;
