// Makes gRPC calls with @grpc/grpc-js as its standard input says; see ../driver.py for the lines.
"use strict";

const grpc = require("@grpc/grpc-js");
const readline = require("node:readline");

const GZIP = 2;
const address = process.argv[2];
const keepalive = Number(process.env.KEEPALIVE_MS || 0);
const options = keepalive
  ? { "grpc.keepalive_time_ms": keepalive, "grpc.keepalive_timeout_ms": 2000, "grpc.keepalive_permit_without_calls": 1 }
  : {};
const open = (more) => new grpc.Client(address, grpc.credentials.createInsecure(), { ...options, ...more });
const plain = open({});
const packing = open({ "grpc.default_compression_algorithm": GZIP, "grpc.use_local_subchannel_pool": 1 });

const same = (bytes) => bytes;
const unhex = (text) => Buffer.from(text.slice(1), "hex");
const hex = (bytes) => "-" + bytes.toString("hex");

function begin(milliseconds, size) {
  const metadata = new grpc.Metadata();
  if (Number(size)) {
    metadata.set("x-large", "m".repeat(Number(size)));
    metadata.set("x-large-bin", Buffer.from([0, 255]));
  }
  return [metadata, { deadline: Date.now() + Number(milliseconds) }];
}

function unary(path, milliseconds, packed, size, message) {
  const [metadata, deadline] = begin(milliseconds, size);
  const client = packed === "1" ? packing : plain;
  return new Promise((resolve) =>
    client.makeUnaryRequest(path, same, same, unhex(message), metadata, deadline, (error, answer) =>
      resolve([error ? error.code : 0, answer ? [answer] : [], error ? error.details : ""])));
}

function stream(path, milliseconds, packed, size, messages) {
  const [metadata, deadline] = begin(milliseconds, size);
  const client = packed === "1" ? packing : plain;
  const call = client.makeBidiStreamRequest(path, same, same, metadata, deadline);
  const answers = [];
  return new Promise((resolve) => {
    call.on("data", (answer) => answers.push(answer));
    call.on("error", () => {});
    call.on("status", (status) => resolve([status.code, answers, status.details]));
    for (const message of messages.split(",")) call.write(unhex(message));
    call.end();
  });
}

function cancel(path, message) {
  const call = plain.makeBidiStreamRequest(path, same, same, new grpc.Metadata(), {});
  return new Promise((resolve) => {
    call.on("data", () => call.cancel());
    call.on("error", () => {});
    call.on("status", (status) => resolve([status.code, [], status.details]));
    call.write(unhex(message));
  });
}

// Unary calls, so many at a time; the codes.
async function many(path, inFlight, messages) {
  const waiting = messages.split(",").entries();
  const codes = [];
  const work = async () => {
    for (const [place, message] of waiting) codes[place] = (await unary(path, 20000, "0", 0, message))[0];
  };
  await Promise.all(Array.from({ length: Number(inFlight) }, work));
  return codes.join(",");
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [what, ...words] = line.split(" ");
    if (what === "many") {
      console.log(await many(...words));
      continue;
    }
    const [code, answers, details] = await { unary, stream, cancel }[what](...words);
    console.log(`${code} ${answers.map(hex).join(",")} ${hex(Buffer.from(details))}`);
  }
  plain.close();
  packing.close();
}

main();
