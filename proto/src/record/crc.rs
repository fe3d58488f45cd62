//! CRC-32C corrected instead of computed anew.
//!
//! A CRC is linear: where two strings of bytes differ only before their last `n`, their CRCs differ
//! by what the CRCs before those `n` bytes differ by, multiplied by x^(8n) modulo the polynomial. So a changed header costs a few multiplications and no look at the records. The
//! arithmetic is zlib's `crc32_combine` with another polynomial; the crc32c crate's own takes as
//! long as a pass over 256 KiB.
//!
//! Polynomials are in reflected order: bit 31 is x^0.

/// Castagnoli's, without x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const X_TO_0: u32 = 1 << 31;
/// x^(2^k) for each k: enough for lengths of 2^29 bytes.
const SQUARES: [u32; 32] = {
    let mut squares = [X_TO_0 >> 1; 32];
    let mut k = 1;
    while k < 32 {
        squares[k] = multiply(squares[k - 1], squares[k - 1]);
        k += 1;
    }
    squares
};

/// What the CRC of some bytes is, which was `crc`, now that the CRC of their start is `after` in
/// place of `before` and that their last `unchanged` bytes are as they were.
pub(super) fn corrected(crc: u32, before: u32, after: u32, unchanged: usize) -> u32 {
    let mut shift = X_TO_0;
    let (mut bytes_left, mut k) = (unchanged, 3);
    while bytes_left > 0 {
        if bytes_left & 1 == 1 {
            shift = multiply(SQUARES[k & 31], shift);
        }
        bytes_left >>= 1;
        k += 1;
    }
    crc ^ multiply(shift, before ^ after)
}

/// The product modulo [`POLYNOMIAL`].
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        // All ones where the bit is set: no branch to mispredict.
        product ^= b & ((a >> bit) & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(old: &[u8], new: &[u8], rest: &[u8]) {
        let crc = |bytes: &[u8]| crc32c::crc32c(bytes);
        let was = crc(&[old, rest].concat());
        let is = crc(&[new, rest].concat());
        assert_eq!(corrected(was, crc(old), crc(new), rest.len()), is, "{} bytes", rest.len());
    }

    #[test]
    fn every_length_of_a_few_bits() {
        let rest: Vec<_> = (0..70_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let powers = (0..17).map(|k| 1 << k);
        for length in (0..300).chain(powers.clone()).chain(powers.map(|n| n - 1)) {
            check(b"before", b"after.", &rest[..length]);
        }
        let large = vec![0x5a; 1 << 26];
        check(b"before", b"after.", &large);
    }

    proptest! {
        #[test]
        fn any_change(pair: [[u8; 2]; 20], rest: Vec<u8>) {
            check(&pair.map(|[old, _]| old), &pair.map(|[_, new]| new), &rest);
        }
    }
}
