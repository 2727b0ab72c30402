// The page: takes a photo, a video or a camera, asks the worker for people, and draws them.
// `?image=photo.jpg` opens an image of the same server. `&side=256` sets the size of the input;
// with `&repeat=20` the times are the medians of 20 more runs.

import { drawPeople } from "./draw.js";

const LONGEST = 4096; // pixels; larger images are reduced: phones have no larger canvases
const SIDES = [256, 320, 384, 448, 512]; // to choose from, where the network takes any size
const $ = (id) => document.getElementById(id);

const worker = new Worker("worker.js", { type: "module" });
const asked = new Map(); // id -> {resolve, reject} of a question to the worker
let numAsked = 0;
let numActions = 0; // of the user
let card;
let source = 0; // counts photos, videos and cameras: an older one stops when it sees a newer one
let playing = null; // the video of a file or a camera
let paused = false;
let frame = document.createElement("canvas"); // the image that is shown, without people
let next = document.createElement("canvas"); // the image in which people are searched
export let shown = null; // {name, size, scale, people, scores, input, ms} of `frame`

worker.onmessage = ({ data }) => {
  const { resolve, reject } = asked.get(data.id);
  asked.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
worker.onerror = () => {
  fail(new Error("this browser cannot run the network: workers with modules are missing"));
};

function ask(message, transfer = []) {
  const id = ++numAsked;
  worker.postMessage({ ...message, id }, transfer);
  return new Promise((resolve, reject) => asked.set(id, { resolve, reject }));
}

// --- start ------------------------------------------------------------------------------

async function start() {
  $("status").textContent = "Loading the network ...";
  const opened = await ask({ open: true });
  card = opened.card;
  describe(opened);
  for (const id of ["file", "camera"]) $(id).disabled = false;
  $("status").textContent = `Ready. Loaded in ${(opened.ms / 1000).toFixed(1)} s.`;
  document.body.dataset.state = "ready";
  navigator.serviceWorker?.register("sw.js").catch(() => {}); // without it: not offline
  const query = new URLSearchParams(location.search);
  if (query.has("side")) $("side").value = query.get("side");
  if (query.has("image")) await openUrl(query.get("image"));
  if (query.has("repeat")) await repeat(Number(query.get("repeat")));
}

function describe({ threads }) {
  const { model, runtime } = card.web;
  $("model").textContent = card.provenance.weights.replace(/\.(safetensors|pth\.tar)$/, "");
  $("joints").textContent = `${card.joints.length} (${card.data_set})`;
  $("runtime").textContent = `ONNX Runtime ${runtime.version}`;
  for (const [name, sizes] of Object.entries({ model, runtime })) {
    for (const kind of ["loaded", "bytes"]) {
      $(`${name}-${kind}`).textContent = (sizes[kind] / 1e6).toFixed(1);
    }
  }
  $("threads").textContent = threads;
  const { size, side, scale_type: kind } = card.input;
  $("input").textContent = size ? size.join(" x ") : "any";
  if (size) return;
  const sides = [...new Set([...SIDES, side])].sort((a, b) => a - b);
  for (const each of sides) {
    $("side").add(new Option(`${each} px`, each, each === side, each === side));
  }
  $("side-text").textContent = `Input, ${kind} side`;
  $("side-label").hidden = false;
}

// --- sources ----------------------------------------------------------------------------

/** Show the people of a file: a photo or a video. */
async function openFile(file) {
  const mine = begin(`Reading ${file.name} ...`);
  if (file.type.startsWith("video/")) {
    const video = newVideo();
    video.src = URL.createObjectURL(file);
    video.loop = true;
    await play(video, mine, file.name, `${file.name} is not a video that this browser can play`);
    return;
  }
  // As image libraries read it: upright, and with the color values of the file.
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const image = await createImageBitmap(file, options).catch(() => {
    throw new Error(`${file.name} is not an image or a video that this browser can read`);
  });
  if (mine !== source) return;
  await process(image, file.name, mine);
  image.close();
}

async function openUrl(address) {
  const url = new URL(address, location.href);
  const name = decodeURIComponent(url.pathname.split("/").at(-1));
  if (url.origin !== location.origin) {
    throw new Error(`${url.host} is another server: save the image and open it here`);
  }
  const mine = begin(`Loading ${name} ...`);
  const response = await fetch(url).catch(() => {
    throw new Error(`${name} cannot be loaded`);
  });
  if (!response.ok) throw new Error(`${name} cannot be loaded: HTTP ${response.status}`);
  const type = response.headers.get("content-type") ?? "";
  const file = new File([await response.blob()], name, { type });
  if (mine === source) await openFile(file);
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("the camera needs a page from https or from localhost");
  }
  const mine = begin("Waiting for the camera ...");
  const wanted = { video: { facingMode: "environment", width: { ideal: 1280 } } };
  const stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
    const reasons = { NotAllowedError: "its use was not allowed", NotFoundError: "there is none" };
    throw new Error(`no camera: ${reasons[error.name] ?? error.message}`);
  });
  const video = newVideo();
  video.srcObject = stream;
  if (mine !== source) stopVideo(video);
  else await play(video, mine, "camera", "the camera sends no images");
}

function newVideo() {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  return video;
}

/** Show frame after frame until another source begins; frames that come meanwhile are skipped. */
async function play(video, mine, name, problem) {
  playing = video;
  const plays = await video.play().then(() => true, () => false);
  if (mine !== source) return;
  if (!plays) throw new Error(problem);
  $("pause").hidden = $("stop").hidden = false;
  while (mine === source) {
    await new Promise(requestAnimationFrame);
    if (paused || mine !== source || !video.videoWidth) continue;
    await process(video, name, mine);
  }
}

/** End the source before; the number of the new one. */
function begin(text) {
  if (playing) stopVideo(playing);
  playing = null;
  paused = false;
  $("pause").textContent = "Pause";
  $("pause").hidden = $("stop").hidden = $("error").hidden = true;
  $("status").textContent = text;
  document.body.dataset.state = "busy";
  return ++source;
}

function stopVideo(video) {
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
}

/** Stop the video; its last frame stays. */
function stop() {
  begin("Stopped.");
  document.body.dataset.state = "done";
}

function pause() {
  paused = !paused;
  $("pause").textContent = paused ? "Continue" : "Pause";
  if (paused) playing.pause();
  else playing.play();
}

// --- people -----------------------------------------------------------------------------

/** Find and draw the people in an image or in the present frame of a video. */
async function process(image, name, mine) {
  const begun = performance.now();
  const size = [image.videoWidth ?? image.width, image.videoHeight ?? image.height];
  const scale = Math.min(1, LONGEST / Math.max(...size));
  [next.width, next.height] = size.map((length) => Math.max(1, Math.round(scale * length)));
  const context = next.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, next.width, next.height);
  const found = await findPeople(next, begun);
  if (mine !== source) return;
  [frame, next] = [next, frame];
  present({ ...found, name, size, scale });
}

/** Search again with another size of the input. A video takes it at its next frame. */
async function changeSide() {
  if (!shown || (playing && !paused)) return;
  const mine = source;
  const found = await findPeople(frame, performance.now());
  if (mine === source) present({ ...shown, ...found });
}

async function findPeople(canvas, begun) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const read = performance.now() - begun;
  const side = Number($("side").value) || undefined;
  const answer = await ask({ image: { width, height, data }, side }, [data.buffer]);
  return { ...answer, ms: { read, ...answer.ms } };
}

/** Show the medians of the times of `count` searches in the image that is shown. */
async function repeat(count) {
  const runs = [];
  while (shown && runs.length < count) {
    present({ ...shown, ...(await findPeople(frame, performance.now())) });
    runs.push(shown.ms);
  }
  if (!runs.length) return;
  const median = (part) => runs.map((ms) => ms[part]).sort((a, b) => a - b)[runs.length >> 1];
  shown.ms = Object.fromEntries(Object.keys(shown.ms).map((part) => [part, median(part)]));
  showTimes();
  $("status").textContent += ` Times are medians of ${runs.length} runs.`;
  document.body.dataset.state = "measured";
}

function showTimes() {
  const total = Object.values(shown.ms).reduce((a, b) => a + b);
  for (const [part, value] of Object.entries({ ...shown.ms, total })) {
    $(`ms-${part}`).textContent = `${value.toFixed(1)} ms`;
  }
}

function present(result) {
  shown = result;
  const { name, size, scale, input } = shown;
  shown.ms.draw = draw();
  showTimes();
  $("input").textContent = input.join(" x ");
  const reduced = scale < 1 ? `, reduced to ${frame.width} x ${frame.height}` : "";
  $("status").textContent = `${name}: ${size.join(" x ")} pixels${reduced}.`;
  $("save-image").disabled = $("save-json").disabled = false;
  document.body.dataset.state = "done";
}

/** Draw `frame` and the people above the minimum score; the milliseconds that it took. */
function draw() {
  const begun = performance.now();
  const view = $("view");
  if (view.width !== frame.width) view.width = frame.width;
  if (view.height !== frame.height) view.height = frame.height;
  const context = view.getContext("2d");
  context.drawImage(frame, 0, 0);
  const people = shown.people.filter((_, i) => shown.scores[i] >= Number($("score").value));
  drawPeople(context, people, card.limbs);
  $("people").textContent = people.length;
  $("noun").textContent = people.length === 1 ? "person" : "people";
  $("more").hidden = !shown.isFull;
  view.ariaLabel = `${shown.name} with ${people.length} people`;
  view.hidden = false;
  $("empty").hidden = true;
  return performance.now() - begun;
}

// --- saving -----------------------------------------------------------------------------

function save(content, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${shown.name.replace(/\.\w+$/, "")}-people.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The people as tools/device_runner.py prints them, in pixels of the file. */
function toJson() {
  const { name, people, scores, scale } = shown;
  const unscaled = (at) => (at + 0.5) / scale - 0.5; // 0 is the center of the first pixel
  const inFile = people.map((person) =>
    person.map(([x, y, score]) => (score > 0 ? [unscaled(x), unscaled(y), score] : [0, 0, 0])),
  );
  return JSON.stringify({ file: name, scores, people: inFile });
}

// --- events -----------------------------------------------------------------------------

function fail(error) {
  $("error").textContent = `Error: ${error.message}.`;
  $("error").hidden = false;
  $("status").textContent = "";
  document.body.dataset.state = "error";
}

/** `work` as the handler of an event: an error of the last one is shown in one line. */
function guarded(work) {
  return async (event) => {
    const mine = ++numActions;
    try {
      await work(event);
    } catch (error) {
      if (mine !== numActions) return;
      begin("");
      fail(error);
    }
  };
}

function dropped(event) {
  event.preventDefault();
  $("stage").classList.remove("drop");
  const file = event.dataTransfer.files[0];
  return file && card ? openFile(file) : undefined;
}

$("file").onchange = guarded(({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same file can be chosen again
  return file && openFile(file);
});
$("camera").onclick = guarded(openCamera);
$("stop").onclick = stop;
$("pause").onclick = pause;
$("side").onchange = guarded(changeSide);
$("score").oninput = () => {
  $("score-value").textContent = Number($("score").value).toFixed(2);
  if (shown) draw();
};
$("save-image").onclick = () => $("view").toBlob((image) => save(image, "png"));
$("save-json").onclick = () => save(new Blob([toJson()], { type: "application/json" }), "json");
document.ondragover = (event) => {
  event.preventDefault();
  $("stage").classList.add("drop");
};
document.ondragleave = () => $("stage").classList.remove("drop");
document.ondrop = guarded(dropped);

guarded(start)();
