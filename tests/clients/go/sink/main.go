// Command sink is a gateway that takes everything, with grpc-go as its server; see ../../test_sinks.py.
//
// Arguments: the address. It prints "ready ADDRESS", then the id of each event as it comes. SIGTERM asks the clients to
// leave (GOAWAY) and ends it when they have.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// raw passes messages as the bytes that they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte{}, data...); return nil }
func (raw) Name() string                       { return "proto" }

var (
	lock sync.Mutex
	out  = bufio.NewWriter(os.Stdout)
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "polku.v1.Gateway",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "StreamEvents", Handler: streamEvents, ServerStreams: true, ClientStreams: true},
		},
	}, struct{}{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	say("ready " + listener.Addr().String())
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}

func streamEvents(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var ack []byte
		var ids []string
		for _, payload := range fields(message, 4) {
			for _, event := range fields(payload, 1) {
				for _, id := range fields(event, 1) {
					ack = protowire.AppendBytes(protowire.AppendTag(ack, 1, protowire.BytesType), id)
					ids = append(ids, string(id))
				}
			}
		}
		say(ids...)
		if err := stream.SendMsg(&ack); err != nil {
			return err
		}
	}
}

// fields returns the contents of one field of a message.
func fields(message []byte, number protowire.Number) (found [][]byte) {
	for len(message) > 0 {
		field, kind, size := protowire.ConsumeTag(message)
		message = message[size:]
		if field == number && kind == protowire.BytesType {
			content, size := protowire.ConsumeBytes(message)
			found, message = append(found, content), message[size:]
			continue
		}
		message = message[protowire.ConsumeFieldValue(field, kind, message):]
	}
	return found
}

func say(lines ...string) {
	lock.Lock()
	defer lock.Unlock()
	for _, line := range lines {
		fmt.Fprintln(out, line)
	}
	out.Flush()
}
