//! What a person looks at: slices with contours as PNG.
