//! JPEG Extended, sequential, Huffman coded, 12 bits, one component (ITU-T T.81, process 4).
//!
//! Lossy, but some archives hold CT that way; the decoders of dicom-rs stop at 8 bits.

use super::jpeg_ls::{FrameSize, Segments, frame_of};

/// Largest side that is decoded; it bounds what is allocated.
const LARGEST_SIDE: u16 = 4096;

/// Why a stream was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JpegError {
    #[error("it does not begin as a JPEG stream, or ends before its scan")]
    NoScan,
    #[error("its frame header is missing, or not of one component of 12 bits")]
    Frame,
    #[error("a table is missing or damaged")]
    Table,
    #[error("it uses restart intervals, which are not decoded here")]
    Restart,
    #[error("it ends before the last pixel")]
    Ends,
    #[error("it holds a code that its tables do not know")]
    Code,
}

/// Position in the block of the k-th coefficient (T.81 figure A.6).
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Decodes the samples, row by row.
pub(super) fn decode(stream: &[u8]) -> Result<Vec<u16>, JpegError> {
    let mut frame = None;
    let mut quantization: [Option<[f32; 64]>; 4] = [None; 4];
    let mut huffman: [Option<Huffman>; 8] = std::array::from_fn(|_| None);
    let mut segments = Segments::new(stream).ok_or(JpegError::NoScan)?;
    let scan = loop {
        let (marker, body) = segments.next().ok_or(JpegError::NoScan)?;
        match marker {
            0xC1 => frame = frame_of(marker, body).zip(body.get(8).copied()),
            0xDB => read_quantization(body, &mut quantization)?,
            0xC4 => read_huffman(body, &mut huffman)?,
            0xDD if body.iter().any(|byte| *byte != 0) => return Err(JpegError::Restart),
            0xDA => break body,
            _ => {}
        }
    };
    let (frame, table) = frame.ok_or(JpegError::Frame)?;
    let side_ok = |side: u16| (1..=LARGEST_SIDE).contains(&side);
    if !(side_ok(frame.rows) && side_ok(frame.columns)) || frame.components != 1 || frame.bits != 12 {
        return Err(JpegError::Frame);
    }
    let &[1, _, tables, ..] = scan else { return Err(JpegError::NoScan) };
    let dc = huffman.get(usize::from(tables >> 4)).and_then(Option::as_ref).ok_or(JpegError::Table)?;
    let ac = huffman.get(4 + usize::from(tables & 15)).and_then(Option::as_ref).ok_or(JpegError::Table)?;
    let steps = quantization.get(usize::from(table)).copied().flatten().ok_or(JpegError::Table)?;
    let mut bits = Bits { stream: segments.rest(), position: 0, buffer: 0, count: 0 };
    decode_scan(frame, &steps, dc, ac, &mut bits)
}

/// Blocks of 8 x 8 in rows; what lies beyond the right and lower edge is decoded and dropped.
fn decode_scan(
    frame: FrameSize,
    steps: &[f32; 64],
    dc: &Huffman,
    ac: &Huffman,
    bits: &mut Bits<'_>,
) -> Result<Vec<u16>, JpegError> {
    let (rows, columns) = (usize::from(frame.rows), usize::from(frame.columns));
    let cosines = cosines();
    let mut samples = vec![0; rows * columns];
    let mut level = 0_i32;
    for top in (0..rows).step_by(8) {
        for left in (0..columns).step_by(8) {
            let mut block = [0.0; 64];
            let size = dc.symbol(bits)?;
            level = level.checked_add(bits.difference(size)?).ok_or(JpegError::Code)?;
            block[0] = level as f32 * steps[0];
            let mut k = 1;
            while k < 64 {
                let symbol = ac.symbol(bits)?;
                let (run, size) = (usize::from(symbol >> 4), symbol & 15);
                if size == 0 && run < 15 {
                    break;
                }
                k += run;
                let value = bits.difference(size)?;
                let place = *ZIGZAG.get(k).ok_or(JpegError::Code)?;
                block[place] = value as f32 * steps[k];
                k += 1;
            }
            let pixels = inverse_transform(&block, &cosines);
            for y in 0..8.min(rows - top) {
                for x in 0..8.min(columns - left) {
                    samples[(top + y) * columns + left + x] = sample_of(pixels[y * 8 + x]);
                }
            }
        }
    }
    Ok(samples)
}

/// Samples of 12 bits lie around 2048 (T.81 A.3.1).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=4095 in the same line"
)]
fn sample_of(value: f32) -> u16 {
    (value + 2048.0).round().clamp(0.0, 4095.0) as u16
}

/// `c(u) / 2 * cos((2 x + 1) u pi / 16)` at `[u][x]` (T.81 A.3.3).
fn cosines() -> [[f32; 8]; 8] {
    let weight = |u: u8| if u == 0 { std::f32::consts::FRAC_1_SQRT_2 / 2.0 } else { 0.5 };
    let cosine = |u: u8, x: u8| (f32::from(2 * x + 1) * f32::from(u) * std::f32::consts::PI / 16.0).cos();
    let index = |idx: usize| u8::try_from(idx).unwrap_or(0);
    std::array::from_fn(|u| std::array::from_fn(|x| weight(index(u)) * cosine(index(u), index(x))))
}

/// Rows, then columns (T.81 A.3.3).
fn inverse_transform(block: &[f32; 64], cosines: &[[f32; 8]; 8]) -> [f32; 64] {
    let along = |source: &[f32; 64], start: usize, step: usize, x: usize| -> f32 {
        (0..8).map(|u| source[start + u * step] * cosines[u][x]).sum()
    };
    let rows: [f32; 64] = std::array::from_fn(|idx| along(block, idx / 8 * 8, 1, idx % 8));
    std::array::from_fn(|idx| along(&rows, idx % 8, 8, idx / 8))
}

fn read_quantization(mut body: &[u8], tables: &mut [Option<[f32; 64]>; 4]) -> Result<(), JpegError> {
    while let Some((head, rest)) = body.split_first() {
        let width = if head >> 4 == 0 { 1 } else { 2 };
        let (values, rest) = rest.split_at_checked(64 * width).ok_or(JpegError::Table)?;
        let slot = tables.get_mut(usize::from(head & 15)).ok_or(JpegError::Table)?;
        let step = |k: usize| match values[k * width..(k + 1) * width] {
            [high, low] => f32::from(u16::from_be_bytes([high, low])),
            [step, ..] => f32::from(step),
            [] => 0.0,
        };
        *slot = Some(std::array::from_fn(step));
        body = rest;
    }
    Ok(())
}

/// Tables of class DC stand in slots 0 to 3, those of class AC in 4 to 7.
fn read_huffman(mut body: &[u8], tables: &mut [Option<Huffman>; 8]) -> Result<(), JpegError> {
    while let Some((head, rest)) = body.split_first() {
        let (counts, rest) = rest.split_at_checked(16).ok_or(JpegError::Table)?;
        let n_symbols = counts.iter().map(|count| usize::from(*count)).sum();
        let (symbols, rest) = rest.split_at_checked(n_symbols).ok_or(JpegError::Table)?;
        if head & 0x0F > 3 || head >> 4 > 1 {
            return Err(JpegError::Table);
        }
        let slot =
            tables.get_mut(usize::from(head >> 4) * 4 + usize::from(head & 15)).ok_or(JpegError::Table)?;
        *slot = Some(Huffman { counts: counts.to_vec(), symbols: symbols.to_vec() });
        body = rest;
    }
    Ok(())
}

/// A canonical code: how many symbols have each length, and the symbols in order (T.81 C.2).
struct Huffman {
    counts: Vec<u8>,
    symbols: Vec<u8>,
}

impl Huffman {
    /// T.81 F.2.2.3: codes of one length follow each other, the first is twice what follows the last shorter one.
    fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, JpegError> {
        let (mut code, mut first, mut before) = (0_u32, 0_u32, 0_u32);
        for count in &self.counts {
            code = code * 2 + bits.take(1)?;
            first *= 2;
            let count = u32::from(*count);
            if let Some(idx) = code.checked_sub(first).filter(|idx| *idx < count) {
                let idx = usize::try_from(before + idx).map_err(|_too_large| JpegError::Code)?;
                return self.symbols.get(idx).copied().ok_or(JpegError::Code);
            }
            first += count;
            before += count;
        }
        Err(JpegError::Code)
    }
}

/// Bits of the scan; a zero after a byte 0xFF is stuffing, anything else a marker that ends them (T.81 F.1.2.3).
struct Bits<'a> {
    stream: &'a [u8],
    position: usize,
    buffer: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next `n` bits, at most 16, as a number.
    fn take(&mut self, n: u32) -> Result<u32, JpegError> {
        while self.count < n {
            let byte = *self.stream.get(self.position).ok_or(JpegError::Ends)?;
            if byte == 0xFF {
                if self.stream.get(self.position + 1) != Some(&0) {
                    return Err(JpegError::Ends);
                }
                self.position += 1;
            }
            self.position += 1;
            self.buffer = (self.buffer << 8) | u32::from(byte);
            self.count += 8;
        }
        self.count -= n;
        Ok((self.buffer >> self.count) & ((1 << n) - 1))
    }

    /// A number of so many bits, the lower half of the range standing for negative ones (T.81 F.2.2.1).
    fn difference(&mut self, size: u8) -> Result<i32, JpegError> {
        if size == 0 {
            return Ok(0);
        }
        if size > 15 {
            return Err(JpegError::Code);
        }
        let bits = i32::try_from(self.take(u32::from(size))?).map_err(|_too_large| JpegError::Code)?;
        Ok(if bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with only its mean: coefficient 8 c gives c in each pixel, here 8 * 5 over steps of 8.
    #[test]
    fn the_mean_of_a_block_is_an_eighth_of_its_first_coefficient() {
        let mut block = [0.0; 64];
        block[0] = 40.0;
        let pixels = inverse_transform(&block, &cosines());
        assert!(pixels.iter().all(|pixel| (pixel - 5.0).abs() < 1e-5), "{pixels:?}");
        assert_eq!((sample_of(pixels[9]), sample_of(-9000.0), sample_of(9000.0)), (2053, 0, 4095));
    }

    /// Coefficient (v 0, u 1) is a half wave along x: the left half is brighter than the right, rows are alike.
    #[test]
    fn the_second_coefficient_runs_along_the_row() {
        let mut block = [0.0; 64];
        block[1] = 100.0;
        let pixels = inverse_transform(&block, &cosines());
        assert!(pixels[0] > 10.0 && pixels[7] < -10.0 && (pixels[0] - pixels[56]).abs() < 1e-4, "{pixels:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut stream = vec![0xFF, 0xD8, 0xFF, 0xC1, 0, 11, 12, 0, 9, 0, 17, 1, 1, 0x11, 0];
            stream.extend(bytes);
            proptest::prop_assert!(decode(&stream).is_err() || stream.len() > 60);
        }
    }
}
