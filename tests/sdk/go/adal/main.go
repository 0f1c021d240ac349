// Gets tokens in the same way as an app with go-autorest's adal: see README.md in the parent folder of the module.
package main

import (
	"net/http"
	"os"

	"github.com/Azure/go-autorest/autorest/adal"

	"managed-identity-driver/driver"
)

type sender struct {
	// Whether to convert requests to App Service's protocol of 2019-08-01; adal supports only that of 2017-09-01.
	convert bool
}

func (sender sender) Do(r *http.Request) (*http.Response, error) {
	if sender.convert {
		// adal reuses the request when it retries, so the original must keep the protocol of 2017-09-01.
		r = r.Clone(r.Context())
		query := r.URL.Query()
		query.Set("api-version", "2019-08-01")
		r.URL.RawQuery = query.Encode()
		r.Header.Set("X-IDENTITY-HEADER", r.Header.Get("secret"))
		r.Header.Del("secret")
	}
	return driver.RoundTrip(r)
}

func main() {
	driver.Main("github.com/Azure/go-autorest/autorest/adal", func(r driver.Request) (driver.Source, error) {
		sender := sender{}
		if endpoint := os.Getenv("IDENTITY_ENDPOINT"); endpoint != "" {
			sender.convert = true
			os.Setenv("MSI_ENDPOINT", endpoint)
			os.Setenv("MSI_SECRET", os.Getenv("IDENTITY_HEADER"))
		}
		options := adal.ManagedIdentityOptions{
			ClientID:           r.Selector["client_id"],
			IdentityResourceID: r.Selector["resource_id"],
		}
		source, err := adal.NewServicePrincipalTokenFromManagedIdentity(r.Resource, &options)
		if err != nil {
			return nil, err
		}
		source.SetSender(sender)
		return func() (driver.Token, error) {
			if err := source.EnsureFresh(); err != nil {
				return driver.Token{}, err
			}
			token := source.Token()
			return driver.Token{Value: token.AccessToken, ExpiresOn: token.Expires().Unix()}, nil
		}, nil
	})
}
