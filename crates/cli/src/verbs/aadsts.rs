//! `aadsts`: what an error code of Microsoft Entra means, and what to do.

use std::fmt::Write as _;

use clap::Args;
use operator::aadsts::{self, Explanation};
use serde_json::{Value, json};

use crate::input;
use crate::output::{Failure, Output, Verdict};

/// The arguments of `aadsts`.
#[derive(Debug, Args)]
pub(crate) struct Aadsts {
    /// A code such as 700213 or AADSTS700213, or a text that contains codes; - is standard input. Without it, all codes are listed
    #[arg(value_name = "CODE|TEXT")]
    text: Option<String>,
}

impl Aadsts {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let Some(text) = &self.text else { return list(output) };
        let text = if text == "-" { input::source("-")?.text().to_owned() } else { text.clone() };
        let codes = aadsts::codes_in(&text);
        if codes.is_empty() {
            return Err(Failure::input("the text contains no AADSTS code: write one such as AADSTS700213"));
        }
        let explained: Vec<(u32, Option<Explanation>)> =
            codes.into_iter().map(|code| (code, aadsts::explain(code))).collect();
        let mut shown = String::new();
        for (code, explanation) in &explained {
            shown.push_str(if shown.is_empty() { "" } else { "\n" });
            write_one(&mut shown, *code, explanation.as_ref());
        }
        let values: Vec<Value> =
            explained.iter().map(|(code, explanation)| value(*code, explanation.as_ref())).collect();
        output.print(&shown, &values.into())?;
        Ok(Verdict::of(explained.iter().all(|(_, explanation)| explanation.is_some())))
    }
}

fn write_one(shown: &mut String, code: u32, explanation: Option<&Explanation>) {
    let link = aadsts::link(code);
    // Writing to a string does not fail.
    let _ = match explanation {
        Some(Explanation { cause, remedy, class, makes_unready, .. }) => {
            let class = class.unwrap_or("by the status of the response");
            let unready = if *makes_unready { "; the pod is not ready" } else { "" };
            writeln!(shown, "AADSTS{code}: {cause}\n  remedy  {remedy}\n  class   {class}{unready}\n  page    {link}")
        }
        None => writeln!(shown, "AADSTS{code}: not among the codes of these flows\n  page    {link}"),
    };
}

fn value(code: u32, explanation: Option<&Explanation>) -> Value {
    match explanation {
        Some(explanation) => {
            let mut value = json!(explanation);
            if let Value::Object(fields) = &mut value {
                fields.insert("link".to_owned(), aadsts::link(code).into());
            }
            value
        }
        None => json!({ "code": code, "cause": null, "link": aadsts::link(code) }),
    }
}

fn list(output: Output) -> Result<Verdict, Failure> {
    let all = aadsts::all();
    let lines: Vec<String> = all.iter().map(|one| format!("{:>7}  {}", one.code, one.cause)).collect();
    let values: Vec<Value> = all.iter().map(|one| value(one.code, Some(one))).collect();
    output.print(&lines.join("\n"), &values.into())?;
    Ok(Verdict::Good)
}
