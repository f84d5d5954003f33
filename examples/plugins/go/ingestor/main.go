// An ingestor plugin: each line `LEVEL MESSAGE` becomes an event.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "plugin.example/polku/polkupb"
)

var severities = map[string]pb.Severity{
	"debug":    pb.Severity_SEVERITY_DEBUG,
	"info":     pb.Severity_SEVERITY_INFO,
	"warning":  pb.Severity_SEVERITY_WARNING,
	"error":    pb.Severity_SEVERITY_ERROR,
	"critical": pb.Severity_SEVERITY_CRITICAL,
}

type myPlugin struct {
	pb.UnimplementedIngestorPluginServer
}

func (p *myPlugin) Info(ctx context.Context, _ *emptypb.Empty) (*pb.PluginInfo, error) {
	return &pb.PluginInfo{
		Name:    "my-go-plugin",
		Version: "1.0.0",
		Type:    pb.PluginType_PLUGIN_TYPE_INGESTOR,
		Sources: []string{"my-custom-source"},
	}, nil
}

func (p *myPlugin) Health(ctx context.Context, _ *emptypb.Empty) (*pb.PluginHealthResponse, error) {
	return &pb.PluginHealthResponse{Healthy: true}, nil
}

func (p *myPlugin) Ingest(ctx context.Context, req *pb.IngestRequest) (*pb.IngestResponse, error) {
	response := &pb.IngestResponse{}
	whole := sha256.Sum256(append([]byte(req.Source+"\x00"), req.Data...))
	offset := 0
	for _, line := range bytes.SplitAfter(req.Data, []byte("\n")) {
		level, message, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		severity, known := severities[strings.ToLower(level)]
		switch {
		case level == "":
		case !known:
			response.Errors = append(response.Errors, &pb.IngestError{
				Message: fmt.Sprintf("%q is no level; begin each line with debug, info, warning, error or critical", shorten(level)),
				Offset:  int64(offset),
			})
		default:
			response.Events = append(response.Events, &pb.Event{
				// The same bytes give the same id, so that a payload that is sent again is known by it.
				Id:        fmt.Sprintf("%x-%d", whole[:8], offset),
				EventType: "log.line",
				Severity:  severity,
				Payload:   []byte(message),
			})
		}
		offset += len(line)
	}
	return response, nil
}

// shorten cuts text for a message; protobuf strings must be valid UTF-8.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if utf8.RuneCountInString(text) > 20 {
		return string([]rune(text)[:20])
	}
	return text
}

func main() {
	address := os.Getenv("POLKU_PLUGIN_ADDRESS")
	if address == "" {
		address = "127.0.0.1:9001"
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	pb.RegisterIngestorPluginServer(server, &myPlugin{})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	log.Printf("my-go-plugin: listening on %s", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
