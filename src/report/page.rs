//! A self-contained HTML page: its frame, its look, and text and pictures inside it.

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use crate::files::printable;

/// Colours, type and the frame of every page.
pub const STYLE: &str = include_str!("page.css");

/// A page that loads nothing: its style, script and pictures are inside it.
pub struct Page<'a> {
    /// Plain text; it is escaped.
    pub title: &'a str,
    /// Rules that follow those of every page.
    pub style: &'a str,
    /// Runs after the body has been read; empty for a page without a script. It must not contain `</script`.
    pub script: &'a str,
    /// HTML in which whoever wrote it has escaped all text.
    pub body: &'a str,
}

impl Page<'_> {
    /// The page's HTML. Its policy allows the page's own script, by its hash, and no other: should markup from outside ever
    /// get into the body, no script in it runs, and nothing is loaded.
    pub fn render(&self) -> String {
        let Self { title, style, script, body } = self;
        let title = escape(title);
        let hash = BASE64_STANDARD.encode(Sha256::digest(script));
        let source = if script.is_empty() { "'none'".into() } else { format!("'sha256-{hash}'") };
        let script = if script.is_empty() { String::new() } else { format!("<script>{script}</script>\n") };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src \
             'unsafe-inline'; script-src {source}; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"generator\" content=\"cnn-cuda {version}\">\n\
             <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n\
             <main>\n{body}</main>\n{script}</body>\n</html>\n",
            version = env!("CARGO_PKG_VERSION")
        )
    }
}

/// Escapes text for HTML and XML, in an element or a quoted attribute. Characters that XML does not allow are replaced or
/// removed, and those that would reverse the order of what follows are shown as their code.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{FFFE}' | '\u{FFFF}' => {}
            character if character.is_control() => escaped.push(' '),
            character => escaped.push_str(&printable(character.encode_utf8(&mut [0; 4]))),
        }
    }
    escaped
}

/// A PNG file as the source of an `<img>`.
pub fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}
