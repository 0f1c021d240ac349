//! The prefixes of a path to which rules may apply.

/// The prefixes of `path` that consist of whole segments, longest first, with at most `deepest` segments; the last one is empty.
pub(super) fn of(path: &[u8], deepest: usize) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(index, byte)| **byte == b'/' && *index > 0);
    let ends = slashes.map(|(index, _)| index).chain([path.len()]).take(deepest);
    let ends: Vec<usize> = [0].into_iter().chain(ends).collect();
    ends.into_iter().rev().filter_map(|end| path.get(..end))
}

#[cfg(test)]
mod tests {
    #[test]
    fn prefixes_are_whole_segments_and_the_longest_comes_first() {
        let of = |path: &'static str, deepest| {
            super::of(path.as_bytes(), deepest).map(|prefix| std::str::from_utf8(prefix).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of("/a/bc/d", 9), ["/a/bc/d", "/a/bc", "/a", ""]);
        assert_eq!(of("/a/bc/d", 2), ["/a/bc", "/a", ""]);
        assert_eq!(of("/a/", 9), ["/a/", "/a", ""]);
        assert_eq!(of("*", 9), ["*", ""]);
        assert_eq!(of("/a", 0), [""]);
    }
}
