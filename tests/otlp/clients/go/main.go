// What the OpenTelemetry SDK of Go sends: a log record, a span and a metric over the protocol and to the address given.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func exporters(ctx context.Context, protocol, address string) (sdklog.Exporter, trace.SpanExporter, metric.Exporter) {
	var logs sdklog.Exporter
	var spans trace.SpanExporter
	var metrics metric.Exporter
	var err error
	if protocol == "grpc" {
		logs, err = otlploggrpc.New(ctx, otlploggrpc.WithEndpoint(address), otlploggrpc.WithInsecure(),
			otlploggrpc.WithCompressor("gzip"))
		check(err)
		spans, err = otlptrace.New(ctx, otlptracegrpc.NewClient(otlptracegrpc.WithEndpoint(address),
			otlptracegrpc.WithInsecure()))
		check(err)
		metrics, err = otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(address), otlpmetricgrpc.WithInsecure())
	} else {
		logs, err = otlploghttp.New(ctx, otlploghttp.WithEndpoint(address), otlploghttp.WithInsecure(),
			otlploghttp.WithCompression(otlploghttp.GzipCompression))
		check(err)
		spans, err = otlptrace.New(ctx, otlptracehttp.NewClient(otlptracehttp.WithEndpoint(address),
			otlptracehttp.WithInsecure()))
		check(err)
		metrics, err = otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpoint(address), otlpmetrichttp.WithInsecure())
	}
	check(err)
	return logs, spans, metrics
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	own := resource.NewSchemaless(attribute.String("service.name", "sdk"))
	logExporter, spanExporter, metricExporter := exporters(ctx, os.Args[1], os.Args[2])

	spans := trace.NewTracerProvider(trace.WithBatcher(spanExporter), trace.WithResource(own))
	inSpan, span := spans.Tracer("client").Start(ctx, "work")

	logs := sdklog.NewLoggerProvider(sdklog.WithResource(own),
		sdklog.WithProcessor(sdklog.NewBatchProcessor(logExporter)))
	var record log.Record
	record.SetTimestamp(time.Now())
	record.SetSeverity(log.SeverityWarn)
	record.SetBody(attribute.StringValue("hello"))
	record.AddAttributes(attribute.String("language", "go"))
	logs.Logger("client").Emit(inSpan, record)
	span.End()

	metrics := metric.NewMeterProvider(metric.WithResource(own),
		metric.WithReader(metric.NewPeriodicReader(metricExporter)))
	counter, err := metrics.Meter("client").Int64Counter("requests")
	check(err)
	counter.Add(ctx, 3)

	check(logs.Shutdown(ctx))
	check(spans.Shutdown(ctx))
	check(metrics.Shutdown(ctx))
	fmt.Println("sent")
}
