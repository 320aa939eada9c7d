//! Inputs from examples, the same for the same seed.

/// SplitMix64: enough to choose mutations, and the same on every machine.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same throws.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0..`sides`; `sides` over 0.
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Octets that ended or began something for somebody.
const OCTETS: &[u8] =
    b"\r\n\0 .-:;<>@\"\\=+,[]{}%0129aZ\x01\x02\x03\x04\x05\x06\x07\x7f\x80\xc3\xff";
/// Inputs do not grow past this.
const LEN_MAX: usize = 2048;

/// An example, changed in one to eight places.
#[must_use]
pub fn mutation(dice: &mut Dice, examples: &[&[u8]], words: &[&str]) -> Vec<u8> {
    let mut bytes = dice.pick(examples).to_vec();
    for _ in 0..=dice.below(8) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + dice.below(32)).min(bytes.len());
        match dice.below(8) {
            0 if at < bytes.len() => bytes[at] = *dice.pick(OCTETS),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => bytes.insert(at, *dice.pick(OCTETS)),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = dice.pick(examples);
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => {
                let run = vec![*dice.pick(OCTETS); dice.below(1100)];
                bytes.splice(at..at, run);
            }
            _ if !words.is_empty() => {
                let word = dice.pick(words).bytes();
                bytes.splice(at..at, word);
            }
            _ => {}
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}
