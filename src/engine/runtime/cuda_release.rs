//! The release with CUDA: ONNX Runtime's GPU wheel and the libraries of NVIDIA that it loads.
//!
//! The wheels are unpacked side by side, as Python's installer does: the libraries find each other by paths relative
//! to their own.

use super::library::Release;
use super::package_index::IndexedFile;

pub(super) static LINUX_X86_64: Release = Release::new(
    "onnxruntime-gpu-1.31.1",
    "onnxruntime/capi/libonnxruntime.so.1.31.1",
    &[IndexedFile {
        project: "onnxruntime-gpu",
        file: "onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
        sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
        size: 255_569_273,
    }],
);
