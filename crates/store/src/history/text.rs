//! Reply texts taken apart: what a server always says, and what changes from one reply to the next.
//!
//! A word of ASCII letters and digits that holds a digit varies (queue ids, times, counts); the rest
//! is the template, in which [`GAP`] marks where such words were. `queued as 4XyZ12` is the template
//! `queued as ␀` and the word `4XyZ12`.

/// Stands for a word. A text that holds one itself is not taken apart.
pub(super) const GAP: u8 = 0;

/// Appends the template to `template`, and calls `word` for each word that was left out.
///
/// Returns whether the text was taken apart; if not, `template` is the text itself.
pub(super) fn split<'a>(
    text: &'a str,
    template: &mut Vec<u8>,
    mut word: impl FnMut(&'a [u8]),
) -> bool {
    let mut rest = text.as_bytes();
    if memchr::memchr(GAP, rest).is_some() {
        template.extend_from_slice(rest);
        return false;
    }
    while let Some(first) = rest.first() {
        let is_alnum = first.is_ascii_alphanumeric();
        let same = |b: &u8| b.is_ascii_alphanumeric() == is_alnum;
        let len = rest.iter().take_while(|b| same(b)).count();
        let (run, after) = rest.split_at(len);
        if is_alnum && run.iter().any(u8::is_ascii_digit) {
            word(run);
            template.push(GAP);
        } else {
            template.extend_from_slice(run);
        }
        rest = after;
    }
    true
}

/// Puts a text together again; `word` gives the words in order.
pub(super) fn join<'a, E>(
    template: &[u8],
    out: &mut Vec<u8>,
    mut word: impl FnMut() -> Result<&'a [u8], E>,
) -> Result<(), E> {
    let mut rest = template;
    while let Some(gap) = memchr::memchr(GAP, rest) {
        out.extend_from_slice(&rest[..gap]);
        out.extend_from_slice(word()?);
        rest = &rest[gap + 1..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken_apart(text: &str) -> (bool, String, Vec<String>) {
        let (mut template, mut words) = (Vec::new(), Vec::new());
        let is_apart = split(text, &mut template, |word| words.push(word));
        let words = words.iter().map(|it| String::from_utf8_lossy(it).into());
        (
            is_apart,
            String::from_utf8(template).unwrap(),
            words.collect(),
        )
    }

    #[test]
    fn what_varies_is_left_out_of_the_template() {
        let (_, template, words) = taken_apart("OK 17000 d2e1a72-6c2f.12 - gsmtp \u{e9}4");
        assert_eq!(template, "OK \0 \0-\0.\0 - gsmtp \u{e9}\0");
        assert_eq!(words, ["17000", "d2e1a72", "6c2f", "12", "4"]);
        assert_eq!(taken_apart("a\x001"), (false, "a\x001".into(), vec![]));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "[a-c0-2 .\u{e9}]{0,40}") {
            let (mut template, mut words) = (Vec::new(), Vec::new());
            split(&text, &mut template, |word| words.push(word));
            let mut words = words.into_iter();
            let mut out = Vec::new();
            join(&template, &mut out, || words.next().ok_or(())).unwrap();
            prop_assert_eq!(out, text.as_bytes());
            prop_assert!(words.next().is_none());
        }
    }
}
