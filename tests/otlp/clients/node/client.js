// What the OpenTelemetry SDK of Node sends: a log record, a span and a metric. Over HTTP logs and spans go as JSON,
// metrics as protobuf.
'use strict';

const [protocol, address] = process.argv.slice(2);
const url = (path) => (protocol === 'grpc' ? `http://${address}` : `http://${address}/v1/${path}`);
const exporterOf = (kind, name, encoding) =>
  require(`@opentelemetry/exporter-${kind}-otlp-${protocol === 'grpc' ? 'grpc' : encoding}`)[name];

const { resourceFromAttributes } = require('@opentelemetry/resources');
const { SeverityNumber } = require('@opentelemetry/api-logs');
const { LoggerProvider, BatchLogRecordProcessor } = require('@opentelemetry/sdk-logs');
const { BasicTracerProvider, BatchSpanProcessor } = require('@opentelemetry/sdk-trace-base');
const { MeterProvider, PeriodicExportingMetricReader } = require('@opentelemetry/sdk-metrics');
const { trace, context } = require('@opentelemetry/api');

const LogExporter = exporterOf('logs', 'OTLPLogExporter', 'http');
const SpanExporter = exporterOf('trace', 'OTLPTraceExporter', 'http');
const MetricExporter = exporterOf('metrics', 'OTLPMetricExporter', 'proto');

async function main() {
  const resource = resourceFromAttributes({ 'service.name': 'sdk' });
  const logExporter = new LogExporter({ url: url('logs') });
  const logs = new LoggerProvider({ resource, processors: [new BatchLogRecordProcessor({ exporter: logExporter })] });
  const spans = new BasicTracerProvider({
    resource,
    spanProcessors: [new BatchSpanProcessor(new SpanExporter({ url: url('traces') }))],
  });
  const metrics = new MeterProvider({
    resource,
    readers: [new PeriodicExportingMetricReader({ exporter: new MetricExporter({ url: url('metrics') }) })],
  });
  const span = spans.getTracer('client').startSpan('work');
  logs.getLogger('client').emit({
    severityNumber: SeverityNumber.WARN,
    body: 'hello',
    attributes: { language: 'node' },
    context: trace.setSpan(context.active(), span),
  });
  span.end();
  metrics.getMeter('client').createCounter('requests').add(3);
  await logs.shutdown();
  await spans.shutdown();
  await metrics.shutdown();
  console.log('sent');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
