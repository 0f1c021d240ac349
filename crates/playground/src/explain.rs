//! `explain`: how a request would be handled, and its steps.

use operator::explain::{Question as Request, explain};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::steps::{self, Durations};
use crate::{check, lines};

/// A question about a request. Fields of the page that are empty are not part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Question {
    text: String,
    variables: String,
    method: String,
    url: String,
    /// The parameters of a token request to IMDS; if it is not empty, `url` is not used.
    managed_identity: String,
    /// `NAME: VALUE` in each line.
    headers: String,
    cluster: String,
    caller: String,
    /// `tls`, `plaintext` or nothing.
    connection: String,
    address: String,
    on_gateway: bool,
    durations: Durations,
}

pub(crate) fn answer(question: Question) -> Result<Value, String> {
    let sources = [check::source(&question.text)?];
    let variables = lines::variables(&question.variables)?;
    let request = request(&question)?;
    let explained = explain(&sources, &variables, &request)?;
    let text = explained.text();
    Ok(json!({
        "sentence": text.lines().next(),
        "steps": steps::of(&explained, &question.durations),
        "explained": explained,
    }))
}

fn request(question: &Question) -> Result<Request, String> {
    let base = match lines::given(&question.managed_identity) {
        Some(parameters) => Request::managed_identity(&parameters),
        None => Request { url: question.url.trim().to_owned(), ..Request::default() },
    };
    let headers = lines::pairs(&question.headers, ':', "NAME: VALUE").map_err(|error| format!("header {error}"))?;
    let address = lines::given(&question.address)
        .map(|text| text.parse().map_err(|_| format!("address {text:?}: write ADDRESS:PORT, such as 127.0.0.1:15002")))
        .transpose()?;
    Ok(Request {
        method: lines::given(&question.method).unwrap_or_else(|| "GET".to_owned()),
        url: base.url,
        headers: [headers, base.headers].concat(),
        cluster: lines::given(&question.cluster),
        caller: lines::given(&question.caller),
        connection_tls: lines::given(&question.connection).map(|connection| connection == "tls"),
        address: address.or(base.address),
        on_gateway: question.on_gateway,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = include_str!("../../../envoy/configuration/sidecar.json");

    fn ask(change: impl FnOnce(&mut Question)) -> Result<Value, String> {
        let mut question = Question { text: CONFIGURATION.to_owned(), ..Question::default() };
        change(&mut question);
        answer(question)
    }

    fn outcome(answer: Result<Value, String>) -> Option<Value> {
        answer.ok()?.pointer("/explained/outcome").cloned()
    }

    #[test]
    fn a_request_is_explained_with_the_fields_of_the_page() {
        let url = "http://payments-kv.vault.azure.net/secrets/db";
        assert_eq!(outcome(ask(|question| question.url = format!(" {url} "))), Some(json!("inject")));
        let elsewhere = ask(|question| {
            question.url = url.to_owned();
            question.cluster = "elsewhere".to_owned();
        });
        assert_eq!(outcome(elsewhere), Some(json!("refuse")));
        let token = ask(|question| question.managed_identity = "resource=https://vault.azure.net".to_owned());
        assert_eq!(outcome(token), Some(json!("answer")));
    }

    #[test]
    fn a_field_in_another_form_is_an_error_that_shows_the_form() {
        let error = |change: fn(&mut Question)| ask(change).err().unwrap_or_default();
        assert_eq!(error(|question| question.headers = "x".to_owned()), "header \"x\": write NAME: VALUE");
        assert!(error(|question| question.address = "x".to_owned()).starts_with("address \"x\": write ADDRESS:PORT"));
        assert!(error(|question| question.url = "a b".to_owned()).contains("is not a URL"));
        assert!(error(|question| question.text = "{}".to_owned()).starts_with("the configuration has"));
    }
}
