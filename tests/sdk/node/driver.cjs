// Gets tokens in the same way as an app with @azure/identity: see README.md in the parent folder.
"use strict";

const { readFileSync } = require("node:fs");
const { dirname, join } = require("node:path");
const { DefaultAzureCredential, ManagedIdentityCredential } = require("@azure/identity");
const { createDefaultHttpClient } = require("@azure/core-rest-pipeline");

// The host of IMDS. No request may reach the real one.
const IMDS = "169.254.169.254";
const SELECTORS = { client_id: "clientId", object_id: "objectId", resource_id: "resourceId" };

// Sends requests for IMDS to $IMDS_URL, as iptables does in a pod.
function redirectingClient() {
  const client = createDefaultHttpClient();
  return {
    sendRequest(request) {
      const url = new URL(request.url);
      if (url.hostname === IMDS) {
        if (!process.env.IMDS_URL) {
          throw new Error(`set IMDS_URL: no request may be sent to ${IMDS}`);
        }
        url.host = new URL(process.env.IMDS_URL).host;
        request.url = url.toString();
      }
      return client.sendRequest(request);
    },
  };
}

function credentialFor(request) {
  const options = { httpClient: redirectingClient() };
  if (request.chain) {
    return new DefaultAzureCredential(options);
  }
  for (const [kind, value] of Object.entries(request.selector ?? {})) {
    options[SELECTORS[kind]] = value;
  }
  return new ManagedIdentityCredential(options);
}

// The package does not export its package.json.
function version() {
  const folder = dirname(require.resolve("@azure/identity"));
  return JSON.parse(readFileSync(join(folder, "../../package.json"), "utf8")).version;
}

async function run(request) {
  const response = { version: version(), tokens: [], expires_on: [], ms: [] };
  let started = performance.now();
  const milliseconds = () => Math.round(performance.now() - started);
  try {
    const credential = credentialFor(request);
    for (let call = 0; call < (request.times ?? 1); call++) {
      started = performance.now();
      const token = await credential.getToken(`${request.resource}/.default`);
      response.tokens.push(token.token);
      response.expires_on.push(Math.round(token.expiresOnTimestamp / 1000));
      response.ms.push(milliseconds());
    }
    return response;
  } catch (error) {
    return { version: version(), error: { type: error.name, message: error.message }, ms: milliseconds() };
  }
}

run(JSON.parse(process.argv[2])).then((response) => console.log(JSON.stringify(response)));
