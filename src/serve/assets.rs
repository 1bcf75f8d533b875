//! The files of the page, which are part of the program.

use std::sync::LazyLock;

use crate::report::picture::{diverging, sequential};
use crate::report::{CURVES_SCRIPT, CURVES_STYLE, page};

/// A file: its path, its type and its content.
pub struct Asset {
    pub path: &'static str,
    pub kind: &'static str,
    pub content: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const fn asset(path: &'static str, kind: &'static str, content: &'static [u8]) -> Asset {
    Asset { path, kind, content }
}

pub static ASSETS: &[Asset] = &[
    asset("/", HTML, include_bytes!("page/index.html")),
    asset("/base.css", CSS, page::STYLE.as_bytes()),
    asset("/curves.css", CSS, CURVES_STYLE.as_bytes()),
    asset("/curves.js", SCRIPT, CURVES_SCRIPT.as_bytes()),
    asset("/style.css", CSS, include_bytes!("page/style.css")),
    asset("/icon.svg", SVG, include_bytes!("page/icon.svg")),
    asset("/main.js", SCRIPT, include_bytes!("page/main.js")),
    asset("/server.js", SCRIPT, include_bytes!("page/server.js")),
    asset("/colours.js", SCRIPT, include_bytes!("page/colours.js")),
    asset("/drawing.js", SCRIPT, include_bytes!("page/drawing.js")),
    asset("/input.js", SCRIPT, include_bytes!("page/input.js")),
    asset("/bars.js", SCRIPT, include_bytes!("page/bars.js")),
    asset("/layers.js", SCRIPT, include_bytes!("page/layers.js")),
    asset("/unit.js", SCRIPT, include_bytes!("page/unit.js")),
    asset("/run.js", SCRIPT, include_bytes!("page/run.js")),
];

/// The colours of values as red, green, blue: 256 from 0 to 1 (sequential), then 256 from −1 to 1 (diverging).
pub static COLOURS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let fraction = |index: usize| index as f32 / 255.0;
    let sequential = (0..256).flat_map(|index| sequential(fraction(index)));
    sequential.chain((0..256).flat_map(|index| diverging(2.0 * fraction(index) - 1.0))).collect()
});
