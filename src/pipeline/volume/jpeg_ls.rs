//! JPEG-LS, lossless and near-lossless, one component (ITU-T T.87 | ISO 14495-1).
//!
//! Every read is bounded by the stream and every sample by the frame; damaged bytes give an error or wrong
//! samples, never a panic or a runaway.

use std::fmt;

/// Largest side that is decoded; it bounds what is allocated.
const LARGEST_SIDE: u16 = 4096;

/// What a frame header says (ITU-T T.81 B.2.2, T.87 C.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameSize {
    pub(super) bits: u8,
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) components: u8,
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bits, rows, columns, components } = self;
        write!(f, "{rows} rows x {columns} columns of {components} samples of {bits} bits")
    }
}

/// Why a JPEG-LS stream was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum JpegLsError {
    #[error("it does not begin as a JPEG stream, or ends before its scan")]
    NoScan,
    #[error("its frame header is missing or unusable")]
    Frame,
    #[error("its parameters are out of range (T.87 C.2.4)")]
    Parameters,
    #[error("it uses {0}, which no CT does")]
    Unsupported(&'static str),
    #[error("it ends before the last pixel")]
    Ends,
    #[error("a code is longer than any that an encoder writes")]
    Code,
}

/// The frame header of a JPEG stream of any process, without decoding.
pub(super) fn frame_size(stream: &[u8]) -> Option<FrameSize> {
    Segments::new(stream)?.find_map(|(marker, body)| frame_of(marker, body))
}

/// Decodes the samples, row by row.
pub(super) fn decode(stream: &[u8]) -> Result<Vec<u16>, JpegLsError> {
    let mut frame = None;
    let mut preset = None;
    let mut segments = Segments::new(stream).ok_or(JpegLsError::NoScan)?;
    let scan = loop {
        let (marker, body) = segments.next().ok_or(JpegLsError::NoScan)?;
        match marker {
            0xF7 => frame = frame_of(marker, body),
            0xF8 => preset = preset_of(body)?.or(preset),
            0xDD if body.iter().any(|byte| *byte != 0) => {
                return Err(JpegLsError::Unsupported("restart intervals"));
            }
            0xDA => break body,
            _ => {}
        }
    };
    let frame = frame.ok_or(JpegLsError::Frame)?;
    let side_ok = |side: u16| (1..=LARGEST_SIDE).contains(&side);
    if !(side_ok(frame.rows) && side_ok(frame.columns) && (2..=16).contains(&frame.bits)) {
        return Err(JpegLsError::Frame);
    }
    if frame.components != 1 || scan.first() != Some(&1) {
        return Err(JpegLsError::Unsupported("several components"));
    }
    let &[_, _, table, near, _, point_transform] = scan else { return Err(JpegLsError::NoScan) };
    if table != 0 || point_transform != 0 {
        return Err(JpegLsError::Unsupported("a mapping table or a point transform"));
    }
    let parameters = Parameters::new(frame.bits, i32::from(near), preset)?;
    let (rows, columns) = (usize::from(frame.rows), usize::from(frame.columns));
    Scan::new(parameters, segments.rest()).run(rows, columns)
}

/// Marker segments from SOI to SOS: the marker's second byte and the body without its length.
pub(super) struct Segments<'a> {
    stream: &'a [u8],
    position: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn new(stream: &'a [u8]) -> Option<Self> {
        stream.starts_with(&[0xFF, 0xD8]).then_some(Self { stream, position: 2 })
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.stream.get(self.position..).unwrap_or_default()
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest();
        let fill = rest.iter().take_while(|byte| **byte == 0xFF).count();
        let [marker, l0, l1] = *rest.get(fill..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if fill == 0 || length < 2 {
            return None;
        }
        let body = rest.get(fill + 3..fill + 1 + length)?;
        self.position += fill + 1 + length;
        Some((marker, body))
    }
}

pub(super) fn frame_of(marker: u8, body: &[u8]) -> Option<FrameSize> {
    let starts_frame =
        marker == 0xF7 || ((0xC0..=0xCF).contains(&marker) && ![0xC4, 0xC8, 0xCC].contains(&marker));
    let [bits, r0, r1, c0, c1, components] = *body.first_chunk()?;
    let (rows, columns) = (u16::from_be_bytes([r0, r1]), u16::from_be_bytes([c0, c1]));
    starts_frame.then_some(FrameSize { bits, rows, columns, components })
}

/// MAXVAL, T1, T2, T3, RESET of an LSE segment; zero means the default.
type Preset = [i32; 5];

fn preset_of(body: &[u8]) -> Result<Option<Preset>, JpegLsError> {
    match body.split_first() {
        Some((1, values)) if values.len() == 10 => {
            let number = |idx: usize| i32::from(u16::from_be_bytes([values[idx * 2], values[idx * 2 + 1]]));
            Ok(Some(std::array::from_fn(number)))
        }
        Some((2 | 3, _)) => Err(JpegLsError::Unsupported("a mapping table")),
        Some((4, _)) => Err(JpegLsError::Unsupported("an oversize image")),
        _ => Err(JpegLsError::Parameters),
    }
}

/// The constants of a scan (T.87 A.2.1, C.2.4.1.1).
struct Parameters {
    max_value: i32,
    near: i32,
    thresholds: [i32; 3],
    reset: i32,
    range: i32,
    /// Bits of an escaped value.
    qbpp: u32,
    /// Longest code.
    limit: u32,
}

impl Parameters {
    fn new(bits: u8, near: i32, preset: Option<Preset>) -> Result<Self, JpegLsError> {
        let [max_value, t1, t2, t3, reset] = preset.unwrap_or_default();
        let largest = (1 << bits) - 1;
        let max_value = if max_value == 0 { largest } else { max_value };
        let reset = if reset == 0 { 64 } else { reset };
        if max_value > largest || near > 255.min(max_value / 2) || !(3..=255.max(max_value)).contains(&reset)
        {
            return Err(JpegLsError::Parameters);
        }
        let [d1, d2, d3] = default_thresholds(max_value, near);
        let or = |given: i32, default: i32| if given == 0 { default } else { given };
        let thresholds @ [t1, t2, t3] = [or(t1, d1), or(t2, d2), or(t3, d3)];
        if !(near < t1 && t1 <= t2 && t2 <= t3 && t3 <= max_value) {
            return Err(JpegLsError::Parameters);
        }
        let range = (max_value + 2 * near) / (2 * near + 1) + 1;
        let bits_for = |count: i32| (count - 1).checked_ilog2().map_or(0, |log| log + 1);
        let bpp = bits_for(max_value + 1).max(2);
        let limit = 2 * (bpp + bpp.max(8));
        Ok(Self { max_value, near, thresholds, reset, range, qbpp: bits_for(range), limit })
    }
}

fn default_thresholds(max_value: i32, near: i32) -> [i32; 3] {
    // T.87 writes CLAMP: what is out of bounds becomes the lower bound.
    let clamp = |value: i32, low: i32| if value > max_value || value < low { low } else { value };
    let (b1, b2, b3) = if max_value >= 128 {
        let factor = (max_value.min(4095) + 128) / 256;
        (factor + 2, factor * 4 + 3, factor * 17 + 4)
    } else {
        let factor = 256 / (max_value + 1);
        ((3 / factor).max(2), (7 / factor).max(3), (21 / factor).max(4))
    };
    let t1 = clamp(b1 + 3 * near, near + 1);
    let t2 = clamp(b2 + 5 * near, t1);
    [t1, t2, clamp(b3 + 7 * near, t2)]
}

/// Run lengths, as powers of two (T.87 A.2.1, table J).
const J: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Statistics of one context: 0 is unused, 1 to 364 regular, 365 and 366 for what interrupts a run.
#[derive(Clone, Copy)]
struct Context {
    a: i32,
    /// Sum of errors; of a run context, how many were negative.
    b: i32,
    c: i32,
    n: i32,
}

struct Scan<'a> {
    p: Parameters,
    bits: Bits<'a>,
    contexts: Vec<Context>,
    run_index: usize,
}

impl<'a> Scan<'a> {
    fn new(p: Parameters, stream: &'a [u8]) -> Self {
        let fresh = Context { a: ((p.range + 32) / 64).max(2), b: 0, c: 0, n: 1 };
        Self {
            p,
            bits: Bits { stream, position: 0, buffer: 0, count: 0 },
            contexts: vec![fresh; 367],
            run_index: 0,
        }
    }

    /// Lines carry one sample more on each side: before the first stands the one above it, after the last its
    /// own copy (T.87 A.2.1, figure 3).
    fn run(mut self, rows: usize, columns: usize) -> Result<Vec<u16>, JpegLsError> {
        let mut samples = Vec::with_capacity(rows * columns);
        let mut above = vec![0_i32; columns + 2];
        let mut line = vec![0_i32; columns + 2];
        for _ in 0..rows {
            above[columns + 1] = above[columns];
            line[0] = above[1];
            self.line(&above, &mut line, columns)?;
            samples.extend(line[1..=columns].iter().map(|sample| u16::try_from(*sample).unwrap_or(u16::MAX)));
            std::mem::swap(&mut above, &mut line);
        }
        Ok(samples)
    }

    fn line(&mut self, above: &[i32], line: &mut [i32], columns: usize) -> Result<(), JpegLsError> {
        let mut x = 1;
        while x <= columns {
            let (ra, rb, rc, rd) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
            let q = [self.quantize(rd - rb), self.quantize(rb - rc), self.quantize(rc - ra)];
            if q != [0; 3] {
                line[x] = self.regular(ra, rb, rc, q)?;
                x += 1;
                continue;
            }
            let length = self.run_length(columns + 1 - x)?;
            line[x..x + length].fill(ra);
            x += length;
            if x <= columns {
                line[x] = self.interruption(ra, above[x])?;
                self.run_index = self.run_index.saturating_sub(1);
                x += 1;
            }
        }
        Ok(())
    }

    fn quantize(&self, d: i32) -> i32 {
        let [t1, t2, t3] = self.p.thresholds;
        let size = match d.abs() {
            m if m >= t3 => 4,
            m if m >= t2 => 3,
            m if m >= t1 => 2,
            m if m > self.p.near => 1,
            _ => 0,
        };
        size * d.signum()
    }

    /// T.87 A.4 to A.6.
    fn regular(&mut self, ra: i32, rb: i32, rc: i32, q: [i32; 3]) -> Result<i32, JpegLsError> {
        let q = q[0] * 81 + q[1] * 9 + q[2];
        let sign = q.signum();
        let idx = usize::try_from(q.abs()).unwrap_or(0);
        let context = self.contexts[idx];
        let predicted = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let predicted = (predicted + sign * context.c).clamp(0, self.p.max_value);
        let k = golomb_parameter(context.n, context.a)?;
        let mapped = self.golomb(k, self.p.limit)?;
        let half = mapped >> 1;
        let odd = mapped & 1 == 1;
        let error = if k == 0 && self.p.near == 0 && 2 * context.b <= -context.n {
            if odd { half } else { -half - 1 }
        } else if odd {
            -half - 1
        } else {
            half
        };
        self.contexts[idx] = self.updated(context, error);
        Ok(self.reconstruct(predicted, sign * error))
    }

    fn updated(&self, context: Context, error: i32) -> Context {
        let Context { mut a, mut b, mut c, mut n } = context;
        b += error * (2 * self.p.near + 1);
        a += error.abs();
        if n == self.p.reset {
            a >>= 1;
            b >>= 1;
            n >>= 1;
        }
        n += 1;
        if b <= -n {
            b = (b + n).max(1 - n);
            c = (c - 1).max(-128);
        } else if b > 0 {
            b = (b - n).min(0);
            c = (c + 1).min(127);
        }
        Context { a, b, c, n }
    }

    /// How many samples repeat the one before (T.87 A.7.1), at most `left`.
    fn run_length(&mut self, left: usize) -> Result<usize, JpegLsError> {
        let mut length = 0;
        while self.bits.take(1)? == 1 {
            let block = 1 << J[self.run_index];
            if length + block <= left {
                self.run_index = (self.run_index + 1).min(31);
            }
            length = left.min(length + block);
            if length == left {
                return Ok(left);
            }
        }
        let rest = usize::try_from(self.bits.take(J[self.run_index])?).unwrap_or(usize::MAX);
        if length + rest >= left {
            return Err(JpegLsError::Code);
        }
        Ok(length + rest)
    }

    /// The sample that ends a run (T.87 A.7.2).
    fn interruption(&mut self, ra: i32, rb: i32) -> Result<i32, JpegLsError> {
        let alike = (ra - rb).abs() <= self.p.near;
        let kind = i32::from(alike);
        let idx = if alike { 366 } else { 365 };
        let Context { mut a, mut b, c, mut n } = self.contexts[idx];
        let k = golomb_parameter(n, if alike { a + (n >> 1) } else { a })?;
        let mapped = self.golomb(k, self.p.limit - J[self.run_index] - 1)?;
        let t = mapped + kind;
        let odd = t & 1 == 1;
        let size = (t + 1) >> 1;
        let error = if (k != 0 || 2 * b >= n) == odd { -size } else { size };
        b += i32::from(error < 0);
        a += (mapped + 1 - kind) >> 1;
        if n == self.p.reset {
            a >>= 1;
            b >>= 1;
            n >>= 1;
        }
        self.contexts[idx] = Context { a, b, c, n: n + 1 };
        let sign = if !alike && ra > rb { -1 } else { 1 };
        Ok(self.reconstruct(if alike { ra } else { rb }, sign * error))
    }

    fn reconstruct(&self, predicted: i32, error: i32) -> i32 {
        let step = 2 * self.p.near + 1;
        let mut sample = predicted + error * step;
        if sample < -self.p.near {
            sample += self.p.range * step;
        } else if sample > self.p.max_value + self.p.near {
            sample -= self.p.range * step;
        }
        sample.clamp(0, self.p.max_value)
    }

    /// A limited-length Golomb code (T.87 A.5.3).
    fn golomb(&mut self, k: u32, limit: u32) -> Result<i32, JpegLsError> {
        let escape = limit.checked_sub(self.p.qbpp + 1).ok_or(JpegLsError::Code)?;
        let zeros = self.bits.zeros(escape)?;
        let value =
            if zeros < escape { (zeros << k) | self.bits.take(k)? } else { self.bits.take(self.p.qbpp)? + 1 };
        i32::try_from(value).ok().filter(|value| *value < 1 << 24).ok_or(JpegLsError::Code)
    }
}

/// The smallest k with `n * 2^k >= a` (T.87 A.5.1).
fn golomb_parameter(n: i32, a: i32) -> Result<u32, JpegLsError> {
    (0..=17).find(|k| n << k >= a).ok_or(JpegLsError::Code)
}

/// Bits of the scan; after a byte 0xFF the next carries seven (T.87 C.2.1), and a marker ends them.
struct Bits<'a> {
    stream: &'a [u8],
    position: usize,
    buffer: u64,
    /// Bits in the buffer that are not taken yet.
    count: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(byte) = self.stream.get(self.position).copied() else { return };
            let after_ff = self.position > 0 && self.stream[self.position - 1] == 0xFF;
            if after_ff && byte >= 0x80 {
                return;
            }
            let width = if after_ff { 7 } else { 8 };
            self.buffer = (self.buffer << width) | u64::from(byte);
            self.count += width;
            self.position += 1;
        }
    }

    /// The next `n` bits, at most 24, as a number.
    fn take(&mut self, n: u32) -> Result<u32, JpegLsError> {
        if self.count < n {
            self.fill();
        }
        self.count = self.count.checked_sub(n).ok_or(JpegLsError::Ends)?;
        let bits = (self.buffer >> self.count) & ((1 << n) - 1);
        u32::try_from(bits).or(Err(JpegLsError::Code))
    }

    /// Zeros before the next one, which is taken too; more than `most` is an error.
    fn zeros(&mut self, most: u32) -> Result<u32, JpegLsError> {
        let mut zeros = 0;
        loop {
            if self.count == 0 {
                self.fill();
            }
            if self.count == 0 {
                return Err(JpegLsError::Ends);
            }
            let left = self.buffer & ((1 << self.count) - 1);
            let here = left.leading_zeros() - (64 - self.count);
            if zeros + here > most {
                return Err(JpegLsError::Code);
            }
            if here < self.count {
                self.count -= here + 1;
                return Ok(zeros + here);
            }
            zeros += here;
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of ITU-T T.87 H.3: 4 x 4 samples of 8 bits, lossless.
    #[rustfmt::skip]
    const EXAMPLE: [u8; 57] = [
        0xFF, 0xD8, 0xFF, 0xF7, 0x00, 0x0B, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11, 0x00, 0xFF, 0xDA, 0x00, 0x08, 0x01, 0x01,
        0x00, 0x00, 0x00, 0x00, 0xC0, 0x00, 0x00, 0x6C, 0x80, 0x20, 0x8E, 0x01, 0xC0, 0x00, 0x00, 0x57, 0x40, 0x00,
        0x00, 0x6E, 0xE6, 0x00, 0x00, 0x01, 0xBC, 0x18, 0x00, 0x00, 0x05, 0xD8, 0x00, 0x00, 0x91, 0x60, 0xFF, 0xD9,
    ];

    #[test]
    fn the_example_of_the_standard_decodes() {
        let samples = decode(&EXAMPLE).unwrap();
        assert_eq!(samples, [0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145]);
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_or_complete() {
        for cut in 0..EXAMPLE.len() {
            if let Ok(samples) = decode(&EXAMPLE[..cut]) {
                assert_eq!(samples.len(), 16);
            }
        }
        assert_eq!(frame_size(&EXAMPLE), Some(FrameSize { bits: 8, rows: 4, columns: 4, components: 1 }));
    }

    proptest::proptest! {
        /// Whatever follows a sound header, the decoder ends and never panics.
        #[test]
        fn any_scan_gives_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), near in 0_u8..4) {
            let mut stream = vec![0xFF, 0xD8, 0xFF, 0xF7, 0, 11, 16, 0, 9, 0, 17, 1, 1, 0x11, 0];
            stream.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, near, 0, 0]);
            stream.extend(bytes);
            if let Ok(samples) = decode(&stream) {
                proptest::prop_assert_eq!(samples.len(), 9 * 17);
            }
        }
    }
}
