//! The resolver from outside: its rules over a table of answers, and real signed zones.

mod dns;
mod rules;
mod warm;
mod world;
