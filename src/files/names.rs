//! Names of files as text that can be printed.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with its control characters (C0, DEL and C1) escaped, such as `\u{1b}`, because a terminal would interpret
/// them, and those that reverse the order of what follows, because it would then show another name.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c.is_control() || is_direction(c);
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_unsafe(c) { c.escape_unicode().collect() } else { String::from(c) };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Whether a character is an invisible one of Unicode's bidirectional algorithm.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name as text. A name that is UTF-8 stays as it is; of another, the bytes that are not UTF-8 are written as `\xE9`
/// and backslashes as `\\`, so that different names remain different.
pub fn name_of(bytes: &[u8]) -> String {
    if let Ok(name) = std::str::from_utf8(bytes) {
        return name.into();
    }
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        name += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(name, "\\x{byte:02X}");
        }
    }
    name
}

/// Whether [`name_of`] escaped bytes of the name. A name that literally contains such an escape is taken for one, too.
pub fn is_escaped(name: &str) -> bool {
    let is_escape = |(at, _)| {
        let digits = name.get(at + 2..at + 4);
        digits.is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok_and(|byte| !byte.is_ascii()))
    };
    name.match_indices("\\x").any(is_escape)
}
