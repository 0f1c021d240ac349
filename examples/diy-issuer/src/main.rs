//! `diy-issuer publish ISSUER KEYS SITE` and `diy-issuer mint ISSUER KEY SUBJECT FILE`: see the README.

use std::path::Path;
use std::process::ExitCode;
use std::{env, io};

use diy_issuer::{Key, Token, publish, replace};

const USAGE: &str = "usage: diy-issuer publish ISSUER KEYS SITE\n       diy-issuer mint ISSUER KEY SUBJECT FILE\n";

/// The seconds for which a token is valid: enough for a timer that runs every five minutes and fails once.
const LIFETIME: u64 = 900;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diy-issuer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    match arguments {
        ["publish", issuer, keys, site] => {
            let published = publish(issuer, Path::new(keys), Path::new(site))?;
            println!("published {published} keys in {site}");
            Ok(())
        }
        ["mint", issuer, key, subject, file] => {
            // The audience of the public cloud; another cloud has its own.
            let audience = env::var("AUDIENCE").unwrap_or_else(|_| "api://AzureADTokenExchange".to_owned());
            let token = Token { issuer, subject, audience: &audience, seconds: LIFETIME };
            replace(Path::new(file), &Key::read(Path::new(key))?.mint(&token)?)
        }
        _ => Err(io::Error::other(USAGE)),
    }
}
