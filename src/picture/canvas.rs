//! Pixels.

use font8x8::UnicodeFonts;

/// An RGB picture.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Black.
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; width * height * 3] }
    }

    /// Sets a pixel; beyond the edge nothing happens.
    pub(super) fn set(&mut self, [x, y]: [usize; 2], color: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&color);
        }
    }

    pub(super) fn fill(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], color: [u8; 3]) {
        (0..height).for_each(|dy| (0..width).for_each(|dx| self.set([x + dx, y + dy], color)));
    }

    /// Letters of 8 x 8 pixels; what has no letter is left blank.
    pub(super) fn text(&mut self, x: usize, y: usize, text: &str, color: [u8; 3]) {
        for (n, letter) in text.chars().enumerate() {
            for (dy, row) in font8x8::BASIC_FONTS.get(letter).unwrap_or_default().into_iter().enumerate() {
                for dx in (0..8).filter(|dx| row >> dx & 1 == 1) {
                    self.set([x + 8 * n + dx, y + dy], color);
                }
            }
        }
    }

    pub(super) fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}
