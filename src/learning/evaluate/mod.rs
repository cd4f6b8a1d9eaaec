//! Overlap and surface distances between truth and prediction.
