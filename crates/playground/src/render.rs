//! `render`: manifests, with the settings of the page.

use operator::render::{File, Settings, Target, directory, has_placeholder, render};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{check, lines};

/// A manifest to make. A setting that is empty has its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Question {
    text: String,
    variables: String,
    target: String,
    /// One file for each object.
    directory: bool,
    namespace: String,
    /// `NAME=VALUE`
    label: String,
    image: String,
    tag: String,
    digest: String,
    /// `MAJOR` and `MINOR`
    istio: Option<(u32, u32)>,
    gateway_class: String,
    tenant_id: String,
    client_id: String,
    /// One in each line.
    principals: String,
    /// `CLUSTER=HOST[:PORT]` in each line.
    sources: String,
}

/// All targets, each with the defaults of its settings.
pub(crate) fn targets() -> Value {
    let target = |target: Target| {
        let settings = Settings::of(target);
        json!({
            "name": target.as_str(),
            "has_objects": target.has_objects(),
            "is_istios": target.is_istios(),
            "namespace": settings.namespace,
            "label": format!("{}={}", settings.label.0, settings.label.1),
            "image": settings.image,
            "tag": settings.tag,
            "digest": settings.digest,
            "gateway_class": settings.gateway_class,
            "tenant_id": settings.tenant_id,
            "client_id": settings.client_id,
            "principals": settings.principals.join("\n"),
        })
    };
    Target::ALL.map(target).to_vec().into()
}

pub(crate) fn answer(question: Question) -> Result<Value, String> {
    let target = Target::ALL.into_iter().find(|target| target.as_str() == question.target);
    let target = target.ok_or_else(|| format!("{:?} is not a target", question.target))?;
    let source = check::source(&question.text)?;
    let settings = settings(&question, target)?;
    let files = if question.directory {
        directory(&source, target, &settings)
    } else {
        let name = format!("{}.yaml", target.as_str());
        render(&source, target, &settings).map(|text| vec![File { name, text }])
    };
    let files = files.map_err(|refusal| refusal.to_string())?;
    let has_placeholder = has_placeholder(&files, &settings);
    let files: Vec<Value> = files.into_iter().map(|file| json!({ "name": file.name, "text": file.text })).collect();
    Ok(json!({ "files": files, "has_placeholder": has_placeholder }))
}

fn settings(question: &Question, target: Target) -> Result<Settings, String> {
    let defaults = Settings::of(target);
    let or = |text: &str, default: String| lines::given(text).unwrap_or(default);
    let label = lines::pairs(&question.label, '=', "NAME=VALUE").map_err(|error| format!("label {error}"))?;
    let principals: Vec<String> = question.principals.lines().filter_map(lines::given).collect();
    Ok(Settings {
        namespace: or(&question.namespace, defaults.namespace),
        label: label.into_iter().next().unwrap_or(defaults.label),
        image: or(&question.image, defaults.image),
        tag: or(&question.tag, defaults.tag),
        digest: or(&question.digest, defaults.digest),
        istio: question.istio.unwrap_or(defaults.istio),
        gateway_class: or(&question.gateway_class, defaults.gateway_class),
        tenant_id: or(&question.tenant_id, defaults.tenant_id),
        client_id: or(&question.client_id, defaults.client_id),
        principals: if principals.is_empty() { defaults.principals } else { principals },
        variables: lines::variables(&question.variables)?,
        sources: lines::pairs(&question.sources, '=', "CLUSTER=HOST").map_err(|error| format!("source {error}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = include_str!("../../../envoy/configuration/istio.yaml");

    fn ask(target: &str, change: impl FnOnce(&mut Question)) -> Result<Value, String> {
        let (text, target) = (CONFIGURATION.to_owned(), target.to_owned());
        let mut question = Question { text, target, istio: Some((1, 30)), ..Question::default() };
        change(&mut question);
        answer(question)
    }

    #[test]
    fn every_target_of_kubernetes_is_made_with_the_given_settings() {
        for target in targets().as_array().into_iter().flatten() {
            let name = target.get("name").and_then(Value::as_str).unwrap_or_default();
            if matches!(name, "envoy" | "file-server" | "http10") {
                continue;
            }
            let made = ask(name, |question| {
                question.namespace = "orders".to_owned();
                match name {
                    "egress-gateway" => {
                        question.text = include_str!("../../../envoy/configuration/egress-gateway.json").to_owned();
                    }
                    "gateway" => {
                        let text = include_str!("../../../envoy/configuration/gateway.yaml");
                        question.text = text.replace("httproute/payments", "httproute/orders");
                    }
                    _ => {}
                }
            });
            let text = made.as_ref().ok().and_then(|made| made.pointer("/files/0/text")?.as_str());
            assert!(text.is_some_and(|text| text.contains("namespace: orders")), "{name}: {made:?}");
        }
    }

    #[test]
    fn one_file_is_made_for_each_object() {
        let made = ask("wasmplugin", |question| question.directory = true).unwrap_or_default();
        let files = made.get("files").and_then(Value::as_array).map(Vec::len);
        assert_eq!((files, made.get("has_placeholder")), (Some(5), Some(&json!(true))));
    }

    #[test]
    fn a_setting_that_would_break_the_manifest_is_an_error() {
        let error = ask("envoyfilter", |question| question.namespace = "a: b".to_owned()).err().unwrap_or_default();
        assert!(error.starts_with("\"a: b\" is not a valid namespace"), "{error}");
    }
}
