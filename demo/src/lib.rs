//! Starts the real programs as an operator would, and drives and proves what users do with them.

pub mod bench;
pub mod conform;
pub mod crash;
pub mod layout;
pub mod main_job;
pub mod peers;
pub mod process;
pub mod sdk;
pub mod talk;
pub mod world;
