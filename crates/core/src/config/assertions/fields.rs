//! The fields of the section `assertions`.
//!
//! The reader uses the accessors of the general form alone. The fields of the named sources are put into that form by their names.
#![allow(dead_code)]

use crate::config::fields::{fields, variants};
use crate::config::shapes::{AnyObject, Choice, Count, Length, List, Pause, Text, Texts, Words};

/// A JSON pointer (RFC 6901) to a part of a document.
const POINTER: &str = "^/([^~]|~[01])*$";

const MANAGED_IDENTITY: &str = "dddddddd-0000-4000-8000-000000000004";

/// The name and the cluster of the assertion that is created implicitly.
pub(in crate::config) const PROJECTED_TOKEN: &str = "projected_token";

fields! {
    /// A source of federated tokens. [sources.md](sources.md) describes each kind.
    pub(in crate::config) AssertionFields {
        /// the name that `identities[].assertion` refers to
        name: Text, required(), example(PROJECTED_TOKEN);
        /// the kind of source ([sources.md](sources.md)): `file`, `github_actions`, `azure_pipelines`, `google_metadata`, `vault`,
        /// `oidc_client_credentials`, `token_exchange`, `azure_managed_identity`, `azure_app_service`, `aws_sts`,
        /// `spiffe_workload_api`, or `http` for any other
        source: Choice<SourceKind>, required();
        ..SourceKind;
    }
}

variants! {
    /// The kinds of sources of federated tokens.
    pub(in crate::config) enum SourceKind of AssertionFields by "source" {
        /// A file, such as a projected service-account token, which Envoy serves.
        "file" => File: FileFields {
            /// the Envoy cluster for the internal listener that serves the token file; see `envoy/sidecar/envoy.yaml`
            cluster: Text, required(), example(PROJECTED_TOKEN);
            /// what the token must be
            expect: ExpectFields;
        }
        /// The OIDC endpoint of a GitHub Actions job.
        "github_actions" => GithubActions: GithubActionsFields {
            /// the hosts that `ACTIONS_ID_TOKEN_REQUEST_URL` may have; those below a domain begin with a dot
            allowed_hosts: List<Text>, unset("`.actions.githubusercontent.com`");
            ..CallFields;
        }
        /// The OIDC endpoint of an Azure Pipelines job.
        "azure_pipelines" => AzurePipelines: AzurePipelinesFields {
            /// the id of the service connection
            service_connection_id: Text, required();
            /// the hosts that `SYSTEM_OIDCREQUESTURI` may have; those below a domain begin with a dot
            allowed_hosts: List<Text>, unset("`dev.azure.com`, `.visualstudio.com`");
            ..CallFields;
        }
        /// Google's metadata server: Compute Engine, GKE, Cloud Run.
        "google_metadata" => GoogleMetadata: GoogleMetadataFields {
            ..CallFields;
        }
        /// The identity tokens of Vault or OpenBao. The cluster adds the Vault token.
        "vault" => Vault: VaultFields {
            /// the role, whose `client_id` is the audience
            role: Text, required(), example("payments");
            /// the namespace of Vault Enterprise or OpenBao, sent as `X-Vault-Namespace`
            namespace: Text, unset("none");
            /// the host that the request names (`:authority`)
            authority: Text, unset("the name of the cluster");
            ..CallFields;
        }
        /// The token endpoint of an OpenID provider, with the client credentials grant.
        "oidc_client_credentials" => OidcClientCredentials: OidcFields {
            /// the name of the assertion that authenticates the client instead of a secret (RFC 7523)
            client_assertion: Text, unset("none");
            ..EndpointFields;
        }
        /// A token service that exchanges another token (RFC 8693).
        "token_exchange" => TokenExchange: TokenExchangeFields {
            /// the name of the assertion that is exchanged
            subject_token: Text, required();
            /// the type of that token (RFC 8693, section 3)
            subject_token_type: Text, unset("`urn:ietf:params:oauth:token-type:jwt`");
            ..EndpointFields;
        }
        /// Azure's IMDS: a user-assigned managed identity of a virtual machine, scale set or AKS node.
        "azure_managed_identity" => AzureManagedIdentity: AzureManagedIdentityFields {
            /// the client id of the user-assigned managed identity
            client_id: Text, required(), example(MANAGED_IDENTITY);
            ..CallFields;
        }
        /// A user-assigned managed identity of App Service, Functions or Container Apps.
        "azure_app_service" => AzureAppService: AzureAppServiceFields {
            /// the client id of the user-assigned managed identity
            client_id: Text, required(), example(MANAGED_IDENTITY);
            ..CallFields;
        }
        /// AWS STS (`GetWebIdentityToken`). The cluster signs the request with the credentials of a role.
        "aws_sts" => AwsSts: AwsStsFields {
            /// the region of the STS endpoint, which the cluster signs for
            region: Text, required(), example("eu-central-1");
            /// the host that the request names (`:authority`)
            authority: Text, unset("`sts.REGION.amazonaws.com`");
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
            request: RequestFields, required();
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
        cluster: Text, required();
        /// the audience of the token
        audience: Text, unset("`api://AzureADTokenExchange`, or that of the authority's cloud");
        /// what the token must be
        expect: ExpectFields;
        /// how long an answer may take
        timeout: Length<60>, unset("that of the source, see [sources.md](sources.md)");
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
    pub(in crate::config) EndpointFields {
        /// the host of the token endpoint
        authority: Text, unset("the name of the cluster");
        /// the path of the token endpoint
        path: Text, required(), pattern("^/"), example("/realms/workloads/protocol/openid-connect/token");
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
    pub(in crate::config) RequestFields {
        /// the method of the request: `GET` or `POST`
        method: Choice<Method>, unset("`POST` if the request has a body, else `GET`");
        /// the host that the request names (`:authority`)
        authority: Text, unset("the name of the cluster");
        /// the path, which may have a query
        path: Text, unset("required, unless `url_from_env` is set"), pattern("^/");
        /// the environment variable with the URL, which is sent byte for byte; `query` is added to it
        url_from_env: Text, unset("none");
        /// the hosts that this URL may have; those below a domain begin with a dot
        allowed_hosts: List<Text>, unset("required if `url_from_env` is set");
        /// parameters that are percent-encoded and added to the query
        query: Texts, unset("none");
        /// headers of the request, whose values are not secrets
        headers: Texts, unset("none");
        /// headers whose values are secrets, each with the name of its environment variable
        headers_from_env: Texts, unset("none");
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
        id: Text, required();
        /// the environment variable with the secret
        secret_from_env: Text, required();
    }
}

fields! {
    /// Where the token is in an answer.
    pub(in crate::config) ResponseFields {
        /// the JSON pointer (RFC 6901) to the token
        token: Text, unset("the body is the token"), pattern(POINTER), example("/access_token");
        /// the XML element with the token, instead of `token`
        xml: Text, unset("none"), example("WebIdentityToken");
        /// where the time is at which the token expires, in addition to its claim `exp`
        expiry: ExpiryFields;
    }
}

fields! {
    /// Where the expiration time is in an answer.
    pub(in crate::config) ExpiryFields {
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
