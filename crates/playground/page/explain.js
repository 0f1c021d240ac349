import { sentence } from "./check.js";
import { byId, make, rows, values } from "./dom.js";
import { text } from "./editor.js";
import { ask } from "./engine.js";
import { picture } from "./picture.js";

/** Explains the request in the fields. */
export function showExplanation() {
  const request = values(byId("request"));
  const isUrl = request.kind === "url";
  for (const field of byId("request").querySelectorAll("[data-kind]")) field.hidden = field.dataset.kind !== request.kind;
  const durations = Object.fromEntries(Object.entries(values(byId("durations"))).map(([name, value]) => [name, milliseconds(value)]));
  const answer = ask("explain", {
    ...request,
    managed_identity: isUrl ? "" : request.managed_identity || "resource=",
    method: isUrl ? request.method : "GET",
    text: text(),
    variables: byId("variables").value,
    durations,
  });
  if (answer.error) {
    byId("explained").replaceChildren(make("p", { class: "verdict error" }, sentence(answer.error)));
    byId("steps-section").hidden = true;
    return;
  }
  const { explained, sentence: verdict, steps } = answer.ok;
  byId("explained").replaceChildren(
    make("p", { class: `verdict ${explained.problem ? "error" : "good"}` }, verdict),
    facts(explained),
    explained.rules.length > 0 && rules(explained.rules),
  );
  byId("steps-section").hidden = steps.length === 0;
  byId("steps").replaceChildren(...steps.map(picture));
}

function milliseconds(value) {
  return Math.max(0, Math.min(600000, Math.floor(Number(value)) || 0));
}

function facts({ decided_by, identity, assumed_cluster, exchange, placeholders, sends, problem }) {
  const code = (value) => value && make("code", {}, value);
  const calls = exchange
    ? [
        ...exchange.source_calls.map(({ method, authority, path, cluster, source }) =>
          `${method} ${source === "file" ? "" : authority}${path} from cluster ${cluster}: ${source === "file" ? "the federated token" : source}`,
        ),
        `POST ${exchange.url} through cluster ${exchange.clusters.join(", then ")}, with client_id ${exchange.client_id}`,
      ]
    : [];
  return rows([
    ["decided by", code(decided_by)],
    ["identity", code(identity)],
    ["route", assumed_cluster && make("span", {}, "assumed: cluster ", code(assumed_cluster))],
    ["scope", exchange && code(exchange.scope)],
    ["", exchange && !exchange.listed && "The configuration does not name this scope: managed_identity.limits applies."],
    ["exchange", calls.length > 0 && make("ol", { class: "calls" }, calls.map((call) => make("li", {}, call)))],
    ["placeholders", placeholders.length > 0 && `for ${placeholders.join(", ")}: set their values under Environment variables of the proxy`],
    ["sends", sends && code(`${sends.header}: ${sends.value}`)],
    ["removes", sends && sends.removes.length > 0 && code(sends.removes.join(", "))],
    ["", sends && sends.passes_without_token && "Without a token, the request is forwarded unchanged (on_failure: pass)."],
    ["code", problem && code(`${problem.status} ${problem.code}`)],
    ["cause", problem && problem.detail],
    ["remedy", problem && make("strong", {}, problem.remedy)],
  ].map(([name, value]) => [name, value || null]));
}

function rules(list) {
  const row = (rule) =>
    make(
      "li",
      { class: rule.applies ? "applies" : "" },
      make("p", {}, make("code", {}, rule.path), ` (${rule.name}), ${rule.action}: ${rule.conditions}`),
      make("p", { class: "hint" }, rule.why),
    );
  return make("section", { "aria-label": "Rules for the host" }, make("h3", {}, "Rules for the host, the most specific first"), make("ol", { class: "rules" }, list.map(row)));
}
