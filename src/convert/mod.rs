//! Masks of other tools to structure sets and back.
