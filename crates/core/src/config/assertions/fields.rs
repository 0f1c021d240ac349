//! The fields of the section `assertions`.
//!
//! The fields of a named source are declared `by name`: [`form`](super::form) puts them into the general form, `source: http`. Each is
//! a field of that form (`HttpFields`), one of its request (`RequestFields`), or a `$name` in the source's row of `assertion/http/named.rs`.

use crate::broker::Limits;
use crate::config::declared::any_case;
use crate::config::fields::{fields, variants};
use crate::config::shapes::{AnyObject, Choice, Count, HostPort, Length, List, Pause, Text, Texts, Words};

/// The header with the credentials of the fields `bearer_from_env` and `basic_auth`.
pub(super) const AUTHORIZATION: &str = "authorization";

/// The headers that belong to the message or its connection.
pub(super) const RESERVED: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// A JSON pointer (RFC 6901) to a part of a document.
const POINTER: &str = "^/([^~]|~[01])*$";

/// The path of a request, which may have a query.
const PATH: &str = "^/[!\"$-~]*$";

/// A host, or a domain with a dot at its beginning that is not a top-level domain.
const ALLOWED_HOST: &str = r"^([A-Za-z0-9-][A-Za-z0-9.-]*|\.[A-Za-z0-9-]*\.[A-Za-z0-9.-]*)$";

/// What goes into the path, the host or a header of a request.
const NO_CONTROL: &str = r"^[^\x00-\x1f\x7f]*$";

/// The texts of headers.
const HEADER_TEXT: &str = r#"{"type":"string","minLength":1,"pattern":"^[^\\x00-\\x1f\\x7f]*$"}"#;

/// The names of headers, without these.
fn header_names(excluded: &[&str]) -> String {
    format!(r#"{{"pattern":"^[A-Za-z0-9._-]+$","not":{{"pattern":"^{}$"}}}}"#, any_case(excluded))
}

const MANAGED_IDENTITY: &str = "dddddddd-0000-4000-8000-000000000004";

/// The name and the cluster of the assertion that is created implicitly.
pub(in crate::config) const PROJECTED_TOKEN: &str = "projected_token";

fields! {
    /// A source of federated tokens. [sources.md](sources.md) describes each kind.
    pub(in crate::config) AssertionFields {
        /// the name that `identities[].assertion` refers to
        name: Text, required("a name, such as \"projected_token\""), example(PROJECTED_TOKEN);
        /// the kind of source, with `http` for any service that has no kind of its own ([sources.md](sources.md))
        source: Choice<SourceKind>, required("a kind of source, such as \"file\""), with_words();
        ..SourceKind;
    }
}

variants! {
    /// The kinds of sources of federated tokens.
    pub(in crate::config) enum SourceKind of AssertionFields by "source" {
        /// A file, such as a projected service-account token, which Envoy serves.
        "file" => File: FileFields {
            /// the Envoy cluster for the internal listener that serves the token file; see `envoy/sidecar/envoy.yaml`
            cluster: Text, required("the Envoy cluster that serves the token's file"), example(PROJECTED_TOKEN);
            /// what the token must be
            expect: ExpectFields;
        }
        /// The OIDC endpoint of a GitHub Actions job.
        "github_actions" => GithubActions: GithubActionsFields by name {
            /// the hosts that `ACTIONS_ID_TOKEN_REQUEST_URL` may have; those below a domain begin with a dot
            allowed_hosts: List<Text>, unset("`.actions.githubusercontent.com`"), pattern(ALLOWED_HOST);
            ..CallFields;
        }
        /// The OIDC endpoint of an Azure Pipelines job.
        "azure_pipelines" => AzurePipelines: AzurePipelinesFields by name {
            /// the id of the service connection
            service_connection_id: Text, required("the id of the service connection"), pattern(NO_CONTROL);
            /// the hosts that `SYSTEM_OIDCREQUESTURI` may have; those below a domain begin with a dot
            allowed_hosts: List<Text>, unset("`dev.azure.com`, `.visualstudio.com`"), pattern(ALLOWED_HOST);
            ..CallFields;
        }
        /// Google's metadata server: Compute Engine, GKE, Cloud Run.
        "google_metadata" => GoogleMetadata: GoogleMetadataFields by name {
            ..CallFields;
        }
        /// The identity tokens of Vault or OpenBao. The cluster adds the Vault token.
        "vault" => Vault: VaultFields by name {
            /// the role, whose `client_id` is the audience
            role: Text, required("the name of the role"), pattern(NO_CONTROL), example("payments");
            /// the namespace of Vault Enterprise or OpenBao, sent as `X-Vault-Namespace`
            namespace: Text, unset("none"), pattern(NO_CONTROL);
            /// the host that the request names (`:authority`)
            authority: HostPort, unset("the name of the cluster");
            ..CallFields;
        }
        /// The token endpoint of an OpenID provider, with the client credentials grant.
        "oidc_client_credentials" => OidcClientCredentials: OidcFields by name {
            /// the name of the assertion that authenticates the client instead of a secret (RFC 7523)
            client_assertion: Text, unset("none");
            ..EndpointFields;
        }
        /// A token service that exchanges another token (RFC 8693).
        "token_exchange" => TokenExchange: TokenExchangeFields by name {
            /// the name of the assertion that is exchanged
            subject_token: Text, required("the name of an assertion, such as \"projected_token\"");
            /// the type of that token (RFC 8693, section 3)
            subject_token_type: Text, unset("`urn:ietf:params:oauth:token-type:jwt`");
            ..EndpointFields;
        }
        /// Azure's IMDS: a user-assigned managed identity of a virtual machine, scale set or AKS node.
        "azure_managed_identity" => AzureManagedIdentity: AzureManagedIdentityFields by name {
            /// the client id of the user-assigned managed identity
            client_id: Text, required("the client id, a GUID"), pattern(NO_CONTROL), example(MANAGED_IDENTITY);
            ..CallFields;
        }
        /// A user-assigned managed identity of App Service, Functions or Container Apps.
        "azure_app_service" => AzureAppService: AzureAppServiceFields by name {
            /// the client id of the user-assigned managed identity
            client_id: Text, required("the client id, a GUID"), pattern(NO_CONTROL), example(MANAGED_IDENTITY);
            ..CallFields;
        }
        /// AWS STS (`GetWebIdentityToken`). The cluster signs the request with the credentials of a role.
        "aws_sts" => AwsSts: AwsStsFields by name {
            /// the region of the STS endpoint, which the cluster signs for
            region: Text, required("a region, such as \"eu-central-1\""), pattern("^[A-Za-z0-9-]+$"), example("eu-central-1");
            /// the host that the request names (`:authority`)
            authority: HostPort, unset("`sts.REGION.amazonaws.com`");
            ..CallFields;
        }
        /// The SPIFFE Workload API of an agent, such as SPIRE's.
        "spiffe_workload_api" => SpiffeWorkloadApi: SpiffeFields {
            /// the SPIFFE ID, if the workload has several. The token must have it
            spiffe_id: Text, unset("the first one that the agent names"), example("spiffe://example.org/payments");
            /// the hint of the identity, if the workload has several
            hint: Text, unset("none");
            ..CallFields;
        }
        /// Any service that issues a JWT in response to one request.
        "http" => Http: HttpFields {
            /// the request that is made for each token
            request: RequestFields, required("the request, { path: … }");
            /// where the token is in the answer
            response: ResponseFields;
            /// the statuses with which the service says that it can issue a token a little later
            not_ready: List<Count<599>>, unset("none");
            /// how long a token is used again, at most; never longer than half of its life
            reuse: Length<3600>, unset("`5m`");
            ..CallFields;
        }
    }
}

fields! {
    /// What all sources over HTTP have in common.
    pub(in crate::config) CallFields {
        /// the Envoy cluster that leads to the source; `envoy/sources/` has one for each
        cluster: Text, required("the Envoy cluster that leads to the source");
        /// the audience of the token
        audience: Text, unset("`api://AzureADTokenExchange`, or that of the authority's cloud");
        /// what the token must be
        expect: ExpectFields;
        /// how long an answer may take
        timeout: Length<{ Limits::LONGEST_EXCHANGE.as_secs() }>, unset("that of the source, see [sources.md](sources.md)");
        /// how many times the source is asked for one exchange
        attempts: Count<10>, unset("that of the source, see [sources.md](sources.md)");
        /// the longest pause before the second attempt; each further one is twice as long. Up to half of a pause is left out at random
        back_off: Pause<10>, unset("`200ms`");
    }
}

fields! {
    /// What the federated token must be. A token that is not is rejected before Entra is asked.
    pub(in crate::config) ExpectFields {
        /// the issuer that the token must have
        iss: Text, unset("any");
        /// the subject that the token must have
        sub: Text, unset("any");
        /// the audience that the token must have
        aud: Text, unset("`audience`; any for `file`");
        /// the algorithm of its signature (RFC 7518, section 3.1), such as `ES256`; Entra documents `RS256` only
        alg: Text, unset("`RS256`");
    }
}

fields! {
    /// A token endpoint (RFC 6749).
    pub(in crate::config) EndpointFields by name {
        /// the host of the token endpoint
        authority: HostPort, unset("the name of the cluster");
        /// the path of the token endpoint
        path: Text, required("the path, such as \"/token\""), pattern(PATH), example("/realms/workloads/protocol/openid-connect/token");
        /// the client's id and secret, for `Authorization`
        basic_auth: BasicAuthFields;
        /// more parameters of the form, such as `scope`, `audience`, `resource` or `client_id`
        form: Texts, unset("none");
        /// parameters of the form that are secrets, such as `client_secret`, each with the name of its environment variable
        form_from_env: Texts, unset("none");
        ..CallFields;
    }
}

fields! {
    /// A request.
    pub(in crate::config) RequestFields,
        any_of(&["path", "url_from_env"]),
        rule("dependentRequired", r#"{"url_from_env":["allowed_hosts"],"allowed_hosts":["url_from_env"]}"#),
        rule("dependentSchemas", r#"{
            "url_from_env":{"properties":{"path":false,"authority":false}},
            "basic_auth":{"properties":{"bearer_from_env":false}},
            "json":{"properties":{"form":false,"form_from_env":false,"form_from_assertion":false}},
            "body":{"properties":{"form":false,"form_from_env":false,"form_from_assertion":false,"json":false}}
        }"#)
    {
        /// the method of the request: `GET` or `POST`
        method: Choice<Method>, unset("`POST` if the request has a body, else `GET`");
        /// the host that the request names (`:authority`)
        authority: HostPort, unset("the name of the cluster");
        /// the path, which may have a query
        path: Text, unset("required, unless `url_from_env` is set"), pattern(PATH);
        /// the environment variable with the URL, which is sent byte for byte; `query` is added to it
        url_from_env: Text, unset("none");
        /// the hosts that this URL may have; those below a domain begin with a dot
        allowed_hosts: List<Text>, unset("required if `url_from_env` is set"), pattern(ALLOWED_HOST);
        /// parameters that are percent-encoded and added to the query
        query: Texts, unset("none");
        /// headers of the request, whose values are not secrets
        headers: Texts, unset("none"), rule("additionalProperties", HEADER_TEXT),
            rule("propertyNames", &header_names(&[&RESERVED[..], &[AUTHORIZATION]].concat()));
        /// headers whose values are secrets, each with the name of its environment variable
        headers_from_env: Texts, unset("none"), rule("propertyNames", &header_names(&RESERVED));
        /// the environment variable with a bearer token for `Authorization`
        bearer_from_env: Text, unset("none");
        /// a client's id and secret for `Authorization`
        basic_auth: BasicAuthFields;
        /// parameters of the form in the body, which are not secrets
        form: Texts, unset("none");
        /// parameters of the form that are secrets, each with the name of its environment variable
        form_from_env: Texts, unset("none");
        /// parameters of the form that are federated tokens, each with the name of its assertion
        form_from_assertion: Texts, unset("none");
        /// the body, if it is a JSON object
        json: AnyObject, unset("none");
        /// the body, if it is neither a form nor a JSON object. Without a header `content-type` it is JSON
        body: Text, unset("none");
    }
}

fields! {
    /// A client's id and secret (RFC 6749, section 2.3.1).
    pub(in crate::config) BasicAuthFields {
        /// the id of the client at the service
        id: Text, required("the client id");
        /// the environment variable with the secret
        secret_from_env: Text, required("the name of the variable with the secret");
    }
}

fields! {
    /// Where the token is in an answer.
    pub(in crate::config) ResponseFields,
        rule("dependentRequired", r#"{"expiry":["token"]}"#),
        rule("dependentSchemas", r#"{"xml":{"properties":{"token":false,"expiry":false}}}"#)
    {
        /// the JSON pointer (RFC 6901) to the token
        token: Text, unset("the body is the token"), pattern(POINTER), example("/access_token");
        /// the XML element with the token, instead of `token`
        xml: Text, unset("none"), example("WebIdentityToken");
        /// where the time is at which the token expires, in addition to its claim `exp`
        expiry: ExpiryFields;
    }
}

fields! {
    /// Where the expiration time is in an answer: one of the two.
    pub(in crate::config) ExpiryFields, rule("minProperties", "1"), rule("maxProperties", "1") {
        /// the JSON pointer to the number of seconds for which the token is valid
        seconds: Text, unset("none"), pattern(POINTER), example("/expires_in");
        /// the JSON pointer to a time (RFC 3339)
        time: Text, unset("none"), pattern(POINTER), example("/expires_at");
    }
}

/// The method of a request.
pub(in crate::config) enum Method {}

impl Words for Method {
    type Value = &'static str;
    const WORDS: &'static [(&'static str, &'static str)] = &[("GET", "GET"), ("POST", "POST")];
}
