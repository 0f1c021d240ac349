// Package driver is the common part of the drivers for Go: see README.md in the parent folder of the module.
package driver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"time"
)

// The host of IMDS. No request may reach the real one.
const imds = "169.254.169.254"

// Request is a test's request.
type Request struct {
	Resource string            `json:"resource"`
	Selector map[string]string `json:"selector"`
	Times    int               `json:"times"`
	Chain    bool              `json:"chain"`
}

// Token is the access token that an SDK got, and its expiry in Unix seconds.
type Token struct {
	Value     string
	ExpiresOn int64
}

// Source gets a token from an SDK, which may have cached it.
type Source func() (Token, error)

// RoundTrip sends a request. It sends requests for IMDS to $IMDS_URL, as iptables does in a pod.
func RoundTrip(r *http.Request) (*http.Response, error) {
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

// Main handles the request on the command line, and reports the version of this module.
func Main(module string, credential func(Request) (Source, error)) {
	var r Request
	if err := json.Unmarshal([]byte(os.Args[1]), &r); err != nil {
		panic(err)
	}
	response := respond(r, credential)
	response["version"] = version(module)
	if err := json.NewEncoder(os.Stdout).Encode(response); err != nil {
		panic(err)
	}
}

func respond(r Request, credential func(Request) (Source, error)) map[string]any {
	tokens, expiresOn, ms := []string{}, []int64{}, []int64{}
	started := time.Now()
	failed := func(err error) map[string]any {
		described := map[string]string{"type": reflect.TypeOf(err).String(), "message": err.Error()}
		return map[string]any{"error": described, "ms": time.Since(started).Milliseconds()}
	}
	source, err := credential(r)
	if err != nil {
		return failed(err)
	}
	for range max(r.Times, 1) {
		started = time.Now()
		token, err := source()
		if err != nil {
			return failed(err)
		}
		tokens = append(tokens, token.Value)
		expiresOn = append(expiresOn, token.ExpiresOn)
		ms = append(ms, time.Since(started).Milliseconds())
	}
	return map[string]any{"tokens": tokens, "expires_on": expiresOn, "ms": ms}
}

func version(module string) string {
	build, _ := debug.ReadBuildInfo()
	for _, dependency := range build.Deps {
		if dependency.Path == module {
			return dependency.Version[1:]
		}
	}
	return ""
}
