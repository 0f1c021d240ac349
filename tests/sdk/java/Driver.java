import com.azure.core.credential.AccessToken;
import com.azure.core.credential.TokenCredential;
import com.azure.core.credential.TokenRequestContext;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Properties;

/** Gets tokens in the same way as an app with azure-identity: see README.md in the parent folder. */
public final class Driver {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        // No request may reach the real IMDS, and the SDK's probe does not use a custom transport.
        if (System.getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST") == null && System.getenv("IDENTITY_ENDPOINT") == null) {
            throw new IllegalStateException("set AZURE_POD_IDENTITY_AUTHORITY_HOST or IDENTITY_ENDPOINT");
        }
        System.out.println(respond(JSON.readTree(arguments[0])));
        // The SDK's threads would keep the process running.
        System.exit(0);
    }

    private static ObjectNode respond(JsonNode request) throws Exception {
        ObjectNode failure = JSON.createObjectNode().put("version", version());
        ObjectNode response = failure.deepCopy();
        boolean chain = request.path("chain").asBoolean();
        long started = System.nanoTime();
        try {
            TokenCredential credential =
                    chain ? new DefaultAzureCredentialBuilder().build() : managedIdentity(request.path("selector"));
            TokenRequestContext scopes =
                    new TokenRequestContext().addScopes(request.get("resource").asText() + "/.default");
            for (int call = 0; call < request.path("times").asInt(1); call++) {
                started = System.nanoTime();
                // Only the asynchronous API probes the endpoint.
                AccessToken token = chain ? credential.getToken(scopes).block() : credential.getTokenSync(scopes);
                response.withArray("tokens").add(token.getToken());
                response.withArray("expires_on").add(token.getExpiresAt().toEpochSecond());
                response.withArray("ms").add(millisecondsSince(started));
            }
            return response;
        } catch (RuntimeException error) {
            failure.putObject("error").put("type", error.getClass().getSimpleName()).put("message", withCauses(error));
            return failure.put("ms", millisecondsSince(started));
        }
    }

    private static TokenCredential managedIdentity(JsonNode selector) {
        ManagedIdentityCredentialBuilder builder = new ManagedIdentityCredentialBuilder();
        if (selector.has("client_id")) {
            builder.clientId(selector.get("client_id").asText());
        } else if (selector.has("object_id")) {
            builder.objectId(selector.get("object_id").asText());
        } else if (selector.has("resource_id")) {
            builder.resourceId(selector.get("resource_id").asText());
        }
        return builder.build();
    }

    /** Returns the messages of an error and its causes: the SDK's own message only says "see inner exception". */
    private static String withCauses(Throwable error) {
        StringBuilder messages = new StringBuilder(String.valueOf(error.getMessage()));
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            messages.append("\nCaused by: ").append(cause.getMessage());
        }
        return messages.toString();
    }

    private static String version() throws Exception {
        Properties properties = new Properties();
        properties.load(Driver.class.getResourceAsStream("/azure-identity.properties"));
        return properties.getProperty("version");
    }

    private static long millisecondsSince(long started) {
        return (System.nanoTime() - started) / 1_000_000;
    }
}
