//! The admin API: plaintext HTTP with JSON, on a separate port.
//!
//! | | |
//! |---|---|
//! | `GET /stats` | the counters, see [`Stats`](crate::Stats) |
//! | `POST /faults` | a list of faults, see [`Fault`](crate::Fault) |
//! | `POST /credentials` | `{"tenant_id", "client_id", "issuer", "subject", "audience"}` |
//! | `POST /resources` | `{"resource"}`, and `"client_id"` for v2 tokens with that audience |
//! | `POST /reset` | removes pending faults and resets the counters |
//!
//! A successful POST returns 204. An invalid document returns 400 with the name of the field.

use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::directory::{Credential, Directory};
use crate::faults::Fault;
use crate::fields::{Fields, InvalidField};

/// Handles a request to the admin port.
pub(crate) fn respond(directory: &Directory, request: &Request) -> Response {
    let allowed = match request.path() {
        "/stats" => "GET",
        "/faults" | "/credentials" | "/resources" | "/reset" => "POST",
        unknown => return error(404, "", &format!("unknown path {unknown}")),
    };
    if request.method != allowed {
        return error(405, "", &format!("{} accepts {allowed} only", request.path())).header("allow", allowed);
    }
    let done = match request.path() {
        "/stats" => {
            return Response::json(200, serde_json::to_vec(&directory.stats()).unwrap_or_default());
        }
        "/reset" => {
            directory.reset();
            Ok(())
        }
        "/faults" => faults(directory, request),
        "/credentials" => credential(directory, request),
        _ => resource(directory, request),
    };
    match done {
        Ok(()) => Response::json(204, Vec::new()),
        Err(InvalidField { field, reason }) => error(400, &field, &reason),
    }
}

fn faults(directory: &Directory, request: &Request) -> Result<(), InvalidField> {
    directory.add_faults(Fault::list_from_json(&document(request)?)?);
    Ok(())
}

fn credential(directory: &Directory, request: &Request) -> Result<(), InvalidField> {
    let mut fields = Fields::of(&document(request)?)?;
    let credential = Credential {
        tenant_id: fields.required_text("tenant_id")?,
        client_id: fields.required_text("client_id")?,
        issuer: fields.required_text("issuer")?,
        subject: fields.required_text("subject")?,
        audience: fields.required_text("audience")?,
    };
    fields.end()?;
    directory.register_credential(credential).map_err(|error| {
        let (field, reason) = error.split_once(": ").unwrap_or(("", &error));
        InvalidField::new(field, reason)
    })
}

fn resource(directory: &Directory, request: &Request) -> Result<(), InvalidField> {
    let mut fields = Fields::of(&document(request)?)?;
    let resource = fields.required_text("resource")?;
    let client_id = fields.text("client_id")?;
    fields.end()?;
    if resource.is_empty() {
        return Err(InvalidField::new("resource", "must not be empty"));
    }
    match client_id {
        Some(client_id) => directory.register_resource_v2(&resource, &client_id),
        None => directory.register_resource(&resource),
    }
    Ok(())
}

fn document(request: &Request) -> Result<Value, InvalidField> {
    serde_json::from_slice(&request.body)
        .map_err(|error| InvalidField::new("", format!("the body is not JSON: {error}")))
}

fn error(status: u16, field: &str, reason: &str) -> Response {
    let body = if field.is_empty() { json!({ "error": reason }) } else { json!({ "error": reason, "field": field }) };
    Response::json(status, body.to_string().into_bytes())
}
