"use strict";
// Draws what `pyscratchdet view` found out (view/page.py, view_data). Names of the nets' files reach the page as text only.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const FONT = "system-ui, 'Segoe UI', Roboto, sans-serif";
const LINE = 15, WIDEST = 230, FAR = 0.42, READABLE = 0.6;
const KINDS = {
  data: "data", weights: "convolution, inner product", norm: "normalization, scale", window: "pooling",
  other: "elementwise", moves: "concat, reshape", priors: "priors", result: "detections, losses",
};
const panes = [];
let chosen = null; // {net, layer}

// --- small helpers ---

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const times = (sizes) => sizes.join("\u00a0×\u00a0");
const whole = (number) => number.toLocaleString("en-US");

function short(number) {
  if (number === 0 || !Number.isFinite(number)) return String(number);
  const size = Math.abs(number);
  return size < 1e-3 || size >= 1e5 ? number.toExponential(2) : String(+number.toPrecision(4));
}

function scaled(number) {
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= unit) return `${(number / unit).toFixed(2)} ${name}`;
  }
  return String(number);
}

function bytes(number) {
  return number >= 1 << 20 ? `${(number / (1 << 20)).toFixed(1)} MiB` : `${(number / 1024).toFixed(1)} KiB`;
}

const ruler = document.createElement("canvas").getContext("2d");

function fitted(text, size, weight = "") {
  ruler.font = `${weight} ${size}px ${FONT}`;
  if (ruler.measureText(text).width <= WIDEST) return text;
  let kept = text.length;
  while (kept > 4 && ruler.measureText(middle(text, kept)).width > WIDEST) kept--;
  return middle(text, kept);
}

function middle(text, kept) {
  const head = Math.ceil((kept - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (kept - 1 - head))}`;
}

// --- the graph ---

function boxLines(net, box) {
  const [first, ...others] = box.map((place) => net.layers[place]);
  const lines = [fitted(first.name, 12, "600"), fitted(first.says.replace("->", "→"), 11)];
  if (others.length) lines.push(fitted(others.map((layer) => layer.type).join(" · "), 11));
  const sizes = first.tops.map(([, size]) => size);
  if (sizes.length) lines.push(times(sizes[0]) + (sizes.length > 1 ? ` and ${sizes.length - 1} more` : ""));
  return lines;
}

function layOut(net) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 22, edgesep: 12, ranksep: 30, marginx: 30, marginy: 30, ranker: "tight-tree" });
  graph.setDefaultEdgeLabel(() => ({}));
  const texts = net.boxes.map((box) => boxLines(net, box));
  texts.forEach((lines, index) => {
    const widths = lines.map((line, row) => {
      ruler.font = row ? `11px ${FONT}` : `600 12px ${FONT}`;
      return ruler.measureText(line).width;
    });
    graph.setNode(String(index), { width: Math.max(...widths, 60) + 20, height: LINE * lines.length + 10 });
  });
  net.lines.forEach(([from, to]) => graph.setEdge(String(from), String(to)));
  dagre.layout(graph);
  return {
    texts,
    nodes: net.boxes.map((_, index) => graph.node(String(index))),
    edges: net.lines.map(([from, to]) => ({ from, to, points: graph.edge(String(from), String(to)).points })),
    width: graph.graph().width,
    height: graph.graph().height,
  };
}

function curve(points) {
  let path = `M${points[0].x},${points[0].y}`;
  for (let i = 1; i < points.length - 1; i++) {
    const next = i < points.length - 2
      ? { x: (points[i].x + points[i + 1].x) / 2, y: (points[i].y + points[i + 1].y) / 2 }
      : points[i + 1];
    path += ` Q${points[i].x},${points[i].y} ${next.x},${next.y}`;
  }
  return points.length < 3 ? `${path} L${points[1].x},${points[1].y}` : path;
}

class Pane {
  constructor(index) {
    this.index = index;
    this.net = data.nets[index];
    this.boxOf = new Map();
    this.net.boxes.forEach((box, at) => box.forEach((place) => this.boxOf.set(place, at)));
    this.layout = layOut(this.net);
    this.root = element("div", { class: "pane" });
    if (data.nets.length > 1) this.root.append(element("h2", {}, this.net.name));
    this.draw();
    this.map = element("canvas", { "aria-hidden": "true" });
    this.root.append(this.map);
    this.listen();
  }

  draw() {
    this.svg = shape("svg", { role: "img", "aria-label": `graph of ${this.net.name}` });
    const defs = shape("defs");
    const arrow = shape("marker", { id: "head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" });
    arrow.append(shape("path", { d: "M0,0 L8,4 L0,8 z" }));
    defs.append(arrow);
    this.view = shape("g");
    this.svg.append(defs, this.view);
    this.edges = this.layout.edges.map(({ points }) => shape("path", { class: "edge", d: curve(points), "marker-end": "url(#head)" }));
    this.boxes = this.layout.nodes.map((node, index) => this.drawBox(node, index));
    this.view.append(...this.edges, ...this.boxes);
    this.root.append(this.svg);
  }

  drawBox(node, index) {
    const first = this.net.layers[this.net.boxes[index][0]];
    const group = shape("g", { class: "box", transform: `translate(${node.x - node.width / 2},${node.y - node.height / 2})` });
    group.dataset.layer = first.name;
    group.append(shape("title", {}, `${first.name} (${first.type})`));
    group.append(shape("rect", { width: node.width, height: node.height, rx: 5 }));
    this.layout.texts[index].forEach((line, row) => {
      const style = row ? { class: "dim" } : { "font-weight": 600 };
      group.append(shape("text", { x: node.width / 2, y: 5 + LINE * (row + 0.76), ...style }, line));
    });
    return group;
  }

  listen() {
    let from = null, moved = false;
    this.svg.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX - this.x, y: event.clientY - this.y };
      moved = false;
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!from) return;
      const x = event.clientX - from.x, y = event.clientY - from.y;
      moved = moved || Math.hypot(x - this.x, y - this.y) > 4;
      if (!moved) return;
      this.svg.classList.add("moving");
      this.place(x, y, this.zoom);
    });
    this.svg.addEventListener("pointerup", (event) => {
      if (from && !moved) this.click(event);
      from = null;
      this.svg.classList.remove("moving");
    });
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const place = this.svg.getBoundingClientRect();
      this.zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - place.left, event.clientY - place.top);
    }, { passive: false });
    const jump = (event) => {
      if (event.buttons !== 1) return;
      const place = this.map.getBoundingClientRect();
      this.centre(((event.clientX - place.left) / place.width) * this.layout.width, ((event.clientY - place.top) / place.height) * this.layout.height);
    };
    this.map.addEventListener("pointerdown", jump);
    this.map.addEventListener("pointermove", jump);
  }

  click(event) {
    const box = document.elementsFromPoint(event.clientX, event.clientY).map((hit) => hit.closest(".box")).find((hit) => hit);
    const index = this.boxes.indexOf(box);
    if (index >= 0) choose(this.index, this.net.boxes[index][0]);
    else choose(null);
  }

  // The part of the pane beside the overview.
  get room() {
    const left = this.map.offsetWidth;
    return { left, width: Math.max(this.root.clientWidth - left, 50), height: Math.max(this.root.clientHeight, 50) };
  }

  place(x, y, zoom) {
    Object.assign(this, { x, y, zoom });
    this.view.setAttribute("transform", `translate(${x},${y}) scale(${zoom})`);
    this.svg.classList.toggle("far", zoom < FAR);
    this.drawMap();
  }

  zoomBy(factor, x = this.room.left + this.room.width / 2, y = this.room.height / 2) {
    const zoom = Math.min(4, Math.max(0.02, this.zoom * factor));
    this.place(x - ((x - this.x) / this.zoom) * zoom, y - ((y - this.y) / this.zoom) * zoom, zoom);
  }

  fit() {
    const { left, width, height } = this.room;
    const zoom = Math.min(1, width / this.layout.width, height / this.layout.height);
    this.place(left + (width - this.layout.width * zoom) / 2, Math.max(0, (height - this.layout.height * zoom) / 2), zoom);
  }

  // The whole net if it can be read so, else its beginning.
  start() {
    this.fit();
    if (this.zoom >= READABLE) return;
    const { left, width } = this.room;
    const zoom = Math.min(1, Math.max(READABLE + 0.15, width / this.layout.width));
    const first = this.layout.nodes[0];
    this.place(first ? left + width / 2 - first.x * zoom : left, 24, zoom);
  }

  centre(x, y, zoom = this.zoom) {
    const { left, width, height } = this.room;
    this.place(left + width / 2 - x * zoom, height / 2 - y * zoom, zoom);
  }

  show(layer) {
    const node = this.layout.nodes[this.boxOf.get(layer)];
    const { left, width, height } = this.room;
    const x = this.x + node.x * this.zoom, y = this.y + node.y * this.zoom;
    const isIn = x > left + 40 && x < left + width - 40 && y > 30 && y < height - 30;
    if (!isIn || this.zoom < FAR) this.centre(node.x, node.y, Math.max(this.zoom, 0.85));
  }

  mark() {
    const here = chosen !== null && chosen.net === this.index ? this.boxOf.get(chosen.layer) : this.partner();
    this.boxes.forEach((box, index) => box.classList.toggle("chosen", index === here));
    this.edges.forEach((edge, index) => {
      const { from, to } = this.layout.edges[index];
      edge.classList.toggle("near", here !== undefined && (from === here || to === here));
    });
  }

  partner() {
    const layer = chosen === null ? null : counterpart(chosen.net, chosen.layer);
    return layer === null || chosen.net === this.index ? undefined : this.boxOf.get(layer);
  }

  paint() {
    const colour = painter(this.index);
    this.fills = this.net.boxes.map((box) => colour(box));
    this.boxes.forEach((box, index) => {
      box.style.setProperty("--fill", this.fills[index]);
      box.classList.toggle("parts", isPart(this.index, this.net.boxes[index]));
    });
    this.drawMap();
  }

  drawMap() {
    if (!this.map || !this.fills) return;
    const width = this.map.clientWidth, height = this.map.clientHeight, dense = window.devicePixelRatio || 1;
    if (!width || !height) return;
    this.map.width = width * dense;
    this.map.height = height * dense;
    const pen = this.map.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(dense, dense);
    const shade = matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(255 255 255 / .22)" : "rgb(20 40 80 / .22)";
    const across = width / this.layout.width, down = height / this.layout.height;
    this.layout.nodes.forEach((node, index) => {
      const name = /^var\((.*)\)$/.exec(this.fills[index]);
      const isPart = this.boxes[index].classList.contains("parts");
      pen.fillStyle = isPart ? style.getPropertyValue("--red") : name ? style.getPropertyValue(name[1]) : this.fills[index];
      const w = Math.max(3, node.width * across), h = Math.max(isPart ? 4 : 1.5, node.height * down - 0.5);
      pen.fillRect(node.x * across - w / 2, node.y * down - h / 2, w, h);
      if (isPart) return;
      pen.fillStyle = shade;
      pen.fillRect(node.x * across - w / 2, node.y * down - h / 2, w, h);
    });
    const { left, width: wide, height: high } = this.room;
    pen.strokeStyle = style.getPropertyValue("--blue");
    pen.lineWidth = 2;
    pen.strokeRect(((left - this.x) / this.zoom) * across, (-this.y / this.zoom) * down, (wide / this.zoom) * across, (high / this.zoom) * down);
  }
}

// --- colours ---

const drift = { at: 0 };

function isPart(net, box) {
  if (!data.drift || net !== 0 || colours.value !== "drift") return false;
  return box.some((place) => data.nets[0].layers[place].name === data.drift[drift.at].parts);
}

function ramp(share) {
  const hue = 210 - 185 * share;
  return matchMedia("(prefers-color-scheme: dark)").matches ? `hsl(${hue} 55% ${26 + 10 * share}%)` : `hsl(${hue} 75% ${88 - 18 * share}%)`;
}

const LEAST = -9, MOST = 0; // powers of ten of a drift that has a colour of its own

function driftOf(net, box) {
  const found = box.map((place) => data.drift[drift.at].layers[net.layers[place].name]).filter((entry) => entry && entry.drift !== null);
  return found.length ? Math.max(...found.map((entry) => entry.drift)) : null;
}

function painter(index) {
  const net = data.nets[index];
  const by = colours.value;
  if (by === "type") return (box) => `var(--${net.layers[box[0]].kind})`;
  if (by === "difference") return (box) => `var(--${difference(index, box)})`;
  if (by === "drift") {
    return (box) => {
      const value = index === 0 ? driftOf(net, box) : null;
      if (value === null) return "var(--none)";
      return ramp(Math.min(1, Math.max(0, (Math.log10(Math.max(value, 1e-30)) - LEAST) / (MOST - LEAST))));
    };
  }
  const sum = (box) => box.reduce((total, place) => total + net.layers[place][by], 0);
  const most = Math.max(...net.boxes.map(sum), 1);
  return (box) => (sum(box) ? ramp(Math.sqrt(sum(box) / most)) : "var(--none)");
}

function difference(index, box) {
  const key = index ? "second" : "first", other = index ? "first" : "second";
  const rows = data.difference.rows.filter((row) => box.includes(row[key]));
  if (!rows.length) return "same";
  if (rows.some((row) => row[other] === null && row[key] === box[0])) return "only";
  return rows.every((row) => row.isShape) ? "shaped" : "changed";
}

function counterpart(net, layer) {
  if (!data.difference) return null;
  const pair = data.difference.pairs.find((each) => each[net] === layer);
  return pair ? pair[1 - net] : null;
}

function legend() {
  const swatch = (fill, text) => element("span", {}, element("i", { style: `background: ${fill}` }), text);
  const gradient = (low, high) => {
    const stops = [0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ");
    return element("span", {}, `${low} `, element("i", { class: "ramp", style: `background: linear-gradient(90deg, ${stops})` }), high);
  };
  const lines = {
    type: () => Object.entries(KINDS).filter(([kind]) => data.nets.some((net) => net.boxes.some((box) => net.layers[box[0]].kind === kind))).map(([kind, text]) => swatch(`var(--${kind})`, text)),
    difference: () => [swatch("var(--same)", "the same in both"), swatch("var(--shaped)", "other shapes only"), swatch("var(--changed)", "changed"), swatch("var(--only)", "only in this net")],
    drift: () => [gradient("drift 1e-9", "1"), swatch("var(--none)", "not compared"), ...(data.drift[drift.at].parts === null ? [] : [swatch("transparent; border: 3px solid var(--red)", "the first that parts")])],
  };
  const names = { macs: "multiply-accumulates", parameters: "parameters", memory: "memory of blobs" };
  const made = lines[colours.value] || (() => [gradient(`${names[colours.value]}: few`, "most"), swatch("var(--none)", "none")]);
  document.getElementById("legend").replaceChildren(...made());
}

// --- the panel ---

const panel = document.getElementById("panel");

function table(rows, kind = "") {
  const cells = (row, head) => row.map((cell, column) => element(head || (!kind && !column) ? "th" : "td", {}, cell));
  return element("table", { class: kind }, ...rows.map((row, number) => element("tr", {}, ...cells(row, kind === "number" && number === 0))));
}

function link(net, layer, text) {
  return element("a", { role: "button", tabindex: 0, onclick: () => choose(net, layer, true), onkeydown: (event) => event.key === "Enter" && choose(net, layer, true) }, text);
}

function overview() {
  const parts = data.nets.map((net, index) => netFacts(net, index));
  if (data.drift) parts.unshift(driftSummary());
  if (data.difference) parts.unshift(differenceSummary());
  if (data.heads.length || data.features) parts.push(scene(null));
  if (data.coverage) parts.push(coverage());
  panel.replaceChildren(...parts, element("p", {}, "Click a layer for its shapes, costs and lines in the file. Drag to move, wheel or + and - to zoom, / to search."));
}

function netFacts(net, index) {
  const sum = (key) => net.layers.reduce((total, layer) => total + layer[key], 0);
  const types = {};
  net.layers.forEach((layer) => { types[layer.type] = (types[layer.type] || 0) + 1; });
  const made = element("section", {}, element("h2", {}, net.name), table([
    ["file", net.file], ["phase", data.phase], ["layers", whole(net.layers.length)],
    ["parameters", whole(sum("parameters"))], ["multiply-accumulates", scaled(sum("macs"))], ["memory of blobs", bytes(sum("memory"))],
    ...(index === 0 && data.heads.length ? [["priors", whole(data.heads.reduce((total, head) => total + head.map[0] * head.map[1] * head.perCell, 0))]] : []),
    ["types", Object.entries(types).sort((a, b) => b[1] - a[1]).map(([type, number]) => `${number} ${type}`).join(", ")],
  ]));
  if (net.notes.length) made.append(element("h3", {}, "Look at this"), element("ul", {}, ...net.notes.slice(0, 50).map((note) => element("li", {}, note))));
  const dead = net.layers.map((layer, place) => [place, (layer.weights || []).reduce((most, blob) => Math.max(most, (blob.dead || []).length), 0)]).filter(([, number]) => number);
  if (dead.length) made.append(element("h3", {}, "Layers with dead channels"), element("ul", {}, ...dead.slice(0, 30).map(([place, number]) => element("li", {}, link(index, place, net.layers[place].name), `: ${number}`))));
  return made;
}

function driftSummary() {
  const found = data.drift[drift.at];
  const made = element("section", {}, element("h2", {}, "Verify"));
  if (data.drift.length > 1) {
    const pick = element("select", { "aria-label": "comparison", onchange: () => { drift.at = pick.selectedIndex; repaint(); showDrift(); } }, ...data.drift.map((entry) => element("option", {}, entry.title)));
    pick.selectedIndex = drift.at;
    made.append(pick);
  }
  made.append(element("p", { class: found.parts === null ? "good" : "bad" }, found.verdict));
  const place = data.nets[0].layers.findIndex((layer) => layer.name === found.parts);
  if (place >= 0) made.append(element("p", {}, "First that parts: ", link(0, place, found.parts)));
  return made;
}

function differenceSummary() {
  const rows = data.difference.rows;
  const made = element("section", {}, element("h2", {}, rows.length ? `${rows.length} layers differ` : "No layer differs"));
  const names = data.nets.map((net) => net.name);
  const list = (title, chosen, item) => chosen.length && made.append(element("h3", {}, `${title}: ${chosen.length}`), element("ul", {}, ...chosen.slice(0, 200).map(item)));
  list("Changed", rows.filter((row) => row.fields.length && !row.isShape), (row) => element("li", {}, link(0, row.first, row.name), ": ", row.fields.slice(0, 3).map(([key, ours, theirs]) => `${key.split(".").pop()} ${ours} → ${theirs}`).join("; ") + (row.fields.length > 3 ? ` and ${row.fields.length - 3} more` : "")));
  list(`Only in ${names[0]}`, rows.filter((row) => row.second === null), (row) => element("li", {}, link(0, row.first, row.name)));
  list(`Only in ${names[1]}`, rows.filter((row) => row.first === null), (row) => element("li", {}, link(1, row.second, row.name)));
  list("Other shapes only", rows.filter((row) => row.isShape), (row) => element("li", {}, link(0, row.first, row.name), `: ${row.fields[0][1]} → ${row.fields[0][2]}`));
  return made;
}

function layerPanel(index, place) {
  const pane = panes[index], net = pane.net, box = net.boxes[pane.boxOf.get(place)];
  const back = element("a", { role: "button", tabindex: 0, onclick: () => choose(null) }, "← the whole net");
  const head = index === 0 && data.heads.find((each) => box.includes(each.layer));
  const pictures = [...(head ? [scene(head)] : []), ...(index === 0 && data.features ? maps(box) : [])];
  panel.replaceChildren(element("p", {}, back), ...box.map((each, at) => layerSection(index, each, at ? [] : pictures)));
  const at = box.indexOf(place);
  if (at > 0) panel.querySelectorAll(":scope > section")[at].scrollIntoView();
  else panel.scrollTop = 0;
}

function layerSection(index, place, pictures) {
  const net = data.nets[index], layer = net.layers[place];
  const rows = [["type", layer.type]];
  layer.bottoms.forEach(([blob, size], at) => rows.push([at ? "" : "bottoms", element("span", {}, producer(index, place, blob), ` ${times(size)}`)]));
  layer.tops.forEach(([blob, size], at) => rows.push([at ? "" : "tops", `${blob} ${times(size)}`]));
  const readers = net.layers.map((each, at) => [each, at]).filter(([each, at]) => at > place && each.bottoms.some(([blob]) => layer.tops.some(([top]) => top === blob)));
  if (readers.length) rows.push(["read by", element("span", {}, ...readers.slice(0, 8).flatMap(([each, at], number) => [number ? ", " : "", link(index, at, each.name)]), readers.length > 8 ? ` and ${readers.length - 8} more` : "")]);
  rows.push(["parameters", whole(layer.parameters) + (layer.statistics ? `, and ${whole(layer.statistics)} statistics` : "")]);
  rows.push(["multiply-accumulates", layer.macs ? scaled(layer.macs) : "0"]);
  rows.push(["memory of tops", layer.memory ? bytes(layer.memory) : "none of its own"]);
  rows.push(["receptive field", layer.field ? `${times(layer.field.size.map(short))}, every ${times(layer.field.step.map(short))} pixels` : "not local"]);
  const made = element("section", {}, element("h2", {}, layer.name), table(rows));
  if (layer.onlyShapes) made.append(element("p", { class: "bad" }, `Only the shapes of this layer are known: ${layer.onlyShapes}`));
  made.append(...driftOfLayer(index, layer), ...differenceOfLayer(index, place), ...pictures);
  if (layer.weights) layer.weights.forEach((blob) => made.append(...weights(blob)));
  made.append(element("h3", {}, layer.line ? `${net.file}, line ${layer.line}` : "As it is read"), element("pre", {}, layer.text));
  return made;
}

function producer(index, place, blob) {
  const layers = data.nets[index].layers;
  for (let at = place - 1; at >= 0; at--) {
    if (layers[at].tops.some(([top]) => top === blob)) return link(index, at, blob);
  }
  return blob;
}

function driftOfLayer(index, layer) {
  if (!data.drift || index) return [];
  const found = data.drift[drift.at].layers[layer.name];
  if (!found) return [element("p", {}, "verify did not compare this layer.")];
  const figure = (value) => (value === null ? "not known" : value >= 1e9 ? "infinite" : value.toExponential(1));
  const text = `Relative L2 error ${figure(found.drift)} since the net's inputs` + (found.own === null ? "" : `, ${figure(found.own)} by this layer alone`);
  return [element("p", { class: found.agrees ? "good" : "bad" }, found.note ? `${text}. ${found.note}` : `${text}.`)];
}

function differenceOfLayer(index, place) {
  if (!data.difference) return [];
  const row = data.difference.rows.find((each) => each[index ? "second" : "first"] === place);
  if (!row) return [element("p", { class: "good" }, "The same in both nets.")];
  if (!row.fields.length) return [element("p", { class: "bad" }, "Only in this net.")];
  return [element("h3", {}, "What differs"), table([["", data.nets[0].name, data.nets[1].name], ...row.fields], "number")];
}

function weights(blob) {
  const facts = blob.bins ? `mean ${short(blob.mean)}, deviation ${short(blob.deviation)}, ${short(blob.low)} to ${short(blob.high)}` + (blob.zeros ? `, ${whole(blob.zeros)} zeros` : "") : "no finite values";
  const made = [element("h3", {}, `${blob.role}, ${times(blob.shape)}`), element("p", {}, facts)];
  if (blob.bins) made.push(histogram(blob.bins, short(blob.low), short(blob.high)));
  if (blob.notFinite) made.push(element("p", { class: "bad" }, `${whole(blob.notFinite)} values are not finite.`));
  if (blob.dead && blob.dead.length) made.push(element("p", { class: "bad" }, `Dead channels, ${blob.dead.length}: ${blob.dead.slice(0, 60).join(", ")}${blob.dead.length > 60 ? "…" : ""}`));
  return made;
}

function histogram(bins, low, high) {
  const width = 360, height = 74, most = Math.max(...bins, 1), step = width / bins.length;
  const made = shape("svg", { class: "chart", viewBox: `0 0 ${width} ${height + 14}`, role: "img" });
  bins.forEach((number, at) => {
    const tall = number ? Math.max(1, (height * number) / most) : 0;
    const bar = shape("rect", { x: at * step + 0.5, y: height - tall, width: step - 1, height: tall });
    bar.append(shape("title", {}, whole(number)));
    made.append(bar);
  });
  made.append(shape("line", { x1: 0, x2: width, y1: height, y2: height }), shape("text", { x: 0, y: height + 11 }, low), shape("text", { x: width, y: height + 11, "text-anchor": "end" }, high));
  return made;
}

// --- feature maps ---

function maps(box) {
  const blobs = [...new Set(box.flatMap((place) => data.nets[0].layers[place].tops.map(([name]) => name)))];
  return blobs.filter((name) => data.features.maps[name]).map((name) => {
    const found = data.features.maps[name], [channels, height, width] = found.shape;
    const about = `${short(found.low)} to ${short(found.high)}, mean ${short(found.mean)}. ${found.still} of ${channels} channels have one value everywhere.` + (found.notFinite ? ` ${whole(found.notFinite)} values are not finite.` : "") + (channels > found.channels.length ? ` The ${found.channels.length} that vary most:` : "");
    const made = element("div", {}, element("h3", {}, `Maps of ${name}, ${channels} of ${height} × ${width}`), element("p", {}, data.features.weights ? about : `Fillers' values, not trained weights. ${about}`));
    const grid = element("div", { class: "maps" });
    const image = new Image();
    image.onload = () => grid.replaceChildren(...found.channels.map((channel, at) => thumbnail(image, found, channel, at)));
    image.src = found.source;
    made.append(grid);
    return made;
  });
}

function thumbnail(image, found, channel, at) {
  const [height, width] = found.cell, canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(image, (at % found.columns) * width, Math.floor(at / found.columns) * height, width, height, 0, 0, width, height);
  return element("figure", {}, canvas, element("figcaption", {}, channel));
}

// --- priors and detections on the picture ---

const UNIT = 8192; // view/priors.py
const TINTS = ["#e11d48", "#2563eb", "#16a34a", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#b45309", "#475569"];

function corners(head) {
  if (!head.boxes) {
    const raw = Uint8Array.from(atob(head.corners), (each) => each.charCodeAt(0));
    head.boxes = new Int16Array(raw.buffer);
  }
  return head.boxes;
}

function scene(head) {
  const picture = data.features ? data.features.picture : null;
  const ratio = picture ? picture.height / picture.width : data.input ? data.input[0] / data.input[1] : 1;
  const canvas = element("canvas", { id: "scene", width: 640, height: Math.round(640 * ratio) });
  const state = { head, x: 0.5, y: 0.5, rows: !head, image: null };
  const text = element("p");
  const draw = () => { text.textContent = drawScene(canvas, state); };
  canvas.addEventListener("pointermove", (event) => {
    const place = canvas.getBoundingClientRect();
    state.x = (event.clientX - place.left) / place.width;
    state.y = (event.clientY - place.top) / place.height;
    draw();
  });
  if (picture) {
    const image = new Image();
    image.onload = () => { state.image = image; draw(); };
    image.src = picture.source;
  }
  const tools = element("div", { class: "tools" });
  if (!head && data.heads.length) {
    const pick = element("select", { "aria-label": "head", onchange: () => { state.head = data.heads[pick.selectedIndex - 1] || null; draw(); } },
      element("option", {}, data.features ? "detections" : "no priors"), ...data.heads.map((each) => element("option", {}, `priors of ${data.nets[0].layers[each.layer].name}, ${times(each.map)}`)));
    tools.append(pick);
    if (!data.features) { pick.selectedIndex = Math.ceil(data.heads.length / 2); state.head = data.heads[pick.selectedIndex - 1]; }
  }
  const title = head ? "Priors" : !data.features ? "Priors" : data.heads.length ? "Priors and detections" : "The picture";
  const made = element(head ? "div" : "section", {}, element("h3", {}, title), tools, canvas, text);
  if (head) made.append(element("p", {}, `Sizes in pixels: ${head.sizes.map((size) => times(size.map((side) => Math.round(side)))).join(", ")}`));
  draw();
  return made;
}

function drawScene(canvas, state) {
  const pen = canvas.getContext("2d"), { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  if (state.image) pen.drawImage(state.image, 0, 0, width, height);
  if (!state.head) return drawDetections(pen, width, height);
  const { head } = state, boxes = corners(head), [rows, columns] = head.map;
  pen.lineWidth = 1;
  pen.strokeStyle = "rgba(140,150,170,.45)";
  for (let y = 0; y <= rows; y++) pen.strokeRect(0, (y * height) / rows, width, 0);
  for (let x = 0; x <= columns; x++) pen.strokeRect((x * width) / columns, 0, 0, height);
  const x = Math.min(columns - 1, Math.max(0, Math.floor(state.x * columns))), y = Math.min(rows - 1, Math.max(0, Math.floor(state.y * rows)));
  pen.fillStyle = "rgba(245,200,60,.55)";
  pen.fillRect((x * width) / columns, (y * height) / rows, width / columns, height / rows);
  for (let k = 0; k < head.perCell; k++) {
    const at = ((y * columns + x) * head.perCell + k) * 4;
    const [left, top, right, bottom] = [0, 1, 2, 3].map((side) => (boxes[at + side] / UNIT) * (side % 2 ? height : width));
    frame(pen, left, top, right - left, bottom - top, TINTS[k % TINTS.length]);
  }
  return `${whole(rows * columns * head.perCell)} priors, ${head.perCell} at each of ${times(head.map)} places; drawn: those of row ${y}, column ${x}. Point elsewhere for others.`;
}

function frame(pen, x, y, width, height, colour) {
  pen.lineWidth = 4;
  pen.strokeStyle = "rgba(255,255,255,.7)";
  pen.strokeRect(x, y, width, height);
  pen.lineWidth = 2;
  pen.strokeStyle = colour;
  pen.strokeRect(x, y, width, height);
}

function drawDetections(pen, width, height) {
  if (!data.features) return "Choose the priors of a head.";
  const rows = data.features.detections;
  pen.font = `14px ${FONT}`;
  rows.forEach(([label, score, left, top, right, bottom]) => {
    const colour = TINTS[label % TINTS.length], text = `${label}: ${score.toFixed(2)}`;
    frame(pen, left * width, top * height, (right - left) * width, (bottom - top) * height, colour);
    const x = Math.max(0, left * width), y = Math.max(18, top * height);
    pen.fillStyle = colour;
    pen.fillRect(x, y - 18, pen.measureText(text).width + 8, 18);
    pen.fillStyle = "#fff";
    pen.fillText(text, x + 4, y - 4);
  });
  return rows.length ? `${rows.length} detections with a score of at least 0.3, by label.` : "No detection with a score of at least 0.3.";
}

function coverage() {
  const found = data.coverage, share = (number) => (found.boxes ? `${((100 * number) / found.boxes).toFixed(1)} %` : "-");
  const made = element("section", {}, element("h2", {}, "How well the priors cover the boxes"), element("p", {}, found.says),
    element("p", { class: found.covered >= 0.95 * found.boxes ? "good" : "bad" }, `${share(found.covered)} of the boxes overlap a prior by at least 0.5 (IoU); on average the best prior overlaps by ${found.mean.toFixed(2)}.`));
  made.append(table([["head", "map", "best for", "covers"], ...data.heads.map((head, at) => [link(0, head.layer, data.nets[0].layers[head.layer].name), times(head.map), share(found.heads[at].best), share(found.heads[at].covered)])], "number"));
  made.append(element("h3", {}, "Boxes by the overlap of their best prior"), histogram(found.bins, "0", "1"), element("h3", {}, "Boxes and priors by width and height"), scatter(found.points), element("p", {}, "Parts of the picture, on logarithmic scales. Green: covered; red: not; circles: priors."));
  return made;
}

function scatter(points) {
  const side = 300, made = shape("svg", { class: "chart", viewBox: `-26 -4 ${side + 34} ${side + 26}`, role: "img" });
  const at = (share) => side * (1 + Math.log10(Math.max(share, 0.01)) / 2);
  [0.01, 0.1, 1].forEach((tick) => {
    made.append(shape("path", { d: `M${at(tick)},0 V${side} M0,${side - at(tick)} H${side}` }), shape("text", { x: at(tick), y: side + 12, "text-anchor": "middle" }, String(tick)), shape("text", { x: -4, y: side - at(tick) + 3, "text-anchor": "end" }, String(tick)));
  });
  points.forEach(([width, height, isIn]) => made.append(shape("circle", { class: isIn ? "in" : "out", cx: at(width), cy: side - at(height), r: 1.8 })));
  if (data.input) data.heads.forEach((head) => head.sizes.forEach(([width, height]) => made.append(shape("circle", { class: "prior", cx: at(width / data.input[1]), cy: side - at(height / data.input[0]), r: 4 }))));
  return made;
}

// --- choosing and searching ---

function choose(net, layer = null, moves = false) {
  chosen = net === null ? null : { net, layer };
  panes.forEach((pane) => pane.mark());
  if (chosen === null) overview();
  else layerPanel(net, layer);
  if (chosen !== null && moves) panes[net].show(layer);
  const other = chosen === null ? null : counterpart(net, layer);
  if (other !== null) panes[1 - net].show(other);
  history.replaceState(null, "", chosen === null ? "#" : `#${encodeURIComponent(data.nets[net].layers[layer].name)}`);
}

const field = document.getElementById("search"), found = document.getElementById("found");
let results = [], at = -1;

function search() {
  const wanted = field.value.trim().toLowerCase();
  results = wanted ? data.nets.flatMap((net, index) => net.layers.flatMap((layer, place) => hits(layer, wanted).map(([kind, text]) => ({ index, place, kind, text })))) : [];
  at = -1;
  const layers = new Set(results.map((each) => `${each.index}/${each.place}`));
  document.getElementById("count").textContent = wanted ? `${layers.size} ${layers.size === 1 ? "layer" : "layers"}` : "";
  panes.forEach((pane) => pane.boxes.forEach((box, index) => {
    const isHit = pane.net.boxes[index].some((place) => layers.has(`${pane.index}/${place}`));
    box.classList.toggle("hit", isHit);
    box.classList.toggle("dull", Boolean(wanted) && !isHit);
  }));
  found.replaceChildren(...results.slice(0, 100).map((each, number) => element("li", { onclick: () => go(number) }, element("span", {}, each.text), element("small", {}, each.kind))));
  found.hidden = !results.length;
}

function hits(layer, wanted) {
  const made = [];
  if (layer.name.toLowerCase().includes(wanted)) made.push(["layer", layer.name]);
  layer.tops.filter(([blob]) => blob !== layer.name && blob.toLowerCase().includes(wanted)).forEach(([blob]) => made.push([`blob of ${layer.name}`, blob]));
  if (layer.type.toLowerCase().includes(wanted)) made.push([layer.type, layer.name]);
  return made.slice(0, 1);
}

function go(number) {
  if (!results.length) return;
  at = (number + results.length) % results.length;
  const { index, place } = results[at];
  [...found.children].forEach((item, each) => item.classList.toggle("at", each === at));
  if (found.children[at]) found.children[at].scrollIntoView({ block: "nearest" });
  choose(index, place, true);
}

field.addEventListener("input", search);
field.addEventListener("focus", () => { found.hidden = !results.length; });
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter") go(event.shiftKey ? at - 1 : at + 1);
  if (event.key === "ArrowDown") go(at + 1);
  if (event.key === "ArrowUp") go(at - 1);
  if (event.key === "Escape") { field.value = ""; search(); field.blur(); }
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".search")) found.hidden = true;
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, #panel") || event.ctrlKey || event.metaKey) return;
  const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (moves) panes.forEach((pane) => pane.place(pane.x + moves[0], pane.y + moves[1], pane.zoom));
  else if (event.key === "/") field.focus();
  else if (event.key === "+" || event.key === "=") panes.forEach((pane) => pane.zoomBy(1.25));
  else if (event.key === "-") panes.forEach((pane) => pane.zoomBy(0.8));
  else if (event.key === "0") panes.forEach((pane) => pane.fit());
  else if (event.key === "Escape") choose(null);
  else return;
  event.preventDefault();
});
document.getElementById("in").addEventListener("click", () => panes.forEach((pane) => pane.zoomBy(1.25)));
document.getElementById("out").addEventListener("click", () => panes.forEach((pane) => pane.zoomBy(0.8)));
document.getElementById("fit").addEventListener("click", () => panes.forEach((pane) => pane.fit()));

const colours = document.getElementById("colours");
const WAYS = [["difference", "what differs", data.difference], ["drift", "drift", data.drift], ["type", "type", true], ["macs", "multiply-accumulates", true], ["parameters", "parameters", true], ["memory", "memory", true]];
colours.append(...WAYS.filter(([, , has]) => has).map(([value, text]) => element("option", { value }, text)));
colours.addEventListener("change", repaint);

function repaint() {
  panes.forEach((pane) => pane.paint());
  legend();
}

function showDrift() {
  const place = data.nets[0].layers.findIndex((layer) => layer.name === data.drift[drift.at].parts);
  if (place >= 0) panes[0].show(place);
  choose(null);
}

function begin() {
  panes.push(...data.nets.map((_, index) => new Pane(index)));
  document.getElementById("panes").replaceChildren(...panes.map((pane) => pane.root));
  repaint();
  panes.forEach((pane) => pane.start());
  if (data.drift) showDrift();
  const name = decodeURIComponent(location.hash.slice(1));
  const layer = name ? data.nets[0].layers.findIndex((each) => each.name === name) : -1;
  if (layer >= 0) choose(0, layer, true);
  else choose(null);
  document.body.dataset.ready = "yes";
}

window.addEventListener("resize", () => panes.forEach((pane) => pane.drawMap()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
setTimeout(begin, 20); // lets "laying out" show first
