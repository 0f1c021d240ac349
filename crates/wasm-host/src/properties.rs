//! The properties that a guest can read (Envoy's `Context::findValue` and its CEL attributes).

use crate::settings::Settings;
use crate::status::Status;
use crate::stream::Record;

/// Returns the value at a path with NUL-separated steps. Without a stream, only the plugin's and the node's properties exist.
pub(crate) fn read(settings: &Settings, stream: Option<&Record>, path: &[u8]) -> Result<Vec<u8>, Status> {
    let steps: Vec<&[u8]> = path.split(|byte| *byte == 0).collect();
    let text = |text: &str| Ok(text.as_bytes().to_vec());
    match steps.as_slice() {
        [b"plugin_name"] => return text(&settings.plugin_name),
        [b"plugin_root_id"] => return text(&settings.root_id),
        [b"plugin_vm_id"] => return text(&settings.vm_id),
        [b"xds", b"node", b"id"] => return text(&settings.node_id),
        [b"xds", b"node", b"cluster"] => return text(&settings.node_cluster),
        _ => {}
    }
    let stream = stream.ok_or(Status::NotFound)?;
    if let Some((_, value)) = stream.filter_state.iter().find(|(name, _)| name == path) {
        return Ok(value.clone());
    }
    if let Some((_, value)) = settings.properties.iter().find(|(name, _)| name == path) {
        return Ok(value.clone());
    }
    let headers = &stream.request.headers;
    let header = |name: &[u8]| {
        let value = headers.get(name).filter(|_| stream.headers_accessible);
        value.map(<[u8]>::to_vec).ok_or(Status::NotFound)
    };
    match steps.as_slice() {
        [b"xds", b"cluster_name"] => (settings.route)(headers).map(String::into_bytes).ok_or(Status::NotFound),
        // Outbound. An integer is encoded in eight bytes.
        [b"xds", b"listener_direction"] => Ok(2_u64.to_le_bytes().to_vec()),
        [b"request", b"path"] => header(b":path"),
        [b"request", b"url_path"] => {
            header(b":path").map(|path| path.split(|byte| *byte == b'?').next().unwrap_or_default().to_vec())
        }
        [b"request", b"host"] => header(b":authority"),
        [b"request", b"scheme"] => header(b":scheme"),
        [b"request", b"method"] => header(b":method"),
        [b"request", b"id"] => header(b"x-request-id"),
        // Several values are joined, unlike in a header map.
        [b"request", b"headers", name] if stream.headers_accessible => {
            let values: Vec<&[u8]> = headers.all(name).collect();
            if values.is_empty() { Err(Status::NotFound) } else { Ok(values.join(&b","[..])) }
        }
        [b"connection", b"mtls"] => Ok(vec![0]),
        [b"source", b"address"] => text(&stream.request.source),
        [b"destination", b"address"] => text(&stream.request.destination),
        // These exist but cannot be serialized.
        [b"xds" | b"request" | b"connection" | b"source" | b"destination"] => Err(Status::SerializationFailure),
        // This includes the obsolete names `cluster_name`, `route_name`, `node` and `listener_direction`.
        _ => Err(Status::NotFound),
    }
}
