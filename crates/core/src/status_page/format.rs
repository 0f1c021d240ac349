//! The format that a client prefers (RFC 9110, section 12.5.1).

/// A format of the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `text/html`
    Html,
}

impl Format {
    /// The format that an `Accept` header prefers. It is HTML only if the header gives it a higher weight than JSON, as every browser's
    /// does; a client without the header gets JSON, and so does one that accepts neither (RFC 9110, section 12.4.1, allows that).
    pub(crate) fn preferred(accept: Option<&[u8]>) -> Self {
        let accept = accept.and_then(|accept| std::str::from_utf8(accept).ok()).unwrap_or_default();
        if weight(accept, "text/html") > weight(accept, "application/json") { Self::Html } else { Self::Json }
    }
}

/// How specific a media range is: it names all types, the type, or type and subtype. The most specific one counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    All,
    Type,
    Exact,
}

/// The weight of a media type in thousandths; 0 if it is not acceptable. Parameters of a media range other than its weight are ignored.
fn weight(accept: &str, media_type: &str) -> u16 {
    let ranges = accept.split(',').filter_map(|range| {
        let mut parameters = range.split(';').map(str::trim);
        let specificity = specificity(parameters.next()?, media_type)?;
        let given = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("q").then_some(value)
        });
        Some((specificity, given.map_or(Some(1000), thousandths)?))
    });
    ranges.max().map_or(0, |(_, weight)| weight)
}

/// `None` if the range does not include the type.
fn specificity(range: &str, media_type: &str) -> Option<Specificity> {
    if range.eq_ignore_ascii_case(media_type) {
        return Some(Specificity::Exact);
    }
    match range.split_once('/')? {
        ("*", "*") => Some(Specificity::All),
        (name, "*") if media_type.split_once('/')?.0.eq_ignore_ascii_case(name) => Some(Specificity::Type),
        _ => None,
    }
}

/// A weight of RFC 9110, section 12.4.2: 0 or 1 with at most three decimals. `None` if it is not valid.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = decimals.bytes().map(|byte| byte.is_ascii_digit().then_some(byte & 0xf));
    let decimals = match decimals.len() {
        0..=3 => digits.zip([100, 10, 1]).try_fold(0, |sum, (digit, place)| Some(sum + u16::from(digit?) * place))?,
        _ => return None,
    };
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_html_only_if_it_prefers_html() {
        let html = [
            "text/html",
            "TEXT/HTML;charset=utf-8",
            "text/*",
            // Firefox, and Chromium.
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
            "application/json;q=0.5 , text/html;q=0.501",
            "application/json;q=0, */*",
            "application/json;q=0.09, text/html;q=0.1",
            "application/json;q=0.9, text/html;q=1",
            "application/json;q=0.9, text/html;q=1.000",
            "text/html;level=1;Q=0.2, application/json;q=0.1",
        ];
        let json = [
            "",
            "*/*",
            "application/json",
            "application/json, text/html",
            "text/html;q=0.9, application/json",
            "text/html;q=0, */*",
            "text/html;q=0",
            "text/*;q=0.5, */*;q=0.6",
            // The most specific range counts, although a wider one has a higher weight.
            "text/html;q=0.1, text/*, application/*;q=0.2",
            "image/png",
            // Invalid weights and types.
            "text/html;q=2",
            "text/html;q=1.001",
            "text/html;q=0.1234",
            "text/html;q=",
            "text/html;q=.5",
            "text/html;q=+1",
            "text/html;q=0.-5",
            "text",
            "*/html",
            ",;,=",
        ];
        for accept in html {
            assert_eq!(Format::preferred(Some(accept.as_bytes())), Format::Html, "{accept}");
        }
        for accept in json {
            assert_eq!(Format::preferred(Some(accept.as_bytes())), Format::Json, "{accept}");
        }
        assert_eq!(Format::preferred(None), Format::Json);
        assert_eq!(Format::preferred(Some(b"text/html\xff")), Format::Json);
    }
}
