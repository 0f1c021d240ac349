//! The status page for a browser. It works without JavaScript, loads nothing, and its policy allows nothing but its own style.

use super::{KeyStatus, Keys, StatusPage, TokenTimes, Waiting};
use crate::broker::store::{Exchanges, Failure};
use crate::http::Reply;
use crate::time::Timestamp;

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
    html.add(HEAD, &[]).add(STYLE, &[]).add(
        "</style><header><h1>entra-exchange</h1><p>Tokens: {}, with a problem: {}.<p>Version {} ({}), at {}.<p>Configuration {}.",
        &[
            &keys.shown.len().to_string(),
            &with_problem.to_string(),
            page.build.version,
            page.build.commit,
            &page.now.rfc3339(),
            &configuration.sha256,
        ],
    );
    for warning in configuration.warnings {
        html.add("<p><strong>Warning:</strong> {}", &[warning]);
    }
    html.add("</header><main>", &[]);
    if keys.shown.is_empty() {
        html.add("<p>The configuration names no token, and no caller has requested one.", &[]);
    }
    let mut identity = None;
    for key in &keys.shown {
        if identity.replace(&key.entry.identity) != Some(&key.entry.identity) {
            html.add("<h2>{}</h2>", &[&key.entry.identity]);
        }
        add_key(&mut html, key, page.now);
    }
    if keys.left_out > 0 {
        html.add("<p>{} more tokens are not shown.", &[&keys.left_out.to_string()]);
    }
    html.add("</main></html>", &[]);
    html
}

fn add_key(html: &mut Html, key: &KeyStatus, now: Timestamp) {
    let (entry, state) = (&key.entry, key.entry.state(now));
    html.add("<article class=\"{}\"><b>{}</b><h3>{}</h3> {}", &[state, state, &entry.scope, &key.key]);
    if let Some(times) = key.token(now) {
        add_times(html, &times);
    }
    if let Some(failure) = &entry.failure {
        add_failure(html, failure, now);
    }
    if let Some(waiting) = key.waiting {
        add_waiting(html, waiting);
    }
    add_exchanges(html, &entry.exchanges, now);
    html.add("</article>", &[]);
}

/// The bar is the time for which the token can be sent, of its lifetime. It changes its color when the token is due for refresh.
fn add_times(html: &mut Html, times: &TokenTimes) {
    let due = times.usable_for_s.saturating_sub(times.refresh_in_s);
    let numbers =
        [times.age_s.saturating_add(times.expires_in_s), due, times.usable_for_s].map(|number| number.to_string());
    let [lifetime, due, usable] = &numbers;
    html.add(
        "<p><label>usable for {}, due for refresh in {}, requested {} ago, expires in {} \
         <meter max=\"{}\" low=\"{}\" optimum=\"{}\" value=\"{}\"></meter></label>",
        &[
            &length(times.usable_for_s),
            &length(times.refresh_in_s),
            &length(times.age_s),
            &length(times.expires_in_s),
            lifetime,
            due,
            lifetime,
            usable,
        ],
    );
}

fn add_failure(html: &mut Html, failure: &Failure, now: Timestamp) {
    let problem = &failure.problem;
    html.add(
        "<blockquote><p><strong>{} {}</strong> {}, {} in a row, last {} ago, next attempt in {}\
         <p>{}<p><strong>Remedy:</strong> {}",
        &[
            problem.code.as_str(),
            &problem.aadsts().unwrap_or_default(),
            failure.class.as_str(),
            &failure.failures.to_string(),
            &ago(failure.failed_at, now),
            &length(failure.next_try.since(now).as_secs()),
            &problem.detail,
            &problem.remedy,
        ],
    );
    for (name, id) in [("Trace", &problem.entra.trace_id), ("Correlation", &problem.entra.correlation_id)] {
        if let Some(id) = id {
            html.add("<p>{} id {}", &[name, id.as_str()]);
        }
    }
    html.add("</blockquote>", &[]);
}

fn add_waiting(html: &mut Html, waiting: Waiting) {
    let (requests, workers) = (waiting.requests.to_string(), waiting.workers.to_string());
    html.add("<p>Requests that wait in this worker: {}. Other workers that wait: {}.", &[&requests, &workers]);
}

fn add_exchanges(html: &mut Html, exchanges: &Exchanges, now: Timestamp) {
    if exchanges.is_empty() {
        return;
    }
    html.add("<details><summary>Exchanges</summary><ul>", &[]);
    for run in exchanges.latest_first() {
        html.add("<li>{}", &[run.outcome()]);
        if let Some(aadsts) = run.aadsts() {
            html.add(" {}", &[&aadsts]);
        }
        if run.count > 1 {
            html.add(" × {}, first {} ago, last", &[&run.count.to_string(), &ago(run.first, now)]);
        }
        html.add(" {} ago", &[&ago(run.last, now)]);
    }
    html.add("</ul></details>", &[]);
}

fn ago(time: Timestamp, now: Timestamp) -> String {
    length(now.since(time).as_secs())
}

/// A length of time in its two largest units, such as `1h 3m`.
fn length(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let largest = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut text = String::new();
    let mut rest = seconds;
    for (name, unit) in units.iter().skip(largest).take(2) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&(rest / unit).to_string());
        text.push_str(name);
        rest %= unit;
    }
    text
}

/// A document in HTML. Markup can come from constants only.
struct Html(String);

impl Html {
    /// Adds a constant, in which each `{}` is replaced with the next value. A value is escaped for a text or a quoted attribute; it must
    /// have no other place.
    #[inline(never)]
    fn add(&mut self, template: &'static str, values: &[&str]) -> &mut Self {
        let mut values = values.iter();
        let mut rest = template;
        while let Some((text, after)) = values.len().checked_sub(1).and_then(|_| rest.split_once("{}")) {
            self.0.push_str(text);
            values.next().into_iter().for_each(|value| self.escape(value));
            rest = after;
        }
        self.0.push_str(rest);
        self
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
