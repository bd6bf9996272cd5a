// The playground: the parts of the page, made and joined.

import { Alternatives } from "./alternatives.js";
import { apiKey, json } from "./api.js";
import { placeMenu, switchAppearance } from "./appearance.js";
import { Candidates } from "./candidates.js";
import { paint, supported } from "./colours.js";
import { Doc } from "./document.js";
import { offer } from "./examples.js";
import { drawFigures, drawLegend } from "./figures.js";
import { compact, make } from "./format.js";
import { History } from "./history.js";
import { Inside } from "./inside.js";
import { explain, listen, nameKeys } from "./keys.js";
import { Notices } from "./notices.js";
import { Panel } from "./panel.js";
import { Parameters } from "./parameters.js";
import { Scorer } from "./scoring.js";
import { download, read, SessionError, write } from "./session.js";
import { copyText, curl, python } from "./snippets.js";
import { Surface } from "./surface.js";
import { Writer } from "./writer.js";

const $ = (id) => document.getElementById(id);
const DRAFT = "gptwo-draft";
const model = { id: "", max_model_len: null };
let colours = false;
let started = false;
let painting = null;
let description = null;
let keeping = null;
const access = keySection();

const notices = new Notices({ box: $("notice"), text: $("notice-text"), action: $("notice-action"), close: $("notice-close"), live: $("live") });
const surface = new Surface({ box: $("surface"), mirror: $("mirror"), text: $("text"), pen: $("pen"), scroll: $("scroll") });
const doc = new Doc(() => changed());
const panel = new Panel({ panel: $("panel"), toggle: $("panel-toggle"), close: $("panel-close"), tabs: [$("tab-parameters"), $("tab-history"), $("tab-inside")], changed: () => panelChanged() });
const parameters = new Parameters($("parameters"), () => {
  const count = String(parameters.get("n") ?? 1);
  if (![...$("texts").options].some(({ value }) => value === count)) $("texts").append(make("option", { value: count }, `${count} texts`));
  $("texts").value = count;
  draw();
});
const history = new History($("history"), {
  replay: (entry) => writer.replay(entry),
  copyCurl: (entry) => copy(curl(entry.body), "The request as curl"),
  copyPython: (entry) => copy(python(entry.body), "The request as Python"),
});
const candidates = new Candidates($("candidates"), {
  chosen: (index) => writer.choose(index),
  dismissed: () => writer.dismiss(),
});
const writer = new Writer({
  doc, surface, parameters, notices, candidates, history, model, keyWanted,
  changed: () => changed(),
  parameterWanted: (name) => {
    panel.show("parameters");
    parameters.reveal(name);
  },
});
const scorer = new Scorer({ doc, model, idle: () => !writer.running, refused: (sentence) => notices.show(sentence), settled: draw });
const inside = new Inside({ box: $("inside"), doc, model, idle: () => !writer.running, keyWanted });
const alternatives = new Alternatives($("alternatives"), surface, (unit, text) => writer.take(unit, text));

/** The document, or what is going on, is another: show it. */
function changed() {
  surface.show(doc.text);
  if (!started) return;
  $("go").classList.toggle("stops", writer.running);
  paint([{ node: surface.node, ...doc.state, unseen: writer.unseen }, ...candidates.sources()], colours);
  surface.write(writer.pen);
  scorer.wake(colours);
  inside.wake();
  draw();
}

/** The panel is wider while it shows the model's inside. */
function panelChanged() {
  const looks = panel.shows("inside");
  $("panel").classList.toggle("wide", looks);
  $("look-inside").setAttribute("aria-expanded", String(looks));
  if (looks) inside.wake();
}

/** The controls, at most once for each picture. */
function draw() {
  if (!started || painting !== null) return;
  painting = requestAnimationFrame(() => {
    painting = null;
    const { running } = writer;
    $("go-label").textContent = running ? "Stop" : "Continue";
    $("go-key").textContent = running ? "Esc" : $("go-key").dataset.rest;
    $("undo").disabled = !doc.canUndo;
    $("undo").title = doc.canUndo ? `Undo ${doc.undoName}` : "Nothing to undo";
    $("redo").disabled = !doc.canRedo;
    $("again").disabled = !writer.canAgain;
    $("examples").hidden = doc.text !== "" || running || candidates.open;
    drawFigures($("stats"), {
      speed: writer.speed,
      seed: writer.seed,
      keptSeed: parameters.get("seed"),
      seedTaken: (seed) => {
        parameters.set("seed", seed);
        notices.say(seed === null ? "Each continuation has a seed of its own." : `Seed ${seed} is kept.`);
        requestAnimationFrame(() => $("seed")?.focus());
      },
    });
    drawLegend($("legend"), $("perplexity"), doc.state.units, colours);
    $("legend").setAttribute("aria-busy", String(scorer.waiting));
    keep();
  });
}

/** The draft outlives a reload, in this tab alone. It is written once the person rests. */
function keep() {
  clearTimeout(keeping);
  keeping = setTimeout(keepNow, 400);
}

function keepNow() {
  clearTimeout(keeping);
  if (writer.running) return;
  try {
    sessionStorage.setItem(DRAFT, snapshot());
  } catch {
    // Without storage, or room in it, a reload begins afresh.
  }
}

const snapshot = () => write({ state: doc.state, parameters: parameters.save(), history: history.entries, model: model.id });

/** Take a session's text; throws SessionError and changes nothing if there is something wrong with it. */
function open(text, name) {
  const session = read(text, name);
  if (writer.running) writer.stop();
  if (candidates.open) writer.dismiss();
  if (!parameters.load(session.parameters)) throw new SessionError(`${name} is a damaged session: its parameters cannot be read.`);
  doc.mark("opening", surface.cursor);
  history.load(session.history);
  writer.unseen = 0;
  doc.set(session.state);
  surface.cursor = doc.text.length;
  return session;
}

function stepped(cursor) {
  if (cursor === null) return;
  writer.unseen = 0;
  surface.cursor = cursor;
  surface.reveal(cursor);
  changed();
}

function undo() {
  if (writer.running) writer.stop();
  if (candidates.open) return writer.dismiss();
  const name = doc.undoName;
  stepped(doc.undo(surface.cursor));
  return name && notices.say(`Undid ${name}.`);
}

function redo() {
  if (!writer.running) stepped(doc.redo(surface.cursor));
}

function setColours(on) {
  colours = on;
  $("colours").setAttribute("aria-pressed", String(on));
  if (!on) alternatives.hide();
  else if (!supported) notices.show("This browser cannot colour the text; what else could stand in a place is shown all the same.");
  changed();
}

async function copy(text, what) {
  if (await copyText(text)) notices.show(`${what} is on the clipboard.`);
  else notices.fault("The browser does not let this page use the clipboard.");
}

/** Copy what going on from the cursor would send now. */
async function copyRequest(format, what) {
  try {
    const { body } = await writer.request(surface.cursor);
    await copy(format(body), what);
  } catch (error) {
    notices.fault(error.message);
  }
}

function save() {
  const name = doc.text.trim().slice(0, 40).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "") || "session";
  download(snapshot(), `${name}.gptwo.json`);
  notices.show(`Saved as ${name}.gptwo.json.`);
}

async function openFile(file) {
  try {
    const session = open(await file.text(), file.name);
    const other = session.model && session.model !== model.id;
    notices.show(`${file.name} is open.${other ? ` It was made with ${session.model}; here is ${model.id}.` : ""}`);
    surface.focus();
  } catch (error) {
    notices.fault(error instanceof SessionError ? error.message : `${file.name} could not be read.`);
  }
}

function begin() {
  if (writer.running) writer.stop();
  if (candidates.open) writer.dismiss();
  doc.mark("beginning anew", surface.cursor);
  writer.unseen = 0;
  writer.forget();
  history.load([]);
  doc.replace("");
  surface.focus();
}

/** The server wants a key, or another one. */
function keyWanted(sentence) {
  access.hidden = false;
  access.open = true;
  notices.fault(sentence, ["Enter it", () => showKey()]);
  showKey();
}

function showKey() {
  panel.show("parameters");
  $("api-key").scrollIntoView({ block: "center" });
  $("api-key").focus();
}

function keySection() {
  const field = make("input", { id: "api-key", class: "field wide", type: "password", autocomplete: "off", spellcheck: "false" });
  field.value = apiKey.get();
  const take = () => {
    apiKey.set(field.value.trim());
    load();
  };
  field.addEventListener("change", take);
  return make(
    "details",
    { class: "group", id: "access", hidden: apiKey.get() === "" },
    make("summary", {}, "Access"),
    make("form", { class: "parameter", submit: (event) => event.preventDefault() }, make("label", { for: "api-key" }, "API key"), field, make("p", {}, "Kept in this tab until it is closed, and sent to this server only.")),
  );
}

/** Ask the server which models it has, and show the first one, or the choice. */
async function load() {
  try {
    const { data } = await json("v1/models");
    notices.clear();
    choose(data[0]);
    if (data.length > 1) {
      const options = data.map(({ id }) => make("option", { value: id }, id));
      const select = make("select", { "aria-label": "Model" }, ...options);
      select.addEventListener("change", () => {
        choose(data[select.selectedIndex]);
        $("model-name").replaceChildren(select);
        select.focus();
      });
      $("model-name").replaceChildren(select);
    }
  } catch (error) {
    if (error.kind === "key") keyWanted(error.message);
    else notices.fault(error.message, ["Try again", () => load()]);
  }
}

function choose(entry) {
  Object.assign(model, entry);
  $("model-name").textContent = model.id;
  $("model-name").title = model.id;
  const facts = [
    model.parameters ? `${compact(model.parameters)} parameters` : null,
    model.weights ?? null,
    model.max_model_len ? `reads ${model.max_model_len} tokens` : null,
  ];
  $("model-facts").textContent = facts.filter(Boolean).join(" · ");
  document.title = `${model.id} · gptwo`;
  buildPanel();
  offer($("examples"), model.id, (text) => {
    doc.mark("a beginning", 0);
    doc.replace(text);
    surface.cursor = text.length;
    surface.focus();
    writer.go();
  });
}

/** Fetch what the panel explains; it is built anew with each model, whose positions bound some of it. */
async function loadParameters() {
  try {
    description = await json("playground/parameters.json");
  } catch (error) {
    notices.fault(`The parameters and their explanations could not be loaded: ${error.message}`, ["Try again", () => location.reload()]);
  }
  buildPanel();
}

function buildPanel() {
  if (description) parameters.build(description, model.max_model_len);
  parameters.append(access);
}

function wire() {
  const text = surface.text;
  text.addEventListener("beforeinput", (event) => {
    if (event.inputType === "historyUndo" || event.inputType === "historyRedo") {
      event.preventDefault();
      return event.inputType === "historyUndo" ? undo() : redo();
    }
    writer.yield();
    return undefined;
  });
  text.addEventListener("input", () => {
    alternatives.hide();
    writer.unseen = 0;
    doc.type(text.value, text.selectionEnd);
  });
  let pointer = null;
  text.addEventListener("pointermove", (event) => {
    if (!colours || event.buttons !== 0) return;
    if (pointer === null) {
      requestAnimationFrame(() => {
        alternatives.point(doc.state.units, surface.offsetAt(pointer.x, pointer.y));
        pointer = null;
      });
    }
    pointer = { x: event.clientX, y: event.clientY };
  });
  text.addEventListener("pointerleave", () => alternatives.leave());
  text.addEventListener("click", (event) => {
    if (colours) alternatives.point(doc.state.units, surface.offsetAt(event.clientX, event.clientY));
  });
  surface.scroll.addEventListener("scroll", () => alternatives.moved());
  window.addEventListener("pagehide", () => keepNow());
  window.addEventListener("resize", () => alternatives.moved());
  surface.scroll.addEventListener("click", (event) => {
    if (event.target === surface.scroll || event.target.classList.contains("sheet")) surface.focus();
  });

  $("go").addEventListener("click", () => writer.go());
  $("again").addEventListener("click", () => writer.again());
  $("undo").addEventListener("click", () => undo());
  $("redo").addEventListener("click", () => redo());
  $("texts").addEventListener("change", () => parameters.set("n", Number($("texts").value)));
  $("colours").addEventListener("click", () => setColours(!colours));
  $("look-inside").addEventListener("click", () => {
    if (panel.shows("inside")) return panel.hide();
    panel.show("inside");
    return $("tab-inside").focus();
  });
  $("help").addEventListener("click", () => $("help-dialog").showModal());
  $("copy-text").addEventListener("click", () => copy(doc.text, "The text"));
  $("copy-curl").addEventListener("click", () => copyRequest(curl, "The request as curl"));
  $("copy-python").addEventListener("click", () => copyRequest(python, "The request as Python"));
  $("session-new").addEventListener("click", () => begin());
  $("session-save").addEventListener("click", () => save());
  $("session-open").addEventListener("click", () => $("session-file").click());
  $("session-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await openFile(file);
    event.target.value = "";
  });
  placeMenu($("copy"), $("copy-menu"));
  placeMenu($("session"), $("session-menu"));
  switchAppearance($("theme"), $("theme-label"));
  explain($("keys"));
  nameKeys();
  $("go-key").dataset.rest = $("go-key").textContent;
  listen({
    go: () => void writer.go(),
    again: () => void writer.again(),
    escape: () => escape(),
    undo: () => (inOtherField() ? false : void undo()),
    redo: () => (inOtherField() ? false : void redo()),
    alternatives: () => alternatives.openAt(doc.state.units, surface.cursor) || whyNone(),
    colours: () => setColours(!colours),
    panel: () => panel.toggle(),
    save: () => save(),
    open: () => $("session-file").click(),
    help: () => $("help-dialog").showModal(),
  });
}

/** Fields of the panel have an undo of their own. */
const inOtherField = () => document.activeElement !== surface.text && Boolean(document.activeElement?.closest("input, textarea"));

function whyNone() {
  notices.show(colours ? "Nothing is known of the token at the cursor." : "Nothing is known of the token at the cursor: turn Probabilities on.");
}

/** Escape ends one thing at a time, the newest first. */
function escape() {
  if (alternatives.open) return alternatives.hide();
  if (document.querySelector(".menu:popover-open")) return false;
  if (writer.running) return writer.stop();
  if (candidates.open) return writer.dismiss();
  if (panel.isOpen && $("panel").contains(document.activeElement)) return panel.hide();
  return false;
}

async function start() {
  wire();
  await loadParameters();
  await load();
  started = true;
  try {
    const draft = sessionStorage.getItem(DRAFT);
    if (draft) open(draft, "The draft");
  } catch {
    // A draft of another version of this page is nothing to speak of.
  }
  changed();
  surface.focus();
  document.documentElement.dataset.ready = "true";
}

start();
