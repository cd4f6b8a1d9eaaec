//! ONNX Runtime: finding or fetching the library, sessions. The only room that speaks to `ort`.

pub mod session;
