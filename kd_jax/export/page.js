const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const {classes, examples, on_black: onBlack} = data;
const [height, width, channels] = data.shape;
// Of more classes than this the 10 most probable are shown.
const MOST = 12;
const TIMES = 15;
const nets = [];
// Whether all nets gave the same class, by picture.
const tried = new Map();
let ort;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(
    new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Packed in the page, or of a network, where its hash must be the known one.
async function piece({packed, url, integrity}) {
  if (packed) return unpack(packed);
  return new Uint8Array(await (await fetch(url, {integrity})).arrayBuffer());
}

const asInputs = (pixels) => ({
  inputs: new ort.Tensor("uint8", pixels, [1, height, width, channels])});

async function start() {
  const [script, wasm] = await Promise.all(data.runtime.map(piece));
  ort = await import(URL.createObjectURL(
    new Blob([script], {type: "text/javascript"})));
  // More threads need headers that no file has.
  Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: wasm});
  ort.env.logLevel = "error";
  for (const net of data.nets) {
    const session = await ort.InferenceSession.create(
      await unpack(net.model), {executionProviders: ["wasm"]});
    // The first run takes longer, and is not measured.
    await session.run(asInputs(new Uint8Array(height * width * channels)));
    nets.push({...net, session, times: [], logits: null, rows: []});
  }
}

function element(name, className, text, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  made.append(...children);
  return made;
}

// Only what changes, or a screen reader would read all of it at each stroke.
function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const say = (text) => put(find("status"), text);

const fact = (name, value) => element("div", "", "", element("dt", "", name), value);

function build(net) {
  net.answer = element("p", "class", "");
  net.answer.setAttribute("aria-live", "polite");
  net.latency = element("dd", "latency", "–");
  const facts = element("dl", "", "");
  for (const [name, value] of Object.entries(net.facts)) {
    facts.append(fact(name, element("dd", "", value)));
  }
  facts.append(fact("one image here", net.latency));
  const bars = element("ol", "bars", "");
  bars.setAttribute("aria-label", `Probabilities of ${net.name}`);
  for (let at = 0; at < (classes.length > MOST ? 10 : classes.length); at += 1) {
    const row = {
      label: element("span", "label", ""), bar: element("span", "", ""),
      number: element("span", "number", ""),
    };
    row.item = element(
      "li", "", "", row.label, element("span", "track", "", row.bar), row.number);
    net.rows.push(row);
    bars.append(row.item);
  }
  const whole = element(
    "article", "net", "", element("h2", "", net.name), net.answer, bars, facts);
  if (classes.length > MOST) {
    bars.after(element("p", "soft", `10 of ${classes.length} classes`));
  }
  find("nets").append(whole);
}

// The largest is taken off first, or exp() would overflow.
function softmax(logits, temperature) {
  const largest = Math.max(...logits);
  const parts = Array.from(logits, (z) => Math.exp((z - largest) / temperature));
  const sum = parts.reduce((a, b) => a + b);
  return parts.map((part) => part / sum);
}

const best = (values) => values.indexOf(Math.max(...values));

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function percent(value) {
  return value > 0 && value < 0.001 ? "<0.1%" : `${(100 * value).toFixed(1)}%`;
}

function temperature() {
  return Number((10 ** (find("temperature").valueAsNumber / 100)).toPrecision(2));
}

function show() {
  const T = temperature();
  put(find("T"), T.toPrecision(2));
  find("temperature").setAttribute("aria-valuetext", `T = ${T}`);
  const all = nets.map(({logits}) => logits && softmax(logits, T));
  let order = [...classes.keys()];
  if (classes.length > MOST && all[0]) {
    const most = order.map((at) => Math.max(...all.map((given) => given[at])));
    order.sort((a, b) => most[b] - most[a]);
  }
  for (const [at, net] of nets.entries()) {
    const given = all[at];
    const winner = given && best(net.logits);
    put(net.answer, given ? classes[winner] : "–");
    for (const [place, row] of net.rows.entries()) {
      const value = given ? given[order[place]] : 0;
      put(row.label, given || order.length <= MOST ? classes[order[place]] : "–");
      row.label.title = row.label.textContent;
      row.bar.style.width = `${100 * value}%`;
      row.item.dataset.value = value;
      row.item.classList.toggle("best", given !== null && order[place] === winner);
      put(row.number, given ? percent(value) : "–");
    }
    if (net.times.length) {
      put(net.latency, `${Number(median(net.times).toPrecision(2))} ms`);
    }
  }
  const same = [...tried.values()].filter(Boolean).length;
  put(find("agreement"), nets.length < 2 ? "" : !tried.size
    ? "Agreement: nothing tried yet"
    : `Agreement: same class on ${same} of ${tried.size} tried`);
}

// A clock in a page has steps of 0.1 ms, so a fast net runs several times.
async function ask({key, pixels}) {
  for (const net of nets) {
    if (!pixels) {
      net.logits = null;
      continue;
    }
    const inputs = asInputs(pixels);
    const before = performance.now();
    let runs = 0;
    let passed = 0;
    while (passed < 5) {
      net.logits = [...(await net.session.run(inputs)).logits.data];
      runs += 1;
      passed = performance.now() - before;
    }
    net.times = [...net.times, passed / runs].slice(-TIMES);
  }
  if (pixels) {
    tried.set(key, new Set(nets.map(({logits}) => best(logits))).size === 1);
  }
  show();
}

let latest;
let queue = Promise.resolve();

// One after the other; of the states of one drawing only the latest.
function look(picture) {
  latest = picture;
  paint(find("seen"), picture.pixels ?? new Uint8Array(height * width * channels));
  queue = queue.then(
    () => (picture !== latest && picture.key === latest.key ? null : ask(picture))
  ).catch((error) => say(`A net failed: ${error.message}`));
  return queue;
}

function paint(canvas, pixels) {
  Object.assign(canvas, {width, height});
  const image = new ImageData(width, height);
  for (let at = 0; at < 4 * width * height; at += 1) {
    const [pixel, channel] = [at >> 2, at & 3];
    image.data[at] = channel === 3 ? 255
      : pixels[pixel * channels + (channels === 1 ? 0 : channel)];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Pixels of a net, each the mean of a square of `step` pixels of the source; what
// lies outside the source is `ground`.
function scaled(source, [wide, high], left, top, step, ground) {
  const found = new Uint8Array(height * width * channels);
  for (let at = 0; at < found.length; at += 1) {
    const channel = at % channels;
    const pixel = (at - channel) / channels;
    const x = left + (pixel % width) * step;
    const y = top + Math.floor(pixel / width) * step;
    let sum = 0;
    for (let j = Math.floor(y); j < y + step; j += 1) {
      const rows = Math.min(j + 1, y + step) - Math.max(j, y);
      for (let i = Math.floor(x); i < x + step; i += 1) {
        const inside = i >= 0 && i < wide && j >= 0 && j < high;
        sum += rows * (Math.min(i + 1, x + step) - Math.max(i, x))
          * (inside ? source[(j * wide + i) * channels + channel] : ground[channel]);
      }
    }
    found[at] = Math.round(sum / step ** 2);
  }
  return found;
}

// Drawing.

const drawing = find("drawing");
const pen = drawing.getContext("2d", {willReadFrequently: true});
const SIDE = drawing.width;
const hand = {number: 0, at: null, keys: [SIDE / 2, SIDE / 2]};

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, SIDE, SIDE);
  hand.number += 1;
  hand.at = null;
  find("hint").hidden = false;
  find("inverted").hidden = true;
  for (const button of find("examples").children) button.ariaPressed = "false";
  say("");
}

// As MNIST's own were made: the ink's box fills 20 of 28 pixels, and its centre of
// mass lies in the middle of pixel 14, counted from 0.
function digit() {
  const {data: rgba} = pen.getImageData(0, 0, SIDE, SIDE);
  const ink = new Uint8Array(SIDE * SIDE);
  let [left, right, top, bottom] = [SIDE, 0, SIDE, 0];
  let [mass, massX, massY] = [0, 0, 0];
  for (let at = 0; at < ink.length; at += 1) {
    const value = rgba[4 * at];
    if (!value) continue;
    const [x, y] = [at % SIDE, Math.floor(at / SIDE)];
    ink[at] = value;
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
    mass += value;
    massX += value * (x + 0.5);
    massY += value * (y + 0.5);
  }
  const step = Math.max(right - left, bottom - top)
    / (Math.min(height, width) * 20 / 28);
  // No ink is cut off, however far from the middle its centre of mass is.
  const corner = (centre, size, first, last) => Math.max(
    last - step * size, Math.min(first, centre - step * (size + 1) / 2));
  return scaled(
    ink, [SIDE, SIDE], corner(massX / mass, width, left, right),
    corner(massY / mass, height, top, bottom), step, [0]);
}

function stroke(x, y) {
  if (find("hint").hidden === false) clear();
  find("hint").hidden = true;
  Object.assign(pen, {
    strokeStyle: "#fff", lineWidth: SIDE / 14, lineCap: "round", lineJoin: "round"});
  pen.beginPath();
  pen.moveTo(...(hand.at ?? [x, y]));
  pen.lineTo(x + 0.01, y);  // No browser draws a line without a length.
  pen.stroke();
  hand.at = [x, y];
}

const lookAtDrawing = () => look({key: `drawing ${hand.number}`, pixels: digit()});

function trace(event) {
  const box = drawing.getBoundingClientRect();
  // Between two frames a fast hand has made several.
  const parts = event.getCoalescedEvents?.() ?? [];
  for (const part of parts.length ? parts : [event]) {
    stroke((part.clientX - box.left) * SIDE / box.width,
           (part.clientY - box.top) * SIDE / box.height);
  }
  lookAtDrawing();
}

function drawable() {
  clear();
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drawing.setPointerCapture(event.pointerId);
    hand.at = null;
    hand.pointer = event.pointerId;
    trace(event);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (event.pointerId === hand.pointer) trace(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    drawing.addEventListener(end, () => { hand.pointer = null; });
  }
  drawing.addEventListener("keydown", (event) => {
    const [x, y] = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    }[event.key] ?? [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    const before = hand.keys;
    const within = (value) => Math.min(SIDE, Math.max(0, value));
    hand.keys = [within(before[0] + 10 * x), within(before[1] + 10 * y)];
    find("pen").style.left = `${100 * hand.keys[0] / SIDE}%`;
    find("pen").style.top = `${100 * hand.keys[1] / SIDE}%`;
    if (!event.shiftKey) return;
    hand.at = null;
    stroke(...before);
    stroke(...hand.keys);
    lookAtDrawing();
  });
}

// Images of files.

async function read(file) {
  const bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  // More pixels than these would only take time.
  const part = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map(
    (value) => Math.max(1, Math.round(part * value)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";  // Of what is transparent.
  context.fillRect(0, 0, ...size);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, ...size);
  const rgba = context.getImageData(0, 0, ...size).data;
  const source = new Uint8Array(size[0] * size[1] * channels);
  for (let at = 0; at < source.length; at += 1) {
    const first = 4 * Math.floor(at / channels);
    source[at] = channels === 3 ? rgba[first + at % 3] : Math.round(
      0.299 * rgba[first] + 0.587 * rgba[first + 1] + 0.114 * rgba[first + 2]);
  }
  return {source, size};
}

// The mean along the four sides.
function border(source, [wide, high]) {
  const edge = source.filter((_, at) => {
    const [x, y] = [at % wide, Math.floor(at / wide)];
    return x === 0 || y === 0 || x === wide - 1 || y === high - 1;
  });
  return mean(edge);
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function lookAtImage({name, key, source, size}, inverted) {
  const [wide, high] = size;
  const shown = inverted ? source.map((value) => 255 - value) : source;
  // All of a figure on a ground; of a scene the centre.
  const step = (onBlack ? Math.max : Math.min)(wide / width, high / height);
  const ground = onBlack ? [border(shown, size)] : [0, 0, 0];
  say(name + (inverted ? ": inverted, as the nets know light on dark" : ""));
  return look({key, pixels: scaled(
    shown, size, (wide - step * width) / 2, (high - step * height) / 2, step, ground)});
}

let files = 0;

async function take(file) {
  clear();
  let image;
  try {
    image = await read(file);
  } catch {
    say(`${file.name}: this browser can read no picture from it`);
    return;
  }
  files += 1;
  Object.assign(image, {name: file.name, key: `file ${files}`});
  const inverted = onBlack && border(image.source, image.size) > mean(image.source);
  const box = find("inverted").querySelector("input");
  find("inverted").hidden = !onBlack;
  box.checked = inverted;
  box.onchange = () => lookAtImage(image, box.checked);
  await lookAtImage(image, inverted);
}

async function takeAll(list) {
  if (!list.length) say("That was no image file; save it first");
  for (const file of list) await take(file);
}

function listen() {
  find("temperature").addEventListener("input", show);
  find("clear").addEventListener("click", () => {
    clear();
    look({key: `drawing ${hand.number}`, pixels: null});
  });
  find("file").addEventListener("change", async ({target}) => {
    await takeAll([...target.files]);
    target.value = "";  // Or the same file could not be chosen again.
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    takeAll([...event.dataTransfer.files]);
  });
}

async function showExamples() {
  const all = await unpack(examples.pixels);
  const size = height * width * channels;
  for (const [at, label] of examples.labels.entries()) {
    const pixels = all.slice(at * size, (at + 1) * size);
    const canvas = document.createElement("canvas");
    paint(canvas, pixels);
    const button = element("button", "", "", canvas);
    button.type = "button";
    button.ariaPressed = "false";
    button.ariaLabel = button.title = `Test image ${at + 1}: ${classes[label]}`;
    button.addEventListener("click", () => {
      clear();
      button.ariaPressed = "true";
      say(`Test image ${at + 1}; its label is ${classes[label]}`);
      look({key: `example ${at}`, pixels});
    });
    find("examples").append(button);
  }
}

try {
  find("pad").hidden = find("arrows").hidden = channels !== 1;
  await start();
  find("nets").classList.toggle("words", classes.some((name) => name.length > 2));
  nets.forEach(build);
  await showExamples();
  drawable();
  listen();
  look({key: "", pixels: null});
} catch (error) {
  find("parts").hidden = true;  // Nothing there would do anything.
  say(`The nets do not run here: ${error.message}. ${data.advice}`);
}
