//! `inspect`: what a token says, and what Entra will think of it.

use std::fmt::Write as _;

use clap::Args;
use operator::signature::{self, Signer};
use operator::token::{self, Comparison, Inspected};
use serde_json::{Value, json};

use crate::output::{Failure, Output, Verdict};
use crate::{clock, input, network};

/// The arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A token, the name of a file with one, or - for standard input. A token on the command line is visible to other users of
    /// the machine
    token: String,
    /// Compare with the credentials in this file, which az ad app federated-credential list or az identity federated-credential
    /// list printed
    #[arg(long, value_name = "FILE")]
    credentials: Option<String>,
    /// Verify the signature with the issuer's key set: a file, or a URL, which is fetched
    #[arg(long, value_name = "FILE|URL")]
    jwks: Option<String>,
    /// Judge the token at this time instead of now
    #[arg(long, value_name = "TIME", value_parser = clock::parse)]
    at: Option<u64>,
}

impl Inspect {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let text = self.read()?;
        let now = self.at.unwrap_or_else(clock::now);
        let inspected = token::inspect(&text, now).map_err(|reason| Failure::input(format!("the token {reason}")))?;
        let compared = self.compare(&inspected)?;
        let verified = self.verify(&text)?;
        let mut shown = inspected.text(now);
        if let (Some(credential), None) = (&inspected.credential, &compared) {
            // Writing to a string does not fail.
            let _ = write!(shown, "\n{}", credential.text());
        }
        for one in compared.iter().flatten() {
            let matches = if one.differences.is_empty() { "matches" } else { "does not match" };
            let _ = write!(shown, "\ncredential    {} {matches}", one.name);
            for difference in &one.differences {
                let _ = write!(shown, "\n              {difference}");
            }
        }
        if let Some(verified) = &verified {
            let text = match verified {
                Ok(Signer { key, algorithm }) => format!("verified with the key {key} ({algorithm})"),
                Err(reason) => format!("not verified: {reason}"),
            };
            let _ = write!(shown, "\nsignature     {text}");
        }
        let mut value = json!(inspected);
        if let Value::Object(fields) = &mut value {
            fields.insert("credentials".to_owned(), json!(compared));
            fields.insert("verified".to_owned(), json!(verified.as_ref().map(Result::is_ok)));
            fields.insert("signer".to_owned(), json!(verified.as_ref().and_then(|verified| verified.as_ref().ok())));
        }
        output.print(&shown, &value)?;
        let matches = compared.is_none_or(|all| all.iter().any(|one| one.differences.is_empty()));
        let is_good = inspected.problem.is_none() || inspected.is_entras;
        Ok(Verdict::of(is_good && matches && verified.is_none_or(|verified| verified.is_ok())))
    }

    /// A text with a token in it is not the name of a file, unless there is such a file: a message would show the signature.
    fn read(&self) -> Result<String, Failure> {
        let has_token = self.token.contains("eyJ") || self.token.to_ascii_lowercase().contains("bearer ");
        if has_token && !std::path::Path::new(&self.token).exists() {
            return Ok(self.token.clone());
        }
        Ok(input::source(&self.token)?.text().to_owned())
    }

    fn compare(&self, inspected: &Inspected) -> Result<Option<Vec<Comparison>>, Failure> {
        let Some(file) = &self.credentials else { return Ok(None) };
        let Some(credential) = &inspected.credential else {
            return Err(Failure::input("the token has no issuer, subject and audience, so no credential can match it"));
        };
        let list = input::source(file)?;
        let compared = token::compare(credential, list.text());
        compared.map(Some).map_err(|reason| Failure::input(format!("{file} {reason}")))
    }

    fn verify(&self, text: &str) -> Result<Option<Result<Signer, String>>, Failure> {
        let Some(place) = &self.jwks else { return Ok(None) };
        let keys = if network::is_url(place) { network::body(place)? } else { input::source(place)?.text().to_owned() };
        Ok(Some(signature::verify(text, &keys)))
    }
}
