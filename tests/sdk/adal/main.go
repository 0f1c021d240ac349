// Gets tokens in the same way as an app with go-autorest's adal: see README.md in the parent folder.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"
)

// The host of IMDS. No request may reach the real one.
const imds = "169.254.169.254"

type request struct {
	Resource string            `json:"resource"`
	Selector map[string]string `json:"selector"`
	Times    int               `json:"times"`
}

// redirecting sends requests for IMDS to $IMDS_URL, as iptables does in a pod.
type redirecting struct {
	// Whether to convert requests to App Service's protocol of 2019-08-01; adal supports only that of 2017-09-01.
	convert bool
}

func (sender redirecting) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == imds {
		target, err := url.Parse(os.Getenv("IMDS_URL"))
		if err != nil || target.Host == "" {
			return nil, fmt.Errorf("set IMDS_URL: no request may be sent to %s", imds)
		}
		// The Host header is unchanged, as in a pod.
		r.URL.Host = target.Host
	}
	if sender.convert {
		// adal reuses the request when it retries, so the original must keep the protocol of 2017-09-01.
		r = r.Clone(r.Context())
		query := r.URL.Query()
		query.Set("api-version", "2019-08-01")
		r.URL.RawQuery = query.Encode()
		r.Header.Set("X-IDENTITY-HEADER", r.Header.Get("secret"))
		r.Header.Del("secret")
	}
	return http.DefaultTransport.RoundTrip(r)
}

func credential(r request) (*adal.ServicePrincipalToken, error) {
	sender := redirecting{}
	if endpoint := os.Getenv("IDENTITY_ENDPOINT"); endpoint != "" {
		sender.convert = true
		os.Setenv("MSI_ENDPOINT", endpoint)
		os.Setenv("MSI_SECRET", os.Getenv("IDENTITY_HEADER"))
	}
	options := adal.ManagedIdentityOptions{
		ClientID:           r.Selector["client_id"],
		IdentityResourceID: r.Selector["resource_id"],
	}
	token, err := adal.NewServicePrincipalTokenFromManagedIdentity(r.Resource, &options)
	if err == nil {
		token.SetSender(sender)
	}
	return token, err
}

func version() string {
	build, _ := debug.ReadBuildInfo()
	for _, module := range build.Deps {
		if module.Path == "github.com/Azure/go-autorest/autorest/adal" {
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
		if err := source.EnsureFresh(); err != nil {
			return failed(err)
		}
		token := source.Token()
		tokens = append(tokens, token.AccessToken)
		expiresOn = append(expiresOn, token.Expires().Unix())
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
