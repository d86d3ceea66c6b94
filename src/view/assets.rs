//! The page itself. A path goes in; a file that is part of the program comes out. It never reads a disk.

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asset {
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What a path names.
pub(super) fn asset(path: &str) -> Option<Asset> {
    let (kind, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/style.css" => ("text/css; charset=utf-8", include_str!("page/style.css")),
        "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        "/app.js" => (SCRIPT, include_str!("page/app.js")),
        "/dom.js" => (SCRIPT, include_str!("page/dom.js")),
        "/server.js" => (SCRIPT, include_str!("page/server.js")),
        "/picture.js" => (SCRIPT, include_str!("page/picture.js")),
        "/details.js" => (SCRIPT, include_str!("page/details.js")),
        "/trace.js" => (SCRIPT, include_str!("page/trace.js")),
        "/happenings.js" => (SCRIPT, include_str!("page/happenings.js")),
        _ => return None,
    };
    Some(Asset { kind, text })
}
