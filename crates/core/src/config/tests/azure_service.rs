//! Tests of the field `azure_service`.

use super::*;

/// The hosts of each destination, and the scope of its token.
fn targets(text: &str) -> Vec<(Vec<String>, String)> {
    let target = |destination: &Destination| {
        let hosts = destination.hosts.iter().map(ToString::to_string).collect();
        match &destination.action {
            DestinationAction::Inject(token, _) | DestinationAction::Report(token, _) => (hosts, token.scope.clone()),
            _ => (hosts, String::new()),
        }
    };
    parse(text).unwrap().destinations.iter().map(target).collect()
}

#[test]
fn hosts_and_scope_of_an_azure_service_depend_on_the_cloud_of_the_authority() {
    let target = |hosts: &[&str], scope: &str| {
        (hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>(), scope.to_owned())
    };
    let text = r#"{"defaults":{"tls_clusters":["outbound|80||{host}"],"scope":"api://mine/.default"},"destinations":[
        {"azure_service":"key_vault","names":["payments-kv","payments-kv2"]},
        {"azure_service":"microsoft_graph","methods":["GET"],"path_prefixes":["/v1.0/users"]},
        {"hosts":["api.example.com"]}]}"#;
    assert_eq!(
        targets(text),
        [
            target(
                &["payments-kv.vault.azure.net", "payments-kv2.vault.azure.net"],
                "https://vault.azure.net/.default"
            ),
            target(&["graph.microsoft.com"], "https://graph.microsoft.com/.default"),
            target(&["api.example.com"], "api://mine/.default"),
        ]
    );
    let government = text.replacen('{', r#"{"entra":{"authority":"https://login.microsoftonline.us"},"#, 1);
    assert_eq!(targets(&government)[0].0[0], "payments-kv.vault.usgovcloudapi.net");
    assert_eq!(targets(&government)[1], target(&["graph.microsoft.us"], "https://graph.microsoft.us/.default"));
    let by_variable = Config::parse(text.as_bytes(), &|name: &str| match name {
        "AZURE_AUTHORITY_HOST" => Some("https://login.partner.microsoftonline.cn/".into()),
        other => webhook(other),
    });
    assert_eq!(by_variable.unwrap().destinations[0].hosts[0].to_string(), "payments-kv.vault.azure.cn");
}

#[test]
fn a_service_with_a_scope_for_each_resource_gives_a_destination_for_each() {
    let text = r#"{"identities":[{"name":"a","client_id":"aaaaaaaa-0000-4000-8000-000000000001","principals":["spiffe://x/ns/a/sa/b"]},
        {"name":"b","client_id":"bbbbbbbb-0000-4000-8000-000000000002","principals":["spiffe://x/ns/a/sa/b"]}],
        "destinations":[{"azure_service":"data_explorer","names":["first.weu","second.weu"],"identity":"a"},{"hosts":["x.example"],"scope":"x/.default"}]}"#;
    // A mistake names the index in the configuration, not that of the resulting destination.
    assert_eq!(
        mistakes(text),
        [
            "identities[1].principals[0]: \"spiffe://x/ns/a/sa/b\" is also a principal of \"a\", and destinations[1] sets no identity: remove it from one of the two, or set identity on each destination"
        ]
    );
    for action in ["inject", "report"] {
        let text = format!(
            r#"{{"destinations":[{{"azure_service":"data_explorer","names":["first.weu","second.weu"],"action":"{action}"}}]}}"#
        );
        let scopes: Vec<String> = targets(&text).into_iter().map(|(_, scope)| scope).collect();
        assert_eq!(
            scopes,
            ["https://first.weu.kusto.windows.net/.default", "https://second.weu.kusto.windows.net/.default"],
            "{action}"
        );
    }
}

#[test]
fn the_header_form_depends_on_the_azure_service() {
    let config = parse(r#"{"destinations":[{"azure_service":"cosmos_db","names":["payments"]}]}"#).unwrap();
    assert_eq!(injection(&config).form, HeaderForm::CosmosDb);
    assert_eq!(injection(&parse(MINIMAL).unwrap()).form, HeaderForm::Bearer);
}

#[test]
fn a_mistake_in_an_azure_service_names_its_field() {
    let mistakes_in = |destination: &str| mistakes(&format!(r#"{{"destinations":[{destination}]}}"#));
    for (destination, expected) in [
        (
            r#"{"azure_service":"key_valt","names":["kv1"]}"#,
            &[r#"destinations[0].azure_service: "key_valt" is not a known service: did you mean "key_vault"?"#][..],
        ),
        (
            r#"{"azure_service":"container_registry","names":["r"]}"#,
            &[
                r#"destinations[0].azure_service: "container_registry" cannot be a destination, because a registry does not accept Entra tokens: it requires an exchange of its own after a challenge: use the kubelet's credential provider, or have the client request https://containerregistry.azure.net from managed_identity"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault"}"#,
            &[
                r#"destinations[0].azure_service: "key_vault" has a host for each resource, {name}.vault.azure.net: list your resources in names"#,
            ],
        ),
        (
            r#"{"azure_service":"microsoft_graph","names":["x"]}"#,
            &[
                r#"destinations[0].names: "microsoft_graph" has the same host for all customers, graph.microsoft.com: remove names"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault","names":["ok1","payments-kv.vault.azure.net","a.b","evil.example/"]}"#,
            &[
                r#"destinations[0].names[1]: "payments-kv.vault.azure.net" is a host: write only the name, "payments-kv""#,
                r#"destinations[0].names[2]: "a.b" is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter"#,
                r#"destinations[0].names[3]: "evil.example/" is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault","names":["kv1"],"hosts":["x.example"],"scope":"x/.default"}"#,
            &[
                "destinations[0].hosts: is set by azure_service: remove one of the two",
                "destinations[0].scope: is set by azure_service: remove one of the two",
            ],
        ),
        (
            r#"{"names":["kv1"],"hosts":["x.example"],"scope":"x/.default"}"#,
            &["destinations[0].names: requires azure_service: set azure_service, or remove names"],
        ),
        (
            r#"{"azure_service":"key_vault","names":["kv1"]},{"hosts":["kv1.vault.azure.net"],"scope":"x/.default"}"#,
            &[
                r#"destinations[1].hosts[0]: "kv1.vault.azure.net" is also listed in destinations[0]: remove one of the two, or distinguish them by port, path_prefixes or methods"#,
            ],
        ),
    ] {
        assert_eq!(mistakes_in(destination), expected, "{destination}");
    }
    let sovereign = r#"{"entra":{"authority":"https://login.sovcloud-identity.sg"},"destinations":[{"azure_service":"key_vault","names":["kv1"]}]}"#;
    assert!(mistakes(sovereign)[0].contains("and the authority belongs to none of them"), "{:?}", mistakes(sovereign));
}

#[test]
fn a_service_without_a_scope_in_the_table_needs_one_in_the_configuration() {
    let functions = |scope: &str| {
        format!(
            r#"{{"destinations":[{{"azure_service":"functions","names":["orders","pay-b2c.westeurope-01"]{scope}}}]}}"#
        )
    };
    let config = parse(&functions(r#","scope":"api://orders/.default""#)).unwrap();
    let hosts: Vec<String> = config.destinations[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["orders.azurewebsites.net", "pay-b2c.westeurope-01.azurewebsites.net"]);
    assert!(
        matches!(&config.destinations[0].action, DestinationAction::Inject(token, _) if token.scope == "api://orders/.default")
    );
    assert_eq!(
        parse(&functions("")).unwrap_err().to_string(),
        "destinations[0].scope: is missing: write the resource and /.default"
    );
}
