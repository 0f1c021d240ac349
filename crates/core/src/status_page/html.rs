//! The status page for a browser. It works without JavaScript, loads nothing, and its policy allows nothing but its own style.

use super::{KeyStatus, Keys, StatusPage, TokenTimes, Waiting};
use crate::broker::store::{Exchanges, Failure};
use crate::http::Reply;
use crate::time::Timestamp;
use Value::{Number, Seconds, Text};

const STYLE: &str = include_str!("page.css");

/// The policy (CSP level 3), with the hash of [`STYLE`].
const POLICY: &str = "default-src 'none'; style-src 'sha256-HsPNdXndYzk1v/ErNSyWlZoEzzZPoW2kWywHtQf6jIw='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
    <meta name=viewport content=\"width=device-width,initial-scale=1\"><title>entra-exchange: status</title><style>";

/// The page in HTML.
pub(super) fn reply(page: &StatusPage<'_>, keys: &Keys) -> Reply {
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ];
    Reply {
        status: 200,
        headers: headers.map(|(name, value)| (name, value.to_owned())).into(),
        body: body(page, keys).0.into_bytes(),
    }
}

fn body(page: &StatusPage<'_>, keys: &Keys) -> Html {
    let with_problem = keys.shown.iter().filter(|key| key.entry.failure.is_some()).count();
    let configuration = page.configuration.shown();
    let mut html = Html(String::new());
    html.add(HEAD, &[]);
    html.add(STYLE, &[]);
    html.add(
        "</style><header><h1>entra-exchange</h1><p>Tokens: $, with a problem: $.<p>Version $ ($), at $.<p>Configuration $.",
        &[
            count(keys.shown.len()),
            count(with_problem),
            Text(page.build.version),
            Text(page.build.commit),
            Text(&page.now.rfc3339()),
            Text(&configuration.sha256),
        ],
    );
    for warning in configuration.warnings {
        html.add("<p><strong>Warning:</strong> $", &[Text(warning)]);
    }
    html.add("</header><main>", &[]);
    if keys.shown.is_empty() {
        html.add("<p>The configuration names no token, and no caller has requested one.", &[]);
    }
    let mut identity = None;
    for key in &keys.shown {
        if identity.replace(&key.entry.identity) != Some(&key.entry.identity) {
            html.add("<h2>$</h2>", &[Text(&key.entry.identity)]);
        }
        add_key(&mut html, key, page.now);
    }
    if keys.left_out > 0 {
        html.add("<p>$ more tokens are not shown.", &[count(keys.left_out)]);
    }
    html.add("</main></html>", &[]);
    html
}

fn add_key(html: &mut Html, key: &KeyStatus, now: Timestamp) {
    let (entry, state) = (&key.entry, Text(key.entry.state(now)));
    let title = [state, state, Text(&entry.scope), Text(&key.key)];
    html.add("<article class=\"$\"><b>$</b><h3>$</h3> $", &title);
    if let Some(times) = key.token(now) {
        add_times(html, &times);
    }
    if let Some(failure) = &entry.failure {
        add_failure(html, failure, now);
    }
    if let Some(Waiting { requests, workers }) = key.waiting {
        let numbers = [count(requests), count(workers)];
        html.add("<p>Requests that wait in this worker: $. Other workers that wait: $.", &numbers);
    }
    add_exchanges(html, &entry.exchanges, now);
    html.add("</article>", &[]);
}

/// The bar is the time for which the token can be sent, of its lifetime. It changes its color when the token is due for refresh.
fn add_times(html: &mut Html, times: &TokenTimes) {
    let lifetime = Number(times.age_s.saturating_add(times.expires_in_s));
    html.add(
        "<p><label>usable for $, due for refresh in $, requested $ ago, expires in $ \
         <meter max=\"$\" low=\"$\" optimum=\"$\" value=\"$\"></meter></label>",
        &[
            Seconds(times.usable_for_s),
            Seconds(times.refresh_in_s),
            Seconds(times.age_s),
            Seconds(times.expires_in_s),
            lifetime,
            Number(times.usable_for_s.saturating_sub(times.refresh_in_s)),
            lifetime,
            Number(times.usable_for_s),
        ],
    );
}

fn add_failure(html: &mut Html, failure: &Failure, now: Timestamp) {
    let problem = &failure.problem;
    let [in_or_due, length] = match failure.next_try.since(now).as_secs() {
        0 => [Text("due"), Text("")],
        seconds => [Text("in "), Seconds(seconds)],
    };
    html.add(
        "<blockquote><p><strong>$ $</strong> $, $ in a row, last $ ago, next attempt $$\
         <p>$<p><strong>Remedy:</strong> $",
        &[
            Text(problem.code.as_str()),
            Text(&problem.aadsts().unwrap_or_default()),
            Text(failure.class.as_str()),
            Number(failure.failures.into()),
            since(failure.failed_at, now),
            in_or_due,
            length,
            Text(&problem.detail),
            Text(&problem.remedy),
        ],
    );
    for (name, id) in [("Trace", &problem.entra.trace_id), ("Correlation", &problem.entra.correlation_id)] {
        if let Some(id) = id {
            html.add("<p>$ id $", &[Text(name), Text(id.as_str())]);
        }
    }
    html.add("</blockquote>", &[]);
}

fn add_exchanges(html: &mut Html, exchanges: &Exchanges, now: Timestamp) {
    if exchanges.is_empty() {
        return;
    }
    html.add("<details><summary>Exchanges</summary><ul>", &[]);
    for run in exchanges.latest_first() {
        html.add("<li>$", &[Text(run.outcome())]);
        if let Some(aadsts) = run.aadsts() {
            html.add(" $", &[Text(&aadsts)]);
        }
        if run.count > 1 {
            html.add(" × $, first $ ago, last", &[Number(run.count.into()), since(run.first, now)]);
        }
        html.add(" $ ago", &[since(run.last, now)]);
    }
    html.add("</ul></details>", &[]);
}

fn count(number: usize) -> Value<'static> {
    Number(u64::try_from(number).unwrap_or(u64::MAX))
}

/// The time from one point in time to a later one.
fn since(earlier: Timestamp, later: Timestamp) -> Value<'static> {
    Seconds(later.since(earlier).as_secs())
}

/// A value in the document.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    /// A length of time, shown in its two largest units, such as `1h 3m`.
    Seconds(u64),
}

/// A document in HTML. Markup can come from constants only.
struct Html(String);

impl Html {
    /// Adds a constant, in which each `$` is replaced with the next value. A text is escaped for a text or a quoted attribute; it must
    /// have no other place.
    #[inline(never)]
    fn add(&mut self, template: &'static str, values: &[Value<'_>]) {
        let mut values = values.iter();
        for character in template.chars() {
            match (character, values.as_slice()) {
                ('$', [_, ..]) => values.next().into_iter().for_each(|value| self.add_value(*value)),
                _ => self.0.push(character),
            }
        }
    }

    fn add_value(&mut self, value: Value<'_>) {
        match value {
            Text(text) => self.escape(text),
            Number(number) => self.0.push_str(&number.to_string()),
            Seconds(seconds) => self.add_length(seconds),
        }
    }

    fn add_length(&mut self, seconds: u64) {
        let units = [("s", 60), ("m", 60), ("h", 24), ("d", u64::MAX)];
        let mut rest = seconds;
        let mut parts = [(0, ""), (0, "")];
        for (name, in_next) in units {
            let [last, _] = parts;
            parts = [(rest % in_next, name), last];
            rest /= in_next;
            if rest == 0 {
                break;
            }
        }
        for (index, (count, name)) in parts.into_iter().filter(|(_, name)| !name.is_empty()).enumerate() {
            self.0.push_str(if index > 0 { " " } else { "" });
            self.0.push_str(&count.to_string());
            self.0.push_str(name);
        }
    }

    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                _ => self.0.push(character),
            }
        }
    }
}
