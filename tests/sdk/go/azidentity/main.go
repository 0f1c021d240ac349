// Gets tokens in the same way as an app with azidentity: see README.md in the parent folder of the module.
package main

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"managed-identity-driver/driver"
)

type transport struct{}

func (transport) Do(r *http.Request) (*http.Response, error) {
	return driver.RoundTrip(r)
}

func credential(r driver.Request) (azcore.TokenCredential, error) {
	client := policy.ClientOptions{Transport: transport{}}
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

func main() {
	driver.Main("github.com/Azure/azure-sdk-for-go/sdk/azidentity", func(r driver.Request) (driver.Source, error) {
		source, err := credential(r)
		if err != nil {
			return nil, err
		}
		scopes := policy.TokenRequestOptions{Scopes: []string{r.Resource + "/.default"}}
		return func() (driver.Token, error) {
			token, err := source.GetToken(context.Background(), scopes)
			return driver.Token{Value: token.Token, ExpiresOn: token.ExpiresOn.Unix()}, err
		}, nil
	})
}
