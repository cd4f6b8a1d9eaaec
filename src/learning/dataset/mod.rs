//! Cases: CT, masks, and which organs are annotated.
