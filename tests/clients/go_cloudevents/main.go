// Send CloudEvents with the SDK over TLS, with a client certificate and a token, in both modes of HTTP.
//
// TLS_ROOTS, TLS_CERTIFICATE and TLS_KEY name PEM files, TOKEN has the bearer token. `client URL SOURCE ID…` prints a
// line for each event: its id, and "ack", or "nack" with what the SDK says.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

func main() {
	client, err := cloudevents.NewClientHTTP(
		cloudevents.WithTarget(os.Args[1]),
		cloudevents.WithRoundTripper(&http.Transport{TLSClientConfig: settings()}),
		cloudevents.WithHeader("Authorization", "Bearer "+os.Getenv("TOKEN")),
	)
	check(err)
	for number, id := range os.Args[3:] {
		event := cloudevents.NewEvent()
		event.SetID(id)
		event.SetSource(os.Args[2])
		event.SetType("order.paid")
		check(event.SetData(cloudevents.ApplicationJSON, map[string]any{"number": number, "text": "ä ö"}))
		ctx := binding.WithForceBinary(context.Background())
		if number%2 == 1 {
			ctx = binding.WithForceStructured(context.Background())
		}
		result := client.Send(ctx, event)
		if cloudevents.IsACK(result) {
			fmt.Println(id, "ack")
		} else {
			fmt.Printf("%s nack %q\n", id, result.Error())
		}
	}
}

func settings() *tls.Config {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(os.Getenv("TLS_ROOTS"))
	check(err)
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots}
	if path := os.Getenv("TLS_CERTIFICATE"); path != "" {
		pair, err := tls.LoadX509KeyPair(path, os.Getenv("TLS_KEY"))
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
