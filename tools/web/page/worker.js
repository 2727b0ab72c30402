// Runs the network apart from the page, which stays responsive.
//
// {open: true} -> {card, threads, ms};  {image, side} -> {people, scores, input, ms};  {error}

import * as ort from "./ort.js";
import { findPeople, prepare } from "./group.js";

let card;
let session;

self.onmessage = async ({ data }) => {
  try {
    const answer = data.open ? await open() : await find(data);
    self.postMessage({ id: data.id, ...answer });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error).split("\n")[0] });
  }
};

async function open() {
  const start = performance.now();
  const [text, model, runtime] = await Promise.all(
    ["card.json", "model.onnx.gz", "ort.wasm.gz"].map(read),
  );
  card = JSON.parse(new TextDecoder().decode(text));
  ort.env.wasm.wasmBinary = runtime;
  // Threads share memory, which a browser allows only where the server sends two headers.
  const half = Math.ceil(navigator.hardwareConcurrency / 2); // two per core, on most machines
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, half) : 1;
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return { card, threads: ort.env.wasm.numThreads, ms: performance.now() - start };
}

/** The content of a file, decompressed unless the server or the browser did that. */
async function read(name) {
  const response = await fetch(name).catch(() => {
    throw new Error(`${name} cannot be loaded`);
  });
  if (!response.ok) throw new Error(`${name} cannot be loaded: HTTP ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function find({ image, side }) {
  const times = [performance.now()];
  const input = prepare(card, image, side);
  const { width, height } = input;
  times.push(performance.now());
  const images = new ort.Tensor("uint8", input.data, [1, height, width, 3]);
  const results = await session.run({ [session.inputNames[0]]: images });
  times.push(performance.now());
  const found = findPeople(card, input, card.outputs.map((name) => results[name]));
  times.push(performance.now());
  const [prepared, network, grouped] = [1, 2, 3].map((i) => times[i] - times[i - 1]);
  const ms = { prepare: prepared, network, group: grouped };
  return { ...found, input: [width, height], ms };
}
