import { sentence } from "./check.js";
import { byId, make, rows, values } from "./dom.js";
import { ask, now } from "./engine.js";

/** Shows what the token in the field says. */
export function showToken() {
  const fields = values(byId("token-fields"));
  const target = byId("inspected");
  if (fields.token.trim() === "") {
    target.replaceChildren();
    return;
  }
  const answer = ask("inspect", { ...fields, now: now() });
  if (answer.error) {
    target.replaceChildren(make("p", { class: "verdict error" }, sentence(answer.error)));
    return;
  }
  const { text, problem, is_entras: isEntras, credentials, signature } = answer.ok;
  const isGood = !problem || isEntras;
  const verdict = isEntras
    ? "An access token of Entra."
    : problem
      ? `Entra would not accept this token: ${problem.detail}.`
      : "Entra accepts such a token, if a federated credential matches it.";
  target.replaceChildren(
    make("p", { class: `verdict ${isGood ? "good" : "error"}` }, verdict),
    rows(pairs(text)),
    ...(credentials ?? []).map(comparison),
    ...(signature ? [proof(signature)] : []),
  );
}

/** The rows of the command's text: a name in fourteen columns, then the value. */
function pairs(text) {
  const lines = text.split("\n").map((line) => [line.slice(0, 14).trim(), line.slice(14)]);
  return lines.map(([name, value]) => [name, value]);
}

function comparison({ name, differences }) {
  const matches = differences.length === 0;
  return make(
    "div",
    {},
    make("p", { class: `verdict ${matches ? "good" : "error"}` }, `The federated credential ${name} ${matches ? "matches" : "does not match"}.`),
    make("ul", {}, differences.map((difference) => make("li", {}, difference))),
  );
}

function proof({ key, algorithm, reason }) {
  const text = key ? `The signature is verified with the key ${key} (${algorithm}).` : `The signature is not verified: ${reason}.`;
  return make("p", { class: `verdict ${key ? "good" : "error"}` }, text);
}

/** A token as a Kubernetes cluster issues it, with a signature that nothing verifies. */
export function sampleToken() {
  const part = (value) => btoa(JSON.stringify(value)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const header = { alg: "RS256", kid: "2026-01" };
  const claims = {
    iss: "https://oidc.example.com/cluster/",
    sub: "system:serviceaccount:payments:api",
    aud: ["api://AzureADTokenExchange"],
    iat: now() - 600,
    nbf: now() - 600,
    exp: now() + 3000,
    "kubernetes.io": { namespace: "payments" },
  };
  return [part(header), part(claims), part("not a signature")].join(".");
}
