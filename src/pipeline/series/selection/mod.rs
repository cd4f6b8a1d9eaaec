//! What is to be done with a series: value in, value out.
//!
//! Comes in: the attributes of an instance and who sent it. Goes out: a [`Choice`], with what each rule said.

mod choice;
mod condition;
mod rules;
mod subject;

pub use choice::{Choice, InvalidWindow, Priority, Window};
pub use condition::{Condition, InvalidCondition, Operator, Test, Written};
pub use rules::{Answer, Explained, PassedOver, Rule, Rules};
pub use subject::Subject;
