// Command schema validates the objects of Istio or Envoy Gateway in YAML files against their published CRDs: OpenAPI schemas, unknown fields
// and CEL rules, with the code of the Kubernetes API server. It lists objects of other API groups and skips them.
//
//	go run . CRDS.yaml FILE.yaml ...
//
// CRDS.yaml is kubernetes/customresourcedefinitions.gen.yaml in the folder that `go list -m -f {{.Dir}} istio.io/api` prints, or the CRDs of
// Envoy Gateway and of the Gateway API, as scripts/check-gateway-schema collects them.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	_ "istio.io/api/extensions/v1alpha1" // its version is that of the CRDs
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// version validates the objects of one kind and API version.
type version struct {
	structural *structural.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: schema CRDS.yaml FILE.yaml ...")
		os.Exit(2)
	}
	mistakes, err := check(os.Args[1], os.Args[2:])
	for _, mistake := range mistakes {
		fmt.Println(mistake)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || len(mistakes) > 0 {
		os.Exit(1)
	}
}

func check(crds string, files []string) ([]string, error) {
	versions, err := read(crds)
	if err != nil {
		return nil, err
	}
	var mistakes []string
	for _, file := range files {
		err := each(file, func(document []byte) error {
			object, err := decode(document)
			if err != nil {
				return err
			}
			kind := fmt.Sprintf("%v %v", object["apiVersion"], object["kind"])
			found, known := versions[kind]
			if !known {
				if strings.Contains(kind, "istio.io/") || strings.Contains(kind, "gateway.") {
					mistakes = append(mistakes, fmt.Sprintf("%s: unknown kind %s", file, kind))
				} else {
					fmt.Printf("%s: %s skipped\n", file, kind)
				}
				return nil
			}
			// The API server sets defaults before it validates.
			defaulting.Default(object, found.structural)
			for _, mistake := range found.mistakes(object) {
				mistakes = append(mistakes, fmt.Sprintf("%s: %s: %s", file, kind, mistake))
			}
			fmt.Printf("%s: %s validated\n", file, kind)
			return nil
		})
		if err != nil {
			return mistakes, fmt.Errorf("%s: %w", file, err)
		}
	}
	return mistakes, nil
}

// mistakes returns all errors for which the API server would reject the object, and every unknown field, which it would drop.
func (v version) mistakes(object map[string]any) []string {
	var list []string
	errs := validation.ValidateCustomResource(nil, object, v.schema)
	celErrs, _ := v.cel.Validate(context.Background(), nil, v.structural, object, nil, celconfig.RuntimeCELCostBudget)
	for _, err := range append(errs, celErrs...) {
		list = append(list, err.Error())
	}
	options := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(runtime.DeepCopyJSON(object), v.structural, true, options) {
		list = append(list, path+": unknown field")
	}
	return list
}

// read returns the validators for the CRDs in a file, by apiVersion and kind.
func read(crds string) (map[string]version, error) {
	versions := map[string]version{}
	err := each(crds, func(document []byte) error {
		var external v1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(document, &external); err != nil {
			return err
		}
		for _, served := range external.Spec.Versions {
			var internal apiextensions.CustomResourceValidation
			if err := v1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(served.Schema, &internal, nil); err != nil {
				return err
			}
			schema, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
			if err != nil {
				return err
			}
			shape, err := structural.NewStructural(internal.OpenAPIV3Schema)
			if err != nil {
				return err
			}
			rules := cel.NewValidator(shape, true, celconfig.PerCallLimit)
			versions[external.Spec.Group+"/"+served.Name+" "+external.Spec.Names.Kind] = version{shape, schema, rules}
		}
		return nil
	})
	if err == nil && len(versions) == 0 {
		err = fmt.Errorf("%s: no CRD", crds)
	}
	return versions, err
}

// decode decodes an object like the API server: integers stay integers instead of becoming floats.
func decode(document []byte) (map[string]any, error) {
	text, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	return object, json.Unmarshal(text, &object)
}

// each calls take for each document of a YAML file, in order.
func each(file string, take func([]byte) error) error {
	opened, err := os.Open(file)
	if err != nil {
		return err
	}
	defer opened.Close()
	reader := documents.NewYAMLReader(bufio.NewReader(opened))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(document))) == 0 {
			continue
		}
		if err := take(document); err != nil {
			return err
		}
	}
}
