// Gets tokens in the same way as an app with azidentity: see README.md in the parent folder.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// The host of IMDS. No request may reach the real one.
const imds = "169.254.169.254"

type request struct {
	Resource string            `json:"resource"`
	Selector map[string]string `json:"selector"`
	Times    int               `json:"times"`
	Chain    bool              `json:"chain"`
}

// redirecting sends requests for IMDS to $IMDS_URL, as iptables does in a pod.
type redirecting struct{}

func (redirecting) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == imds {
		target, err := url.Parse(os.Getenv("IMDS_URL"))
		if err != nil || target.Host == "" {
			return nil, fmt.Errorf("set IMDS_URL: no request may be sent to %s", imds)
		}
		// The Host header is unchanged, as in a pod.
		r.URL.Host = target.Host
	}
	return http.DefaultTransport.RoundTrip(r)
}

func credential(r request) (azcore.TokenCredential, error) {
	client := policy.ClientOptions{Transport: redirecting{}}
	if r.Chain {
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: client})
	}
	options := azidentity.ManagedIdentityCredentialOptions{ClientOptions: client}
	for kind, value := range r.Selector {
		switch kind {
		case "client_id":
			options.ID = azidentity.ClientID(value)
		case "object_id":
			options.ID = azidentity.ObjectID(value)
		case "resource_id":
			options.ID = azidentity.ResourceID(value)
		}
	}
	return azidentity.NewManagedIdentityCredential(&options)
}

func version() string {
	build, _ := debug.ReadBuildInfo()
	for _, module := range build.Deps {
		if module.Path == "github.com/Azure/azure-sdk-for-go/sdk/azidentity" {
			return module.Version[1:]
		}
	}
	return ""
}

func respond(r request) map[string]any {
	tokens, expiresOn, ms := []string{}, []int64{}, []int64{}
	started := time.Now()
	failed := func(err error) map[string]any {
		described := map[string]string{"type": reflect.TypeOf(err).String(), "message": err.Error()}
		return map[string]any{"version": version(), "error": described, "ms": time.Since(started).Milliseconds()}
	}
	source, err := credential(r)
	if err != nil {
		return failed(err)
	}
	for range max(r.Times, 1) {
		started = time.Now()
		scopes := policy.TokenRequestOptions{Scopes: []string{r.Resource + "/.default"}}
		token, err := source.GetToken(context.Background(), scopes)
		if err != nil {
			return failed(err)
		}
		tokens = append(tokens, token.Token)
		expiresOn = append(expiresOn, token.ExpiresOn.Unix())
		ms = append(ms, time.Since(started).Milliseconds())
	}
	return map[string]any{"version": version(), "tokens": tokens, "expires_on": expiresOn, "ms": ms}
}

func main() {
	var r request
	if err := json.Unmarshal([]byte(os.Args[1]), &r); err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(respond(r)); err != nil {
		panic(err)
	}
}
