//! Header maps as Envoy keeps them, and the form in which they cross into a guest.

use std::fmt;

/// Headers in order: names in lower case, values any bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Vec<u8>, Vec<u8>)>);

/// Names that Envoy's codec joins when they come twice, before any filter looks.
const JOINED: [&[u8]; 1] = [b"authorization"];

impl Headers {
    /// These headers, as they are.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut made = Self::default();
        for (name, value) in headers {
            made.add(name, value);
        }
        made
    }

    /// These headers as Envoy's codec hands them on: `authorization` given twice is one, joined with a comma.
    pub fn received<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut made = Self::default();
        for (name, value) in headers {
            let name = name.as_ref().to_ascii_lowercase();
            let earlier = made.0.iter_mut().find(|(present, _)| JOINED.contains(&&*name) && *present == name);
            match earlier {
                Some((_, joined)) => {
                    joined.push(b',');
                    joined.extend_from_slice(value.as_ref());
                }
                None => made.0.push((name, value.as_ref().to_vec())),
            }
        }
        made
    }

    /// A GET, for tests that need any request.
    pub fn get_request(authority: &str, path: &str) -> Self {
        Self::new([(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)])
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    /// The first value of this name, whatever its case.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.0.iter().find(|(present, _)| present.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// All values of this name, whatever its case.
    pub fn all(&self, name: impl AsRef<[u8]>) -> impl Iterator<Item = &[u8]> {
        let named = self.0.iter().filter(move |(present, _)| present.eq_ignore_ascii_case(name.as_ref()));
        named.map(|(_, value)| value.as_slice())
    }

    /// The first value of this name as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one beside those that are there.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Sets one in place of all of its name.
    pub fn replace(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.remove(&name);
        self.add(name, value);
    }

    /// Takes away all of this name.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) {
        self.0.retain(|(present, _)| !present.eq_ignore_ascii_case(name.as_ref()));
    }

    /// As proxy-wasm has it: the count, all lengths, then each name and value with a NUL after it.
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

    /// Reads what a guest wrote. What is cut off is no header at all, as in Envoy.
    pub(crate) fn decode(encoded: &[u8]) -> Self {
        Self::read(encoded).unwrap_or_default()
    }

    fn read(encoded: &[u8]) -> Option<Self> {
        let number = |place: usize| {
            let bytes = encoded.get(place..place.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let count = number(0)?;
        let mut place = 4_usize.checked_add(count.checked_mul(8)?)?;
        let mut next = |length: usize| {
            let text = encoded.get(place..place.checked_add(length)?)?;
            place = place.checked_add(length)?.checked_add(1)?;
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
    fn what_is_encoded_is_read_back_whatever_its_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        let headers = Headers::new([(b"a".as_slice(), all.as_slice()), (b"", b""), (b"b", b"x")]);
        assert_eq!(Headers::decode(&headers.encode()), headers);
    }

    #[test]
    fn what_is_cut_off_is_no_header() {
        let encoded = Headers::new([("name", "value")]).encode();
        for length in 0..encoded.len() - 1 {
            assert!(Headers::decode(&encoded[..length]).is_empty(), "{length}");
        }
        assert!(Headers::decode(&[0xff; 64]).is_empty());
    }
}
