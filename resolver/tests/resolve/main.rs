//! The resolver from outside: its rules over a table of answers, and real signed zones.

#![expect(clippy::unwrap_used, reason = "in a test a failed set-up is a failed test")]

mod dns;
mod rules;
mod warm;
mod world;
