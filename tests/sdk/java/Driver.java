import com.azure.core.credential.AccessToken;
import com.azure.core.credential.TokenCredential;
import com.azure.core.credential.TokenRequestContext;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Properties;

/** Gets tokens as an app does that has azure-identity: see README.md in the folder above. */
public final class Driver {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        // Nothing here may reach the real IMDS, and the probe takes no transport of ours.
        if (System.getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST") == null && System.getenv("IDENTITY_ENDPOINT") == null) {
            throw new IllegalStateException("neither AZURE_POD_IDENTITY_AUTHORITY_HOST nor IDENTITY_ENDPOINT is set");
        }
        System.out.println(answer(JSON.readTree(arguments[0])));
        // The SDK's threads would keep the process.
        System.exit(0);
    }

    private static ObjectNode answer(JsonNode request) throws Exception {
        ObjectNode refused = JSON.createObjectNode().put("version", version());
        ObjectNode answer = refused.deepCopy();
        boolean chain = request.path("chain").asBoolean();
        long started = System.nanoTime();
        try {
            TokenCredential credential =
                    chain ? new DefaultAzureCredentialBuilder().build() : managedIdentity(request.path("selector"));
            TokenRequestContext scopes =
                    new TokenRequestContext().addScopes(request.get("resource").asText() + "/.default");
            for (int call = 0; call < request.path("times").asInt(1); call++) {
                started = System.nanoTime();
                // Only the asynchronous way has the probe.
                AccessToken token = chain ? credential.getToken(scopes).block() : credential.getTokenSync(scopes);
                answer.withArray("tokens").add(token.getToken());
                answer.withArray("expires_on").add(token.getExpiresAt().toEpochSecond());
                answer.withArray("ms").add(millisecondsSince(started));
            }
            return answer;
        } catch (RuntimeException error) {
            refused.putObject("error").put("type", error.getClass().getSimpleName()).put("message", withCauses(error));
            return refused.put("ms", millisecondsSince(started));
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

    /** What a stack trace shows: the SDK's own message says "see inner exception". */
    private static String withCauses(Throwable error) {
        StringBuilder told = new StringBuilder(String.valueOf(error.getMessage()));
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            told.append("\nCaused by: ").append(cause.getMessage());
        }
        return told.toString();
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
