//! The named sources: each is the general form with values from a row of this table.

/// A row.
pub(crate) struct Named {
    /// The name, as `source` in the configuration.
    pub(crate) kind: &'static str,
    /// The fields of the general form (`source: http`). `$name` stands for a field of the assertion's own configuration; what contains one
    /// that is not set is left out.
    pub(crate) form: &'static str,
    /// Whether Entra accepts a token that it issued itself from this source.
    pub(crate) entra_issued: bool,
    /// What to do if the source refuses.
    pub(crate) remedy: &'static str,
}

/// The table.
pub(crate) const NAMED: &[Named] = &[
    Named {
        kind: "github_actions",
        // 403: the job has not started yet.
        form: r#"{"request":{"url_from_env":"ACTIONS_ID_TOKEN_REQUEST_URL","allowed_hosts":[".actions.githubusercontent.com"],
            "bearer_from_env":"ACTIONS_ID_TOKEN_REQUEST_TOKEN","query":{"audience":"$audience"},"headers":{"accept":"application/json"}},
            "response":{"token":"/value"},"not_ready":[403],"reuse":"2m","timeout":"10s"}"#,
        entra_issued: false,
        remedy: "Give the job permissions: id-token: write, and hand the job's own ACTIONS_ID_TOKEN_REQUEST_URL and \
                 ACTIONS_ID_TOKEN_REQUEST_TOKEN to Envoy unchanged.",
    },
    Named {
        kind: "azure_pipelines",
        // Without the last header a wrong bearer token is answered with a sign-in page.
        form: r#"{"request":{"method":"POST","url_from_env":"SYSTEM_OIDCREQUESTURI","allowed_hosts":["dev.azure.com",".visualstudio.com"],
            "bearer_from_env":"SYSTEM_ACCESSTOKEN","query":{"api-version":"7.1","serviceConnectionId":"$service_connection_id"},
            "headers":{"accept":"application/json","content-type":"application/json","x-tfs-fedauthredirect":"Suppress"}},
            "response":{"token":"/oidcToken"},"timeout":"10s"}"#,
        entra_issued: true,
        remedy: "Check service_connection_id, that the pipeline may use the connection, and that the step that starts Envoy maps \
                 SYSTEM_ACCESSTOKEN: $(System.AccessToken) in env.",
    },
    Named {
        kind: "google_metadata",
        form: r#"{"request":{"authority":"metadata.google.internal",
            "path":"/computeMetadata/v1/instance/service-accounts/default/identity","query":{"audience":"$audience","format":"full"},
            "headers":{"metadata-flavor":"Google"}},"timeout":"3s","attempts":5}"#,
        entra_issued: false,
        remedy: "Check that the instance has a service account, and that its metadata server is not disabled. On GKE, annotate the \
                 Kubernetes service account with iam.gke.io/gcp-service-account.",
    },
    Named {
        kind: "vault",
        // 403: the Vault token is being renewed.
        form: r#"{"request":{"path":"/v1/identity/oidc/token/$role",
            "headers":{"x-vault-request":"true","x-vault-namespace":"$namespace"}},
            "response":{"token":"/data/token","expiry":{"seconds":"/data/ttl"}},"not_ready":[403],"attempts":2}"#,
        entra_issued: false,
        remedy: "Check that the role exists, that its client_id is in the key's allowed_client_ids, that the Vault token belongs to an \
                 entity (a root token does not), and that its policy can read identity/oidc/token/ROLE.",
    },
    Named {
        kind: "oidc_client_credentials",
        form: r#"{"request":{"headers":{"accept":"application/json"},
            "form":{"grant_type":"client_credentials","client_assertion_type":"$client_assertion_type"},
            "form_from_assertion":{"client_assertion":"$client_assertion"}},
            "response":{"token":"/access_token","expiry":{"seconds":"/expires_in"}},"timeout":"10s"}"#,
        entra_issued: false,
        remedy: "Check the client's id and credentials, and that the provider lets the client use the client credentials grant.",
    },
    Named {
        kind: "token_exchange",
        form: r#"{"request":{"headers":{"accept":"application/json"},
            "form":{"grant_type":"urn:ietf:params:oauth:grant-type:token-exchange","subject_token_type":"$subject_token_type"},
            "form_from_assertion":{"subject_token":"$subject_token"}},
            "response":{"token":"/access_token","expiry":{"seconds":"/expires_in"}},"timeout":"10s"}"#,
        entra_issued: false,
        remedy: "Check that the token service trusts the issuer of the subject token, and that it lets the client exchange it.",
    },
    Named {
        kind: "azure_managed_identity",
        // 404 and 410: IMDS is being updated.
        form: r#"{"request":{"path":"/metadata/identity/oauth2/token","authority":"169.254.169.254",
            "query":{"api-version":"2018-02-01","resource":"$audience","client_id":"$client_id"},"headers":{"metadata":"true"}},
            "response":{"token":"/access_token"},"not_ready":[404,410],"reuse":"1h"}"#,
        entra_issued: true,
        remedy: "Check client_id, and that this user-assigned managed identity is assigned to the machine. Check that the cluster leads to \
                 the machine's IMDS, not to this filter.",
    },
    Named {
        kind: "azure_app_service",
        form: r#"{"request":{"url_from_env":"IDENTITY_ENDPOINT","allowed_hosts":["localhost"],
            "query":{"api-version":"2019-08-01","resource":"$audience","client_id":"$client_id"},
            "headers_from_env":{"x-identity-header":"IDENTITY_HEADER"}},
            "response":{"token":"/access_token"},"reuse":"1h"}"#,
        entra_issued: true,
        remedy: "Check client_id, that this user-assigned managed identity is assigned to the app, and that Envoy has the platform's own \
                 IDENTITY_ENDPOINT and IDENTITY_HEADER.",
    },
    Named {
        kind: "aws_sts",
        // The token must not outlive the session of the role, so it lives for the default time.
        form: r#"{"request":{"authority":"sts.$region.amazonaws.com","path":"/",
            "form":{"Action":"GetWebIdentityToken","Version":"2011-06-15","Audience.member.1":"$audience",
            "SigningAlgorithm":"RS256","DurationSeconds":"300"}},"response":{"xml":"WebIdentityToken"}}"#,
        entra_issued: false,
        remedy: "Check that outbound web identity federation is enabled in the account, that the role may call \
                 sts:GetWebIdentityToken for this audience, and that the cluster signs its requests for the same region.",
    },
    Named {
        kind: super::SPIFFE,
        // The module `spiffe` adds the message.
        form: r#"{"request":{"method":"POST","path":"/SpiffeWorkloadAPI/FetchJWTSVID",
            "headers":{"content-type":"application/grpc","te":"trailers","workload.spiffe.io":"true"}}}"#,
        entra_issued: false,
        remedy: "Check that the cluster leads to a SPIFFE Workload API, and that it uses HTTP/2.",
    },
];
