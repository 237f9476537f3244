//! Starts the real programs as an operator would, and drives and proves what users do with them.

pub mod layout;
pub mod process;
