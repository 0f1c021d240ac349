//! Header maps with Envoy's semantics, and their encoding for the guest.

use std::fmt;

/// An ordered header map. Names are in lower case; values can be any bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Vec<u8>, Vec<u8>)>);

/// Headers whose duplicates Envoy's codec joins before any filter runs.
const JOINED: [&[u8]; 1] = [b"authorization"];

impl Headers {
    /// Creates a map of these headers without joining duplicates.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut map = Self::default();
        for (name, value) in headers {
            map.add(name, value);
        }
        map
    }

    /// Creates a map as Envoy's codec produces it: duplicate `authorization` headers are joined with a comma.
    pub fn received<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut map = Self::default();
        for (name, value) in headers {
            let name = name.as_ref().to_ascii_lowercase();
            let earlier = map.0.iter_mut().find(|(existing, _)| JOINED.contains(&&*name) && *existing == name);
            match earlier {
                Some((_, joined)) => {
                    joined.push(b',');
                    joined.extend_from_slice(value.as_ref());
                }
                None => map.0.push((name, value.as_ref().to_vec())),
            }
        }
        map
    }

    /// Creates the headers of a GET request.
    pub fn get_request(authority: &str, path: &str) -> Self {
        Self::new([(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)])
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    /// Returns the first value of this header. The name is case-insensitive.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.0.iter().find(|(existing, _)| existing.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Returns all values of this header. The name is case-insensitive.
    pub fn all(&self, name: impl AsRef<[u8]>) -> impl Iterator<Item = &[u8]> {
        let named = self.0.iter().filter(move |(existing, _)| existing.eq_ignore_ascii_case(name.as_ref()));
        named.map(|(_, value)| value.as_slice())
    }

    /// Returns the first value of this header as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Iterates over all headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The number of headers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the map is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a header and keeps existing ones of the same name.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Replaces all values of this header.
    pub fn replace(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.remove(&name);
        self.add(name, value);
    }

    /// Removes all values of this header.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) {
        self.0.retain(|(existing, _)| !existing.eq_ignore_ascii_case(name.as_ref()));
    }

    /// Encodes the map as proxy-wasm defines it: the count, all lengths, then each name and value followed by a NUL.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut encoded = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        for (name, value) in &self.0 {
            encoded.extend(length(name));
            encoded.extend(length(value));
        }
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            encoded.extend_from_slice(text);
            encoded.push(0);
        }
        encoded
    }

    /// Decodes a map that a guest encoded. A truncated map has no headers, as in Envoy.
    pub(crate) fn decode(encoded: &[u8]) -> Self {
        Self::read(encoded).unwrap_or_default()
    }

    fn read(encoded: &[u8]) -> Option<Self> {
        let number = |offset: usize| {
            let bytes = encoded.get(offset..offset.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let count = number(0)?;
        let mut offset = 4_usize.checked_add(count.checked_mul(8)?)?;
        let mut next = |length: usize| {
            let text = encoded.get(offset..offset.checked_add(length)?)?;
            offset = offset.checked_add(length)?.checked_add(1)?;
            Some(text)
        };
        let mut headers = Self::default();
        for header in 0..count {
            let name = next(number(4 + header * 8)?)?;
            let value = next(number(8 + header * 8)?)?;
            headers.add(name, value);
        }
        Some(headers)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |(name, value): (&[u8], &[u8])| format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        formatter.debug_list().entries(self.iter().map(line)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_restores_an_encoded_map_of_any_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        let headers = Headers::new([(b"a".as_slice(), all.as_slice()), (b"", b""), (b"b", b"x")]);
        assert_eq!(Headers::decode(&headers.encode()), headers);
    }

    #[test]
    fn a_truncated_map_has_no_headers() {
        let encoded = Headers::new([("name", "value")]).encode();
        for length in 0..encoded.len() - 1 {
            assert!(Headers::decode(&encoded[..length]).is_empty(), "{length}");
        }
        assert!(Headers::decode(&[0xff; 64]).is_empty());
    }
}
