//! The command line, as people and scripts use it.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod commands;
mod doctor;
mod endings;
mod pictures;
mod supervisor_memory;
mod tensor_files;
