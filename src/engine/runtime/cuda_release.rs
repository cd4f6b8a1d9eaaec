//! The release with CUDA: ONNX Runtime's GPU wheel and the libraries of NVIDIA that it loads.
//!
//! The wheels are unpacked side by side, as Python's installer does. ONNX Runtime finds NVIDIA's libraries because they
//! are loaded before it: [`preload`]. Which versions go together is what the GPU wheel itself asks for.

use std::path::{Path, PathBuf};

use super::library::Release;
use super::package_index::IndexedFile;

/// Loads every library of NVIDIA below the folder that `library` was unpacked to; each pass loads those whose own
/// needs are loaded by then. What cannot be loaded is left to the CUDA provider to complain about.
pub(super) fn preload(library: &Path) {
    let Some(nvidia) =
        library.ancestors().nth(3).map(|root| root.join("nvidia")).filter(|path| path.is_dir())
    else {
        return;
    };
    let mut waiting = Vec::new();
    below(&nvidia, &mut waiting);
    loop {
        let before = waiting.len();
        waiting.retain(|path| ort::util::preload_dylib(path).is_err());
        if waiting.len() == before {
            break;
        }
    }
    for path in waiting {
        tracing::warn!(library = %path.display(), "cannot be loaded");
    }
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            below(&path, found);
        } else {
            found.push(path);
        }
    }
}

pub(super) static LINUX_X86_64: Release = Release::new(
    "onnxruntime-gpu-1.31.1",
    "onnxruntime/capi/libonnxruntime.so.1.31.1",
    &[
        IndexedFile {
            project: "onnxruntime-gpu",
            file: "onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
            sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
            size: 255_569_273,
        },
        IndexedFile {
            project: "nvidia-cuda-runtime",
            file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            size: 2_243_632,
        },
        IndexedFile {
            project: "nvidia-cublas",
            file: "nvidia_cublas-13.1.2.11-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "e1ad7b57879088bc79e31cc172891a64332f76ae733084d4aaaaa65499b9b3de",
            size: 423_122_711,
        },
        IndexedFile {
            project: "nvidia-cudnn-cu13",
            file: "nvidia_cudnn_cu13-9.28.1.4-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "a54f205b1db1f2895d99f398754db1369816f0569dd459731f925635cf7b65ec",
            size: 516_817_937,
        },
        IndexedFile {
            project: "nvidia-cufft",
            file: "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
            size: 214_085_489,
        },
        IndexedFile {
            project: "nvidia-curand",
            file: "nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
            size: 59_544_258,
        },
        IndexedFile {
            project: "nvidia-cuda-nvrtc",
            file: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            size: 90_215_200,
        },
        IndexedFile {
            project: "nvidia-nvjitlink",
            file: "nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
            size: 40_713_933,
        },
    ],
);
