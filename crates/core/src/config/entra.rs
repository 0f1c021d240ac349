//! Reads the section `entra`.

use super::fields::fields;
use super::object::Field;
use super::reader::Mistakes;
use super::shapes::{Choice, List, Permission, Text};
use super::variables::read_variable;
use crate::authority::{Authority, Cloud};
use crate::problem::{Code, Problem};
use crate::untrusted::UntrustedText;

/// The cluster that leads to the authority if `entra.clusters` is not set.
const ENTRA_CLUSTER: &str = "entra";

const AUTHORITY_VARIABLE: &str = "AZURE_AUTHORITY_HOST";

fields! {
    /// The token endpoint, and the Envoy clusters for it.
    pub(super) EntraFields {
        /// the URL of the authority, which determines the cloud; case and `:443` make no difference
        authority: Text, unset("`AZURE_AUTHORITY_HOST`, else `https://login.microsoftonline.com`"),
            pattern(r"^[Hh][Tt][Tt][Pp][Ss]://[A-Za-z0-9.-]+(:\d+)?/?$"), example("https://login.microsoftonline.com");
        /// `allow` accepts an authority that is not one of Microsoft's
        unknown_authority: Choice<Permission>, default("refuse");
        /// the Envoy clusters for the authority, in the order in which they are tried. Each must use TLS and verify the server's name
        clusters: List<Text>, default(&[ENTRA_CLUSTER][..]);
        /// the path that a service in front of the authority expects before the path of the token endpoint, such as the path of
        /// `AZURE_KUBERNETES_TOKEN_PROXY` ([AKS identity bindings](sources.md#aks-identity-bindings))
        path_prefix: Text, unset("none"), pattern("^/[!-\"$->@-~]*$"), example("/proxy");
    }
}

/// The authority that issues tokens, and the clusters that lead to it.
pub(super) struct Entra {
    /// The authority, or the problem with the variable that names it.
    pub(super) authority: Result<Authority, Problem>,
    pub(super) clusters: Vec<String>,
}

impl Entra {
    /// The cloud of the authority. If the variable is not a valid authority, it is the public one, and requests are rejected with the
    /// problem.
    pub(super) fn cloud(&self) -> Option<Cloud> {
        self.authority.as_ref().map_or(Some(Cloud::Public), Authority::cloud)
    }
}

/// Reads the section.
pub(super) fn read(
    section: &Field<'_, '_, EntraFields>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Entra {
    let object = section.read(mistakes);
    let unknown_allowed =
        object.as_ref().and_then(|object| object.unknown_authority().read(mistakes)).unwrap_or_default();
    let configured = object.as_ref().and_then(|object| object.authority().read(mistakes));
    let authority = match configured {
        Some(text) => Authority::parse(text, unknown_allowed).or_else(|mistake| {
            mistakes.add("entra.authority", format!("{text:?} {mistake}"));
            Ok(Authority::public())
        }),
        None => read_variable(AUTHORITY_VARIABLE, variable).and_then(|text| {
            let Some(text) = text else { return Ok(Authority::public()) };
            Authority::parse(&text, unknown_allowed).map_err(|mistake| {
                Problem::new(
                    Code::EnvVarMissing,
                    format!("{AUTHORITY_VARIABLE}: {:?} {mistake}", UntrustedText::new(&text)),
                    "Correct the variable, or set entra.authority in the configuration.",
                )
            })
        }),
    };
    let clusters = object.as_ref().and_then(|object| object.clusters().texts(mistakes)).map_or_else(
        || vec![ENTRA_CLUSTER.to_owned()],
        |clusters| clusters.into_iter().map(|(_, name)| name.to_owned()).collect(),
    );
    let prefix = object.as_ref().map(|object| object.path_prefix());
    let path = prefix.as_ref().and_then(|field| field.read(mistakes)).unwrap_or_default();
    let is_path = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?');
    let is_valid = path.is_empty() || (path.starts_with('/') && path.bytes().all(is_path));
    if let Some(field) = prefix.filter(|_| !is_valid) {
        field.mistake(format!("{path:?} is not a valid path: write one such as \"/proxy\""), mistakes);
    }
    Entra { authority: authority.map(|authority| authority.behind(path)), clusters }
}
