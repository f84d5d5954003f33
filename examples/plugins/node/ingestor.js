// An ingestor plugin: each line `LEVEL MESSAGE` becomes an event. PROTO names the folder with the .proto files.
"use strict";

const crypto = require("node:crypto");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const proto = process.env.PROTO || path.join(__dirname, "..", "..", "..", "proto");
const definition = loader.loadSync("polku/v1/plugin.proto", {
  includeDirs: [proto],
  defaults: true, // fields that were left empty are "", 0 and empty bytes, not null
  longs: Number,
  enums: String,
});
const { IngestorPlugin } = grpc.loadPackageDefinition(definition).polku.v1;

const LEVELS = ["debug", "info", "warning", "error", "critical"];

function parse({ source, data }) {
  const response = { events: [], errors: [] };
  // The same bytes give the same ids, so that a payload that is sent again is known by them.
  const digest = crypto.createHash("sha256").update(source).update("\0").update(data).digest("hex").slice(0, 16);
  for (let offset = 0; offset < data.length; ) {
    const newline = data.indexOf(10, offset);
    const end = newline < 0 ? data.length : newline + 1;
    const line = data.toString("utf8", offset, end).trim();
    const [level] = line.split(" ", 1);
    if (LEVELS.includes(level.toLowerCase())) {
      response.events.push({
        id: `${digest}-${offset}`,
        eventType: "log.line",
        severity: `SEVERITY_${level.toUpperCase()}`,
        payload: Buffer.from(line.slice(level.length + 1)),
      });
    } else if (level) {
      const message = `${JSON.stringify(level.slice(0, 20))} is no level; begin each line with ${LEVELS.join(", ")}`;
      response.errors.push({ message: message.toWellFormed(), offset });
    }
    offset = end;
  }
  return response;
}

const server = new grpc.Server({
  "grpc.max_receive_message_length": 64 << 20,
  "grpc.max_send_message_length": -1,
});
server.addService(IngestorPlugin.service, {
  Info: (call, done) =>
    done(null, {
      name: "my-node-plugin",
      version: "1.0.0",
      type: "PLUGIN_TYPE_INGESTOR",
      sources: ["my-custom-source"],
    }),
  Health: (call, done) => done(null, { healthy: true }),
  Ingest: (call, done) => done(null, parse(call.request)),
});

const address = process.env.POLKU_PLUGIN_ADDRESS || "127.0.0.1:9001";
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.error(`my-node-plugin: listening on ${port}`);
});
process.on("SIGTERM", () => server.tryShutdown(() => process.exit(0)));
