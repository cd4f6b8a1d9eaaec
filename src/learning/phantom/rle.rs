//! RLE Lossless (PS3.5 annex G): one frame of 16 bits per pixel.

/// One frame as an RLE fragment: a header of 64 bytes, then the high and the low bytes, each row packed on its own.
pub(super) fn encode(pixels: &[u16], columns: usize) -> Vec<u8> {
    let high = segment(pixels, columns, |pixel| pixel.to_be_bytes()[0]);
    let low = segment(pixels, columns, |pixel| pixel.to_be_bytes()[1]);
    let second =
        u32::try_from(64 + high.len()).expect("an image of at most 2^30 pixels packs to less than 4 GB");
    let mut fragment = vec![0_u8; 64];
    for (n, word) in [2_u32, 64, second].into_iter().enumerate() {
        fragment[4 * n..4 * n + 4].copy_from_slice(&word.to_le_bytes());
    }
    fragment.extend(high);
    fragment.extend(low);
    fragment
}

fn segment(pixels: &[u16], columns: usize, byte_of: fn(u16) -> u8) -> Vec<u8> {
    let mut packed = Vec::with_capacity(pixels.len());
    for row in pixels.chunks(columns) {
        let bytes: Vec<u8> = row.iter().map(|pixel| byte_of(*pixel)).collect();
        pack_bits(&bytes, &mut packed);
    }
    if packed.len() % 2 == 1 {
        packed.push(0);
    }
    packed
}

/// Runs of 2 to 128 equal bytes become a count (257 - n) and the byte; the rest stays literal after a count (n - 1).
fn pack_bits(bytes: &[u8], packed: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let run = rest.iter().take(128).take_while(|byte| *byte == first).count();
        if run >= 2 {
            packed.extend([count_byte(257 - run), *first]);
            rest = &rest[run..];
            continue;
        }
        // Literal up to the next run of three, since a run of two saves nothing in between.
        let stop = rest.windows(3).position(|w| w[0] == w[1] && w[1] == w[2]).unwrap_or(rest.len());
        let length = stop.clamp(1, 128);
        packed.push(count_byte(length - 1));
        packed.extend(&rest[..length]);
        rest = &rest[length..];
    }
}

fn count_byte(count: usize) -> u8 {
    u8::try_from(count).expect("lengths are 1 to 128")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// PS3.5 G.3.2, the decoder.
    fn unpack(mut packed: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let count = packed[0] as i8;
            if count >= 0 {
                let n = usize::from(packed[0]) + 1;
                bytes.extend(&packed[1..=n]);
                packed = &packed[n + 1..];
            } else {
                assert_ne!(count, -128, "128 is reserved");
                bytes.extend(std::iter::repeat_n(packed[1], 257 - usize::from(packed[0])));
                packed = &packed[2..];
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_itself(pixels in proptest::collection::vec(prop_oneof![Just(7_u16), Just(300), any::<u16>()], 300)) {
            let fragment = encode(&pixels, 150);
            let second = u32::from_le_bytes(fragment[8..12].try_into().unwrap()) as usize;
            let high = unpack(&fragment[64..second], 300);
            let low = unpack(&fragment[second..], 300);
            let found: Vec<u16> = high.into_iter().zip(low).map(|(h, l)| u16::from_be_bytes([h, l])).collect();
            prop_assert_eq!(found, pixels);
        }
    }

    #[test]
    fn a_long_run_and_a_long_literal_are_split() {
        let mut packed = Vec::new();
        pack_bits(&[9; 300], &mut packed);
        assert_eq!(packed, [129, 9, 129, 9, 213, 9]);
        let ramp: Vec<u8> = (0..=200).collect();
        let mut packed = Vec::new();
        pack_bits(&ramp, &mut packed);
        assert_eq!((packed[0], packed[129], packed.len()), (127, 72, 203));
    }
}
