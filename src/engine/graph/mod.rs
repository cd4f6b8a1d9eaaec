//! The network as ONNX graphs: presets, builder, the one definition, its fast CPU form, derivatives, losses, Adam.
