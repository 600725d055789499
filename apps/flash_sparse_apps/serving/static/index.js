// The page: documents go to the server one by one, their labels come back, and the evidence of the one that is read.
// All that comes from documents or labels is put in as text, never as HTML.
"use strict";

const AT_ONCE = 2; // documents on their way; the server packs what comes together
const FIRST_LABELS = 8; // shown before "show all", unless more are given
const LEAST_DROP = 0.01; // of a probability: what changes less does not carry a label alone
const TRIES = 60; // of a document, two seconds apart, while the server has too much to do

const at = (id) => document.getElementById(id);
const documents = []; // {id, file, text, second, state: "waiting" | "reading" | "done" | "wrong", result, error, evidence}
let shown = null; // the document that is read
let info = null;
let token = sessionStorage.getItem("token") || "";
let running = 0;
let pasted = 0;

// --- the server ---

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.error || `the server answers ${response.status}`), { status: response.status });
  return answer;
}

function askAboutText(inputs, evidence) {
  const body = JSON.stringify({ inputs, detail: true, truncate: true, evidence });
  return ask("/predict", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

async function askAboutFile(file) {
  if (file.size > info.flash_sparse.max_body_bytes - 4096) throw new Error(`${file.name}: larger than ${Math.floor(info.flash_sparse.max_body_bytes / 2 ** 20)} MiB`);
  const form = new FormData();
  form.append("file", file);
  form.append("truncate", "true");
  form.append("evidence", "false");
  return (await ask("/predict/files", { method: "POST", body: form }))[0];
}

async function begin() {
  try {
    info = await ask("/info");
  } catch (error) {
    at("main").hidden = true;
    at("token-form").hidden = error.status !== 401;
    at("token-wrong").textContent = error.status !== 401 ? error.message : token ? "This is not the token." : "";
    if (error.status === 401) at("token").focus();
    else at("run").textContent = `The server cannot be reached: ${error.message}`;
    return;
  }
  const { reads, task, image_size: size } = info.flash_sparse;
  const labels = Object.keys(info.model_type.classifier.label2id).length;
  const each = task === "single-label" ? "one for each document" : "any number for each document";
  at("run").textContent = `${info.model_id}: ${labels} labels, ${each}; reads ${info.max_input_length.toLocaleString("en")} tokens`;
  at("token-form").hidden = true;
  at("main").hidden = false;
  at("drop").hidden = reads === "pairs";
  at("paste").hidden = reads === "images";
  at("second-part").hidden = reads !== "pairs";
  if (reads === "pairs") at("text-name").textContent = "Paste a text";
  at("accepts").textContent = reads === "images" ? `PNG images of ${size[0]} × ${size[1]} pixels` : "Plain text in UTF-8, PDF, Word (.docx) or HTML";
}

// --- many documents ---

function add(entry) {
  documents.push({ state: "waiting", ...entry });
  if (documents.length === 1) show(documents[0]);
  work();
}

async function work() {
  drawList();
  while (running < AT_ONCE) {
    const next = documents.find((entry) => entry.state === "waiting");
    if (!next) break;
    running += 1;
    next.state = "reading";
    label(next).finally(() => { running -= 1; work(); });
  }
}

async function label(entry, tries = TRIES) {
  try {
    entry.result = entry.file ? await askAboutFile(entry.file) : await askAboutText(entry.second === undefined ? entry.text : [entry.text, entry.second], false);
    entry.result.id = entry.id;
    if (entry.result.text !== undefined) entry.text = entry.result.text;
    delete entry.result.text;
    entry.state = "done";
  } catch (error) {
    if (error.status === 429 && tries > 0) {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      return label(entry, tries - 1);
    }
    if (error.status === 401) begin();
    entry.state = "wrong";
    entry.error = error.message;
  }
  if (entry === shown) show(entry);
}

async function findEvidence(entry) {
  if (entry.evidence || entry.state !== "done" || info.flash_sparse.reads !== "texts") return;
  entry.evidence = "looking";
  if (!entry.result.labels.length) {
    entry.evidence = "none";
    return;
  }
  try {
    entry.result.evidence = (await askAboutText(entry.text, true)).evidence;
    entry.evidence = "found";
  } catch (error) {
    entry.evidence = null;
    entry.evidenceError = error.message;
  }
  if (entry === shown) show(entry);
}

// --- the list ---

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawList() {
  const finished = documents.filter((entry) => entry.state === "done" || entry.state === "wrong");
  const wrong = documents.filter((entry) => entry.state === "wrong").length;
  const review = finished.filter((entry) => entry.result && entry.result.review.length).length;
  let status = documents.length ? `${finished.length - wrong} of ${documents.length} labelled` : "No documents yet.";
  if (wrong) status += `, ${wrong} refused`;
  if (review) status += `, ${review} to review`;
  at("status").textContent = status;
  at("progress").hidden = !documents.length || finished.length === documents.length;
  at("progress").max = Math.max(1, documents.length);
  at("progress").value = finished.length;
  at("saving").hidden = !documents.length;
  at("sort").hidden = documents.length < 2;
  at("csv").disabled = at("jsonl").disabled = !documents.some((entry) => entry.state === "done");

  const list = at("list");
  while (list.children.length > documents.length) list.lastChild.remove();
  documents.forEach((entry, index) => {
    if (!list.children[index]) list.append(element("li", {}, element("button", { type: "button" })));
    const button = list.children[index].firstChild;
    button.onclick = () => {
      show(entry);
      if (matchMedia("(max-width: 52rem)").matches) at("document").scrollIntoView();
    };
    button.setAttribute("aria-current", entry === shown);
    const what = { waiting: "waiting", reading: "reading …", wrong: entry.error }[entry.state] || decision(entry.result);
    const key = `${entry.id}\n${what}`;
    if (button.dataset.key === key) return; // redrawn only where it changed
    button.dataset.key = key;
    button.replaceChildren(entry.id);
    if (entry.result && entry.result.review.length) button.append(" ", element("span", { className: "badge", textContent: "review" }));
    button.append(" ", element("span", { className: entry.state === "wrong" ? "what wrong" : "what", textContent: what }));
  });
}

function decision({ labels, confidence }) {
  return `${labels.join(", ") || "no label"} · confidence ${confidence.toFixed(2)}`;
}

at("sort").onclick = () => {
  const sure = ({ result }) => (result ? result.confidence : 2); // those without labels come last
  documents.sort((a, b) => sure(a) - sure(b));
  drawList();
};

at("list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const item = event.target.closest("li");
  const next = step && item && at("list").children[[...at("list").children].indexOf(item) + step];
  if (!next) return;
  event.preventDefault();
  next.firstChild.focus();
  next.firstChild.click();
});

// --- the document that is read ---

function show(entry, all = false) {
  const another = shown !== entry;
  shown = entry;
  drawList();
  at("empty").hidden = true;
  at("shown").hidden = false;
  at("name").textContent = entry.id;
  const { result } = entry;
  at("reading").hidden = entry.state === "wrong" || entry.second !== undefined;
  at("facts").className = entry.state === "wrong" ? "wrong" : "soft";
  if (!result) {
    at("facts").textContent = entry.state === "wrong" ? entry.error : "waiting for its labels …";
    at("labels").replaceChildren();
    at("labels-title").hidden = at("notes").hidden = at("more").hidden = true;
    at("looking").textContent = "";
    if (entry.state === "wrong") return;
  } else {
    const read = info.max_input_length;
    const cut = result.truncated ? `; the last ${(result.tokens - read).toLocaleString("en")} were cut` : "";
    at("facts").textContent = `${result.tokens.toLocaleString("en")} tokens${cut} · confidence ${result.confidence.toFixed(3)}`;
    const notes = [...result.review];
    if (result.unknown) notes.push(`It has words that the run does not know, such as ${result.unknown}.`);
    at("reasons").replaceChildren(...notes.map((note) => element("li", { textContent: note })));
    at("notes").hidden = !notes.length;
    at("labels-title").hidden = false;
    drawLabels(entry, all);
    findEvidence(entry);
    at("looking").textContent = entry.evidence === "looking" ? "Looking for the passages that carry the labels …" : entry.evidenceError ? `No evidence: ${entry.evidenceError}` : "";
  }
  drawContent(entry);
  if (another) at("content").scrollTop = 0;
}

function drawLabels(entry, all) {
  const { result } = entry;
  const given = new Set(result.labels);
  const ranked = Object.entries(result.probabilities).sort((a, b) => given.has(b[0]) - given.has(a[0]) || b[1] - a[1]);
  const few = ranked.slice(0, all ? ranked.length : Math.max(FIRST_LABELS, given.size));
  at("labels").replaceChildren(...few.map(([name, share]) => labelLine(entry, name, share, given.has(name))));
  at("more").hidden = few.length === ranked.length;
  at("more").textContent = `Show all ${ranked.length} labels`;
  at("more").onclick = () => show(entry, true);
}

function labelLine(entry, name, share, given) {
  const threshold = info.flash_sparse.thresholds && info.flash_sparse.thresholds[name];
  const fill = element("div", { className: "fill" });
  fill.style.width = `${100 * share}%`;
  const bar = element("div", { className: "share" }, fill);
  bar.setAttribute("aria-hidden", "true");
  const number = element("span", { className: "number" }, element("b", { textContent: share.toFixed(3) }));
  if (threshold) {
    const line = element("div", { className: "threshold" });
    line.style.left = `calc(${100 * threshold}% - 1px)`;
    bar.append(line);
    number.append(` ${given ? "≥" : "<"} ${threshold.toFixed(3)}`);
    number.title = "probability, and the threshold from which the label is given";
  }
  const label = element("span", { className: "label", textContent: name });
  if (given) label.append(element("span", { className: "skip", textContent: " (given)" }));
  const item = element("li", { className: given ? "given" : "" }, element("div", { className: "label-line" }, label, bar, number));
  const passages = entry.result.evidence && entry.result.evidence[name];
  if (passages) item.append(passageButtons(entry, name, passages));
  return item;
}

function passageButtons(entry, name, passages) {
  const buttons = passages.map((passage, index) => {
    const alone = passage.drop >= LEAST_DROP;
    const drop = passage.drop.toFixed(3);
    const button = element("button", { type: "button", textContent: `Passage ${index + 1}${alone ? `: −${drop}` : ""}` });
    const without = alone ? `without it the probability falls by ${drop}` : "it does most, but no passage carries the label alone";
    button.title = without;
    button.setAttribute("aria-label", `${name}, passage ${index + 1}: ${without}. Jump to it.`);
    button.onclick = () => jump(passage);
    return button;
  });
  const none = element("span", { className: "soft", textContent: "Too short to have passages." });
  const weak = element("span", { className: "soft", textContent: "no passage carries it alone" });
  const said = !passages.length ? [none] : passages[0].drop < LEAST_DROP ? [weak] : [];
  return element("div", { className: "passages" }, ...buttons, ...said);
}

function jump(passage) {
  const marks = [...at("content").querySelectorAll("mark")];
  const inside = marks.filter((mark) => mark.dataset.start >= passage.start && mark.dataset.end <= passage.end);
  marks.forEach((mark) => mark.classList.toggle("current", inside.includes(mark)));
  if (!inside.length) return;
  at("content").scrollTop = inside[0].offsetTop - at("content").clientHeight / 3;
  at("content").scrollIntoView({ block: "nearest" });
  inside[0].focus({ preventScroll: true });
}

function drawContent(entry) {
  const content = at("content");
  if (entry.file && info.flash_sparse.reads === "images") {
    if (entry.picture === undefined) entry.picture = URL.createObjectURL(entry.file);
    at("text-title").textContent = "Image";
    content.replaceChildren(element("img", { src: entry.picture, alt: entry.id }));
    return;
  }
  content.replaceChildren(...(entry.text === undefined ? [] : marked(entry.text, entry.result && entry.result.evidence)));
}

// The text in pieces, those that are evidence as <mark>. Python counts characters, JavaScript halves of some of them.
function marked(text, evidence) {
  const passages = Object.entries(evidence || {}).flatMap(([name, found]) => found.map((passage) => ({ name, ...passage })));
  const borders = [...new Set(passages.flatMap(({ start, end }) => [start, end]))].sort((a, b) => a - b);
  const units = toUnits(text, borders);
  const pieces = [];
  let before = 0;
  for (let index = 0; index + 1 < borders.length; index++) {
    const [start, end] = [borders[index], borders[index + 1]];
    const names = passages.filter((passage) => passage.start <= start && end <= passage.end).map(({ name }) => name);
    if (!names.length) continue;
    pieces.push(text.slice(before, units.get(start)));
    const mark = element("mark", { textContent: text.slice(units.get(start), units.get(end)), tabIndex: -1, title: names.join(", ") });
    mark.dataset.start = start;
    mark.dataset.end = end;
    pieces.push(mark);
    before = units.get(end);
  }
  pieces.push(text.slice(before));
  return pieces;
}

function toUnits(text, borders) {
  const units = new Map();
  let character = 0;
  let unit = 0;
  for (const border of borders) {
    for (; character < border && unit < text.length; character++) unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
    units.set(border, unit);
  }
  return units;
}

// --- downloads ---

function save(name, type, parts) {
  const link = element("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function cell(value) {
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // a spreadsheet would compute it
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

at("csv").onclick = () => {
  const lines = [["id", "label", "probability", "threshold", "predicted", "confidence", "tokens", "truncated", "review"]];
  for (const { result } of documents.filter((entry) => entry.state === "done")) {
    for (const [name, share] of Object.entries(result.probabilities)) {
      const threshold = info.flash_sparse.thresholds ? info.flash_sparse.thresholds[name] : "";
      const decided = [result.labels.includes(name), result.confidence];
      lines.push([result.id, name, share, threshold, ...decided, result.tokens, result.truncated, result.review.join(" ")]);
    }
  }
  save("labels.csv", "text/csv", ["\ufeff", ...lines.map((line) => `${line.map(cell).join(",")}\r\n`)]);
};

at("jsonl").onclick = () => {
  const rows = documents.filter((entry) => entry.state === "done").map((entry) => `${JSON.stringify(entry.result)}\n`);
  save("labels.jsonl", "application/jsonl", rows);
};

at("clear").onclick = () => {
  for (const { picture } of documents) if (picture) URL.revokeObjectURL(picture);
  documents.length = 0;
  shown = null;
  at("shown").hidden = true;
  at("empty").hidden = false;
  drawList();
  at("choose").focus();
};

// --- ways in ---

function addFiles(files) {
  for (const file of files) add({ id: file.name, file });
}

at("choose").onclick = () => at("files").click();
at("files").onchange = () => { addFiles(at("files").files); at("files").value = ""; };

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (info && info.flash_sparse.reads !== "pairs") addFiles(event.dataTransfer.files);
});

at("paste").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value;
  const second = info.flash_sparse.reads === "pairs" ? at("second").value : undefined;
  if (!text.trim() || (second !== undefined && !second.trim())) {
    (text.trim() ? at("second") : at("text")).focus();
    return;
  }
  pasted += 1;
  add({ id: `pasted ${second === undefined ? "text" : "pair"} ${pasted}`, text, second });
  show(documents.at(-1));
  at("text").value = at("second").value = "";
};

at("token-form").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  at("token").value = "";
  begin();
};

begin();
