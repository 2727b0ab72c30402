// Keeps the page's own files, so that it works offline. Everything else goes to the server.

const VERSION = "development"; // python -m tools.web writes a hash of all files here
const CACHE = `litepose ${self.registration.scope} ${VERSION}`;
const FILES = [
  "./", "index.html", "style.css", "app.js", "draw.js", "worker.js", "group.js",
  "ort.js", "ort.wasm.gz", "model.onnx.gz", "card.json",
];
const urls = new Set(FILES.map((name) => new URL(name, self.registration.scope).href));

self.addEventListener("install", (event) => {
  self.skipWaiting();
  const requests = FILES.map((name) => new Request(name, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOthers().then(() => self.clients.claim()));
});

/** Remove the files of other versions of this page. */
async function removeOthers() {
  const ours = `litepose ${self.registration.scope} `;
  const old = (await caches.keys()).filter((name) => name.startsWith(ours) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  url.search = url.hash = ""; // ?image= is for the page
  if (event.request.method !== "GET" || !urls.has(url.href)) return;
  event.respondWith(fromCache(url.href, event.request));
});

async function fromCache(url, request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(url)) ?? fetch(request);
}
