//! The message of a response, without what differs from run to run.

use stack::{CLIENT_ID, Response, TENANT_ID};

/// The status and the fields of the message that an operator reads.
pub(crate) fn of(response: &Response) -> String {
    let body = response.json();
    let mut lines = vec![format!("status {}", response.status)];
    for name in ["code", "detail", "remedy", "error", "error_description", "message"] {
        if let Some(text) = body[name].as_str() {
            lines.push(format!("{name} {}", normal(text)));
        }
    }
    assert!(lines.len() > 1, "no message of the filter: {}", response.text());
    lines.join("\n") + "\n"
}

/// A text with `<id>`, `<time>`, `<n>` and `<address>` in place of what differs.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    // An HTTP date (RFC 9110, section 5.6.7) has 29 characters.
    while let Some(end) = text.find(" GMT") {
        text.replace_range(end + 4 - 29..end + 4, "<time>");
    }
    let words: Vec<&str> = text.split(' ').collect();
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let mut normal = Vec::new();
    for (index, one) in words.iter().enumerate() {
        let core = one.trim_matches(|edge: char| !edge.is_ascii_alphanumeric());
        let unit = word(index + 1).trim_end_matches([',', '.', ')', ':']);
        let replacement = if is_guid(core) && core != TENANT_ID && core != CLIENT_ID {
            "<id>"
        } else if core.starts_with("127.0.0.1:") {
            "<address>"
        } else if matches!(unit, "s" | "ms" | "bytes") && core.bytes().all(|byte| byte.is_ascii_digit()) {
            "<n>"
        } else {
            core
        };
        normal.push(if core.is_empty() { (*one).to_owned() } else { one.replace(core, replacement) });
    }
    normal.join(" ")
}

fn is_guid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
