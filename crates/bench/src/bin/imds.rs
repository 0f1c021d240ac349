//! `make bench-imds`: measures the CPU time of a managed-identity reply in Envoy, beside Envoy's own `direct_response` of the same size.
//! With ENDPOINT=address:port and PID=number another IMDS endpoint is measured beside it; ENDPOINT_PATH is its path if it differs.

use std::env;

use bench::BenchResult;
use bench::chain::{self, Chain, Chains, Form};
use bench::figures::{median, row};
use bench::wrk::Target;
use serde_json::json;
use stack::IMDS_HOST;

const PATH: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
const HEADER: &str = "Metadata: true";

fn main() -> BenchResult<()> {
    let rounds = env::args().nth(1).map_or(Ok(7), |rounds| rounds.parse())?;
    let folder = tempfile::tempdir()?;
    let configuration = json!({
        "entra": {"clusters": ["entra", "entra_new_connection"]},
        "managed_identity": {"imds": {}},
    });
    let product =
        Chain::new("entra-exchange", Some(chain::product("managed_identity", &configuration)?)).for_host(IMDS_HOST);
    let size = reply_size(&product)?;
    let direct = Chain {
        direct_response: Some(json!({"status": 200, "body": {"inline_string": "x".repeat(size)}})),
        ..Chain::new("direct_response", None).for_host(IMDS_HOST)
    };
    let floor = chain::floor(folder.path(), "reply", include_str!("../floor/reply.wat"), size)?;
    let floor = Chain::new("only the host calls to reply", Some(floor)).for_host(IMDS_HOST);
    let chains = [direct, floor, product];
    let running = Chains::start(Form::Replying, 1, &chains, PATH, Some(HEADER))?;
    for (index, chain) in chains.iter().enumerate() {
        let response = running.send(index, PATH)?;
        if response.status != 200 || response.text().len().abs_diff(size) > 8 {
            return Err(format!("`{}` replied {}: {}", chain.name, response.status, response.text()).into());
        }
    }
    let other = other_endpoint()?;
    let mut names: Vec<&str> = chains.iter().map(|chain| chain.name).collect();
    names.extend(other.as_ref().map(|_| "the other endpoint"));
    let mut costs = Vec::new();
    for _ in 0..rounds {
        let mut round = running.measure(1)?.remove(0);
        if let Some((target, pid)) = &other {
            round.push(chain::cost(target, *pid, 1, 1)?);
        }
        costs.push(round);
    }
    println!("Envoy's CPU time per managed-identity request; 1 worker, {rounds} rounds; a reply of {size} bytes\n");
    row("", &["µs per request".to_owned(), "over the first".to_owned()]);
    for (index, name) in names.iter().enumerate() {
        let ratio = median(costs.iter().map(|round| round[index] / round[0]));
        row(name, &[format!("{:.1}", median(costs.iter().map(|round| round[index]))), format!("{ratio:.2} ×")]);
    }
    Ok(())
}

/// Returns the size of the product's reply in bytes.
fn reply_size(product: &Chain) -> BenchResult<usize> {
    let response =
        Chains::start(Form::Replying, 1, std::slice::from_ref(product), PATH, Some(HEADER))?.send(0, PATH)?;
    match response.status {
        200 => Ok(response.text().len()),
        status => Err(format!("the product replied {status}: {}", response.text()).into()),
    }
}

/// Returns the endpoint that the environment names, and its process.
fn other_endpoint() -> BenchResult<Option<(Target, u32)>> {
    let (Ok(address), Ok(pid)) = (env::var("ENDPOINT"), env::var("PID")) else { return Ok(None) };
    if address.is_empty() || pid.is_empty() {
        return Ok(None);
    }
    let path = env::var("ENDPOINT_PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| PATH.to_owned());
    let target = Target { address: address.parse()?, host: IMDS_HOST.to_owned(), path, header: Some(HEADER) };
    Ok(Some((target, pid.parse()?)))
}
