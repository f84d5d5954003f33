// Command client makes gRPC calls with grpc-go as its standard input says; see ../driver.py for the lines.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// raw passes messages as the bytes that they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte{}, data...); return nil }
func (raw) Name() string                       { return "proto" }

var (
	channel *grpc.ClientConn
	both    = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
)

// transport speaks TLS where TLS_ROOTS names a file, and shows the certificate in TLS_CERTIFICATE with its TLS_KEY.
func transport() credentials.TransportCredentials {
	roots, own := os.Getenv("TLS_ROOTS"), os.Getenv("TLS_CERTIFICATE")
	if roots == "" {
		return insecure.NewCredentials()
	}
	content, err := os.ReadFile(roots)
	if err != nil {
		panic(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(content)
	if own != "" {
		pair, err := tls.LoadX509KeyPair(own, os.Getenv("TLS_KEY"))
		if err != nil {
			panic(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config)
}

// bearer is a token that goes with each call, and with none that is not encrypted.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}
func (bearer) RequireTransportSecurity() bool { return true }

func main() {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
	}
	if milliseconds, _ := strconv.Atoi(os.Getenv("KEEPALIVE_MS")); milliseconds > 0 {
		every := time.Duration(milliseconds) * time.Millisecond
		options = append(options, grpc.WithKeepaliveParams(
			keepalive.ClientParameters{Time: every, Timeout: 2 * time.Second, PermitWithoutStream: true}))
	}
	if token := os.Getenv("TOKEN"); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	var err error
	if channel, err = grpc.NewClient(os.Args[1], options...); err != nil {
		panic(err)
	}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch words[0] {
		case "unary":
			ctx, done := begin(words[2:])
			answer, err := unary(ctx, words[1], words[3] == "1", unhex(words[5]))
			done()
			report([][]byte{answer}, err)
		case "stream":
			ctx, done := begin(words[2:])
			answers, err := stream(ctx, words[1], words[3] == "1", strings.Split(words[5], ","))
			done()
			report(answers, err)
		case "cancel":
			report(nil, cancel(words[1], unhex(words[2])))
		case "many":
			inFlight, _ := strconv.Atoi(words[2])
			fmt.Println(strings.Join(many(words[1], inFlight, strings.Split(words[3], ",")), ","))
		}
	}
}

// begin returns the context of a call: its deadline in milliseconds, whether it is compressed, bytes of metadata.
func begin(words []string) (context.Context, context.CancelFunc) {
	milliseconds, _ := strconv.Atoi(words[0])
	size, _ := strconv.Atoi(words[2])
	ctx, done := context.WithTimeout(context.Background(), time.Duration(milliseconds)*time.Millisecond)
	if size > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-large", strings.Repeat("m", size), "x-large-bin", "\x00\xff")
	}
	return ctx, done
}

func unary(ctx context.Context, path string, packed bool, message []byte) ([]byte, error) {
	var answer []byte
	err := channel.Invoke(ctx, path, &message, &answer, packing(packed)...)
	return answer, err
}

func stream(ctx context.Context, path string, packed bool, messages []string) ([][]byte, error) {
	call, err := channel.NewStream(ctx, both, path, packing(packed)...)
	if err != nil {
		return nil, err
	}
	go func() {
		for _, text := range messages {
			message := unhex(text)
			if call.SendMsg(&message) != nil {
				return
			}
		}
		call.CloseSend()
	}()
	var answers [][]byte
	for {
		var answer []byte
		if err := call.RecvMsg(&answer); err == io.EOF {
			return answers, nil
		} else if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
}

func cancel(path string, message []byte) error {
	ctx, done := context.WithCancel(context.Background())
	call, err := channel.NewStream(ctx, both, path)
	if err != nil {
		return err
	}
	if err = call.SendMsg(&message); err != nil {
		return err
	}
	var answer []byte
	if err = call.RecvMsg(&answer); err != nil {
		return err
	}
	done()
	return call.RecvMsg(&answer)
}

// many makes unary calls, so many at a time, and returns their codes.
func many(path string, inFlight int, messages []string) []string {
	codes := make([]string, len(messages))
	places := make(chan int)
	var group sync.WaitGroup
	for range inFlight {
		group.Add(1)
		go func() {
			defer group.Done()
			for place := range places {
				ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
				_, err := unary(ctx, path, false, unhex(messages[place]))
				done()
				codes[place] = strconv.Itoa(int(status.Code(err)))
			}
		}()
	}
	for place := range messages {
		places <- place
	}
	close(places)
	group.Wait()
	return codes
}

func packing(packed bool) []grpc.CallOption {
	if packed {
		return []grpc.CallOption{grpc.UseCompressor(gzip.Name)}
	}
	return nil
}

func unhex(text string) []byte {
	data, err := hex.DecodeString(strings.TrimPrefix(text, "-"))
	if err != nil {
		panic(err)
	}
	return data
}

// report writes the code, the answers and the details of a call.
func report(answers [][]byte, err error) {
	texts := make([]string, len(answers))
	for place, answer := range answers {
		texts[place] = "-" + hex.EncodeToString(answer)
	}
	result := status.Convert(err)
	fmt.Printf("%d %s -%x\n", result.Code(), strings.Join(texts, ","), result.Message())
}
