//! The files of onnx/ inside the program, so that it works from any folder.

/// File name and bytes of everything a shipped model needs, the manifest included.
pub(super) const FILES: &[(&str, &[u8])] = &[
    ("manifest.yaml", include_bytes!("../../../onnx/manifest.yaml")),
    ("starter.card.md", include_bytes!("../../../onnx/starter.card.md")),
    ("starter.doubt.yaml", include_bytes!("../../../onnx/starter.doubt.yaml")),
    ("starter.trunk.onnx", include_bytes!("../../../onnx/starter.trunk.onnx")),
    ("starter.refinement.onnx", include_bytes!("../../../onnx/starter.refinement.onnx")),
    ("starter.mask.onnx", include_bytes!("../../../onnx/starter.mask.onnx")),
    ("starter.close-up-trunk.onnx", include_bytes!("../../../onnx/starter.close-up-trunk.onnx")),
    ("starter.close-up-refinement.onnx", include_bytes!("../../../onnx/starter.close-up-refinement.onnx")),
    ("starter.close-up-mask.onnx", include_bytes!("../../../onnx/starter.close-up-mask.onnx")),
];

/// The bytes of a shipped file.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}
