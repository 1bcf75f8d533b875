//! The frame of a page: escaped text, its policy, and that it loads nothing.

use cnn_cuda::report::page::{Page, data_uri, escape};

#[test]
fn text_is_escaped() {
    assert_eq!(escape("<script>alert(1)</script>&\"'"), "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;");
    assert_eq!(escape("a\u{7}b\nc\u{ffff}d"), "a b cd");
    assert_eq!(escape("1\u{202e}2 日本 é"), "1\\u{202e}2 日本 é");
}

#[test]
fn a_page_allows_its_own_script_alone() {
    let page = Page { title: "a <b>", style: "p { }\n", script: "let a = 1 < 2;", body: "<p>text</p>\n" }.render();
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && page.ends_with("</html>\n"));
    assert!(page.contains("<title>a &lt;b&gt;</title>") && page.contains("<p>text</p>") && page.contains("p { }"));
    assert!(page.contains("<script>let a = 1 < 2;</script>"));
    // printf '%s' 'let a = 1 < 2;' | openssl dgst -sha256 -binary | base64
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("script-src 'sha256-Xd/xFl+DmsVqHczJvGQWMh7nLH7H7r5iGmQKRm0JimU='"), "{page}");
    let without = Page { title: "a", style: "", script: "", body: "" }.render();
    assert!(without.contains("script-src 'none'") && !without.contains("<script"));
    for page in [page, without] {
        let outside = ["http:", "https:", "src=", "href=", "@import", "url("];
        assert!(outside.iter().all(|it| !page.contains(it)), "{page}");
    }
}

#[test]
fn a_picture_is_written_into_the_page() {
    assert_eq!(data_uri(&[0, 255, 62, 63]), "data:image/png;base64,AP8+Pw==");
}
