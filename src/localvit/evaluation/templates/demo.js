const settings = JSON.parse(document.getElementById("settings").textContent);
const [height, width] = settings.size;
const element = (id) => document.getElementById(id);
const say = (text) => { element("status").textContent = text; };
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Pillow's filters, which widen when an image gets smaller.
const filters = {
  bicubic: { reach: 2, at: (x) => {
    x = Math.abs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  } },
  bilinear: { reach: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/** For each pixel of a resized side: the first pixel of the original that counts, and the weights from there on. */
function weights(from, to) {
  const scale = from / to;
  if (settings.interpolation === "nearest") {
    let at = scale / 2; // summed up as Pillow does, so that rounding decides alike
    return Array.from({ length: to }, () => { const first = Math.trunc(at); at += scale; return { first, of: [1] }; });
  }
  const { reach, at } = filters[settings.interpolation];
  const wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach * wide + 0.5));
    const end = Math.min(from, Math.trunc(center + reach * wide + 0.5));
    const raw = Array.from({ length: end - first }, (_, i) => at((i + first - center + 0.5) / wide));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, of: raw.map((value) => value / sum) };
  });
}

/** Resize one axis of pixels with `channels` values each, rounded to bytes as Pillow does. */
function resizeRows(pixels, rows, from, to, channels) {
  const out = new Uint8ClampedArray(rows * to * channels), table = weights(from, to);
  for (let row = 0; row < rows; row++) {
    for (let place = 0; place < to; place++) {
      const { first, of } = table[place];
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let i = 0; i < of.length; i++) sum += of[i] * pixels[(row * from + first + i) * channels + channel];
        out[(row * to + place) * channels + channel] = Math.floor(sum + 0.5);
      }
    }
  }
  return out;
}

function transposed(pixels, rows, columns, channels) {
  const out = new Uint8ClampedArray(pixels.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < channels; channel++) {
        out[(column * rows + row) * channels + channel] = pixels[(row * columns + column) * channels + channel];
      }
    }
  }
  return out;
}

const evenly = (value) => { // Python rounds halves to even numbers
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
};

/** The size that an image is resized to before its center is cut out. */
function resizedSize(rows, columns) {
  const [tall, broad] = settings.resized;
  if (tall !== broad) {
    const ratio = Math.min(rows / tall, columns / broad);
    return [evenly(rows / ratio), evenly(columns / ratio)];
  }
  return rows <= columns ? [tall, Math.trunc(tall * columns / rows)] : [Math.trunc(tall * rows / columns), tall];
}

/** A drawable image becomes the bytes (H, W, C) that the model sees: resized, and its center cut out. */
function prepare(image) {
  const [rows, columns] = [image.height, image.width];
  const canvas = new OffscreenCanvas(columns, rows), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // under transparent parts
  context.fillRect(0, 0, columns, rows);
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, columns, rows).data, { channels } = settings;
  let pixels = new Uint8ClampedArray(rows * columns * channels);
  for (let i = 0; i < rows * columns; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) pixels[i] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else pixels.set([r, g, b], 3 * i);
  }
  const [tall, broad] = resizedSize(rows, columns);
  pixels = resizeRows(pixels, rows, columns, broad, channels);
  pixels = transposed(pixels, rows, broad, channels);
  pixels = resizeRows(pixels, broad, rows, tall, channels);
  pixels = transposed(pixels, broad, tall, channels);
  const top = evenly((tall - height) / 2), left = evenly((broad - width) / 2);
  const out = new Uint8ClampedArray(height * width * channels);
  for (let row = 0; row < height; row++) {
    const start = ((row + top) * broad + left) * channels;
    out.set(pixels.subarray(start, start + width * channels), row * width * channels);
  }
  return out;
}

/** Bytes (H, W, C) become floats (C, H, W) with the model's mean and standard deviation. */
function normalized(pixels) {
  const { channels, mean, std } = settings, out = new Float32Array(pixels.length);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < channels; channel++) {
      out[channel * height * width + i] = (pixels[i * channels + channel] / 255 - mean[channel]) / std[channel];
    }
  }
  return out;
}

/** The runtime with the model, computed in WebAssembly ("wasm") or by the GPU ("webgpu"). */
async function loaded(on) {
  const ort = await import(`./${settings.runtimes[on]}`);
  ort.env.wasm.wasmPaths = new URL("./", location.href).href;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  const options = { executionProviders: [on], logSeverityLevel: 3 }; // no warnings about operations left to the processor
  return { on, ort, session: await ort.InferenceSession.create(settings.model, options) };
}

let usual, chosen; // usual: in WebAssembly
let turn = Promise.resolve(); // a session computes one thing at a time

function inTurn(work) {
  const own = turn.then(work);
  turn = own.catch(() => {});
  return own;
}

/** Floats of several images become their probabilities, an array for each. */
function classify(images) {
  return inTurn(() => computed(images, chosen).catch((error) => {
    if (chosen === usual) throw error;
    chosen = usual; // the GPU can be taken away at any time
    return computed(images, usual);
  }));
}

async function computed(images, { ort, session }) {
  const size = images[0].length, all = new Float32Array(size * images.length);
  images.forEach((image, number) => all.set(image, number * size));
  const input = new ort.Tensor("float32", all, [images.length, settings.channels, height, width]);
  const { [session.outputNames[0]]: output } = await session.run({ [session.inputNames[0]]: input });
  const count = settings.classes.length;
  return images.map((_, number) => {
    const logits = output.data.subarray(number * count, (number + 1) * count), most = Math.max(...logits);
    const shares = Array.from(logits, (logit) => Math.exp(logit - most)), sum = shares.reduce((a, b) => a + b, 0);
    return shares.map((share) => share / sum);
  });
}

const PARTS = 7, AT_A_TIME = 7;

/** How much the probability of a class falls when a part of the image is grey: PARTS x PARTS numbers. */
async function importance(image, index, share) {
  const covered = [];
  for (let part = 0; part < PARTS * PARTS; part++) {
    const copy = image.slice(), row = Math.floor(part / PARTS), column = part % PARTS;
    for (let y = Math.floor(row * height / PARTS); y < (row + 1) * height / PARTS; y++) {
      const from = y * width + Math.floor(column * width / PARTS), to = y * width + (column + 1) * width / PARTS;
      for (let channel = 0; channel < settings.channels; channel++) {
        copy.fill(0, channel * height * width + from, channel * height * width + to);
      }
    }
    covered.push(copy);
  }
  const falls = [];
  for (let start = 0; start < covered.length; start += AT_A_TIME) {
    const shares = await classify(covered.slice(start, start + AT_A_TIME));
    falls.push(...shares.map((of) => share - of[index]));
    await new Promise((resume) => setTimeout(resume)); // lets the page answer
  }
  return falls;
}

let current;

function draw(pixels) {
  const canvas = element("seen"), context = canvas.getContext("2d");
  Object.assign(canvas, { width, height });
  const data = context.createImageData(width, height), { channels } = settings;
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : c)];
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

function show(shares, milliseconds) {
  const order = shares.map((share, index) => index).sort((a, b) => shares[b] - shares[a]);
  element("first").textContent = settings.classes[order[0]];
  element("classes").replaceChildren(...order.slice(0, 5).map((index) => {
    const row = document.createElement("li"), name = document.createElement("span");
    const bar = document.createElement("span"), fill = document.createElement("span"), share = document.createElement("span");
    name.textContent = settings.classes[index];
    bar.className = "bar"; bar.setAttribute("aria-hidden", "true");
    fill.style.width = percent(shares[index]).replace(" ", "");
    share.className = "share"; share.textContent = percent(shares[index]);
    bar.append(fill);
    row.append(name, bar, share);
    return row;
  }));
  element("time").textContent = `${milliseconds.toFixed(0)} ms in this browser${chosen.on === "webgpu" ? ", on the GPU" : ""}`;
  return order[0];
}

function hideMap() {
  element("map").getContext("2d").clearRect(0, 0, element("map").width, element("map").height);
  element("where").setAttribute("aria-pressed", "false");
  element("where").textContent = "Show where it looks";
  element("caption").textContent = "What the model sees";
}

async function toggleMap() {
  if (!current) return;
  if (element("where").getAttribute("aria-pressed") === "true") return hideMap();
  const { image, index, share } = current;
  say("Covering one part after the other …");
  const falls = await importance(image, index, share), most = Math.max(...falls);
  if (current.image !== image) return;
  const canvas = element("map"), context = canvas.getContext("2d");
  Object.assign(canvas, { width: PARTS, height: PARTS });
  falls.forEach((fall, part) => {
    context.fillStyle = `rgba(213, 94, 0, ${most > 0 ? 0.75 * Math.max(0, fall) / most : 0})`;
    context.fillRect(part % PARTS, Math.floor(part / PARTS), 1, 1);
  });
  const name = settings.classes[index];
  element("caption").textContent = most > 0
    ? `Covering the strongest part lowers ${name} from ${percent(share)} to ${percent(share - most)}.`
    : `No single part speaks for ${name}: covering any of them does not lower it.`;
  element("where").setAttribute("aria-pressed", "true");
  element("where").textContent = "Hide where it looks";
  say("");
}

async function look(blob) {
  try {
    const bitmap = blob instanceof Blob ? await createImageBitmap(blob, { colorSpaceConversion: "none" }) : blob;
    say("Looking …");
    const pixels = prepare(bitmap), image = normalized(pixels);
    const start = performance.now(), [shares] = await classify([image]);
    draw(pixels);
    hideMap();
    const index = show(shares, performance.now() - start);
    current = { image, index, share: shares[index] };
    element("answer").hidden = false;
    say(`${settings.classes[index]}, ${percent(shares[index])}`);
    return shares;
  } catch (error) {
    say(`This photograph cannot be read: ${error.message ?? error}`);
    return null;
  }
}

let stream;
function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = undefined;
  element("live").hidden = true;
}

function listen() {
  element("file").addEventListener("change", (event) => event.target.files[0] && look(event.target.files[0]));
  element("where").addEventListener("click", toggleMap);
  const drop = element("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => event.dataTransfer.files[0] && look(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => event.clipboardData.files[0] && look(event.clipboardData.files[0]));
  if (navigator.mediaDevices?.getUserMedia) {
    const video = element("video");
    element("camera").hidden = false;
    element("camera").addEventListener("click", async () => {
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
        video.srcObject = stream;
        element("live").hidden = false;
        await video.play();
        element("shoot").focus();
      } catch (error) {
        say(`The camera cannot be used: ${error.message}`);
      }
    });
    element("shoot").addEventListener("click", async () => { await look(await createImageBitmap(video)); closeCamera(); });
    element("stop").addEventListener("click", closeCamera);
  }
}

const MOST_DIFFERENCE = 0.01, TIMES = 3;

/** Change to the GPU, if there is one that finds the same probabilities in less time. */
async function tryGpu(always) {
  if (!await navigator.gpu?.requestAdapter()) return;
  const gpu = await loaded("webgpu"), both = [usual, gpu];
  const image = Float32Array.from({ length: settings.channels * height * width }, (_, i) => Math.sin(i * i));
  const found = [[], []], took = [[], []];
  for (let time = 0; time <= TIMES; time++) {
    for (const [place, one] of both.entries()) {
      await inTurn(async () => {
        const start = performance.now();
        found[place] = (await computed([image], one))[0];
        if (time > 0) took[place].push(performance.now() - start); // the first time takes longer
      });
    }
  }
  const alike = found[0].every((share, index) => Math.abs(share - found[1][index]) < MOST_DIFFERENCE);
  if (alike && (always || Math.min(...took[1]) < Math.min(...took[0]))) chosen = gpu;
}

const on = new URLSearchParams(location.search).get("on"); // ?on=wasm or ?on=webgpu decides
try {
  chosen = usual = await loaded("wasm");
  await classify([new Float32Array(settings.channels * height * width)]); // the first time takes longer
  listen();
  say("Ready.");
  const [file] = element("file").files;  // while the model was being loaded
  if (file) await look(file);
} catch (error) {
  say(`The model cannot be loaded: ${error.message ?? error}`);
}
window.localvit = { look, ready: Boolean(chosen), settled: false, get on() { return chosen?.on; } };
if (chosen && on !== "wasm") await tryGpu(on === "webgpu").catch((error) => console.warn("No WebGPU:", error));
window.localvit.settled = true;
