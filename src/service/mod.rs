//! What keeps the pipeline running.
