// An emitter plugin: each event becomes a line of a file.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "plugin.example/polku/polkupb"
)

type myPlugin struct {
	pb.UnimplementedEmitterPluginServer
	turn sync.Mutex // calls may come at once
	path string
}

func (p *myPlugin) Info(ctx context.Context, _ *emptypb.Empty) (*pb.PluginInfo, error) {
	return &pb.PluginInfo{
		Name:    "archive",
		Version: "1.0.0",
		Type:    pb.PluginType_PLUGIN_TYPE_EMITTER,
	}, nil
}

func (p *myPlugin) Health(ctx context.Context, _ *emptypb.Empty) (*pb.PluginHealthResponse, error) {
	return &pb.PluginHealthResponse{Healthy: true}, nil
}

func (p *myPlugin) Emit(ctx context.Context, req *pb.EmitRequest) (*pb.EmitResponse, error) {
	var lines strings.Builder
	response := &pb.EmitResponse{}
	for _, event := range req.Events {
		if event.EventType == "forbidden" {
			response.FailedEventIds = append(response.FailedEventIds, event.Id)
			response.Errors = append(response.Errors, &pb.EmitError{
				EventId: event.Id,
				Message: "the archive takes no forbidden events",
			})
			continue
		}
		response.SuccessCount++
		fmt.Fprintln(&lines, event.Id, event.EventType)
	}
	// An error confirms none of the events: all of them come again.
	return response, p.write(lines.String())
}

func (p *myPlugin) Shutdown(ctx context.Context, _ *emptypb.Empty) (*pb.ShutdownResponse, error) {
	return &pb.ShutdownResponse{Success: true}, nil // nothing is held back
}

// write returns when the text is safe: the answer confirms.
func (p *myPlugin) write(text string) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	file, err := os.OpenFile(p.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}

func main() {
	address, path := os.Getenv("POLKU_PLUGIN_ADDRESS"), os.Getenv("ARCHIVE")
	if address == "" {
		address = "127.0.0.1:9001"
	}
	if path == "" {
		path = "archive.log"
	}
	network := "tcp"
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", socket
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	pb.RegisterEmitterPluginServer(server, &myPlugin{path: path})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	log.Printf("archive: listening on %s", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
