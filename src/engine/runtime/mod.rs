//! ONNX Runtime: found or fetched, and spoken to.

mod cuda_release;
pub mod library;
pub mod package_index;
pub mod placement;
pub mod session;
