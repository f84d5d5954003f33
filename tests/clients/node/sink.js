// A gateway that takes everything, with @grpc/grpc-js as its server; see ../test_sinks.py.
//
// Argument: the address. It prints "ready ADDRESS", then the id of each event as it comes. SIGTERM asks the clients to
// leave (GOAWAY) and ends it when they have.
"use strict";

const grpc = require("@grpc/grpc-js");

function varint(bytes, at) {
  let value = 0;
  let factor = 1;
  for (;;) {
    const byte = bytes[at++];
    value += (byte & 127) * factor;
    if (byte < 128) return [value, at];
    factor *= 128;
  }
}

// Returns the contents of one field of a message.
function fields(message, number) {
  const found = [];
  for (let at = 0; at < message.length; ) {
    let tag, size;
    [tag, at] = varint(message, at);
    if ((tag & 7) === 2) {
      [size, at] = varint(message, at);
      if (tag >>> 3 === number) found.push(message.subarray(at, at + size));
      at += size;
    } else if ((tag & 7) === 0) {
      [size, at] = varint(message, at);
    } else {
      at += (tag & 7) === 1 ? 8 : 4;
    }
  }
  return found;
}

function length(size) {
  const bytes = [];
  for (; size > 127; size = Math.floor(size / 128)) bytes.push((size & 127) | 128);
  return Buffer.from([...bytes, size]);
}

function streamEvents(call) {
  call.on("data", (message) => {
    const ids = [];
    for (const payload of fields(message, 4)) {
      for (const event of fields(payload, 1)) ids.push(...fields(event, 1));
    }
    process.stdout.write(ids.map((id) => id.toString() + "\n").join(""));
    call.write(Buffer.concat(ids.flatMap((id) => [Buffer.from([10]), length(id.length), id])));
  });
  call.on("end", () => call.end());
  call.on("error", () => {});
}

const same = (bytes) => bytes;
const server = new grpc.Server();
server.addService(
  {
    StreamEvents: {
      path: "/polku.v1.Gateway/StreamEvents",
      requestStream: true,
      responseStream: true,
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    },
  },
  { StreamEvents: streamEvents },
);
const host = process.argv[2].split(":")[0];
server.bindAsync(process.argv[2], grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`ready ${host}:${port}`);
});
process.on("SIGTERM", () => server.tryShutdown(() => process.exit(0)));
