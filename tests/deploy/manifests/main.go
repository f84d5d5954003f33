// Check manifests against the types that their projects publish: every field must be known, and every value fit.
//
//	manifests FILE...   a file of Kubernetes, or of Compose where its name says so; status 1 and a line for each fault
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	ray "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	faults := 0
	for _, path := range os.Args[1:] {
		check := kubernetes
		if strings.Contains(path, "compose") {
			check = compose
		}
		if err := check(path); err != nil {
			fmt.Printf("%s: %v\n", path, err)
			faults++
		}
	}
	if faults > 0 {
		os.Exit(1)
	}
}

func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithOsEnv, cli.WithDotEnv)
	if err != nil {
		return err
	}
	_, err = options.LoadProject(context.Background())
	return err
}

func kubernetes(path string) error {
	for _, add := range []func() error{
		func() error { return ray.AddToScheme(scheme.Scheme) },
		func() error { return monitoring.AddToScheme(scheme.Scheme) },
	} {
		if err := add(); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(newReader(text))
	count := 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			if count == 0 {
				return errors.New("has no document")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(withoutComments(document))) == 0 {
			continue
		}
		if _, kind, err := decoder.Decode(document, nil, nil); err != nil {
			return fmt.Errorf("%v: %w", kind, err)
		}
		count++
	}
}

func newReader(text []byte) *bufio.Reader {
	return bufio.NewReader(bytes.NewReader(text))
}

func withoutComments(document []byte) []byte {
	var kept []byte
	for _, line := range bytes.Split(document, []byte("\n")) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) && string(bytes.TrimSpace(line)) != "---" {
			kept = append(kept, line...)
		}
	}
	return kept
}
