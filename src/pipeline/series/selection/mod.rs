//! What is to be done with a series: value in, value out.

mod choice;

pub use choice::{Choice, InvalidWindow, Priority, Window};
