// The page about the API, drawn from openapi.json.
"use strict";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") return `[${kind(schema.items || {})}, ...]`;
  return schema.type || "anything";
}

function plain(markdown) {
  return markdown.replaceAll("`", "");
}

function table(schema) {
  const rows = Object.entries(schema.properties || {}).map(([name, property]) => element("tr", {},
    element("td", {}, element("code", { textContent: name })),
    element("td", { textContent: kind(property) }),
    element("td", { textContent: "default" in property ? JSON.stringify(property.default) : "" }),
    element("td", { textContent: plain(property.description || "") })));
  const head = element("tr", {}, ...["", "type", "default", ""].map((textContent) => element("th", { textContent })));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function route(path, method, about, schemas) {
  const parts = [element("h2", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` })), element("p", { textContent: plain(about.description || about.summary) })];
  for (const body of Object.values((about.requestBody || {}).content || {})) {
    parts.push(table(body.schema.$ref ? schemas[kind(body.schema)] : body.schema));
  }
  const codes = Object.entries(about.responses).filter(([code]) => code !== "200").map(([code, { description }]) => `${code}: ${description}`);
  if (codes.length) parts.push(element("p", { className: "soft", textContent: `Errors: ${codes.join("; ")}.` }));
  return element("section", {}, ...parts);
}

fetch("/openapi.json").then((response) => response.json()).then(({ paths, components }) => {
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => route(path, method, about, components.schemas)));
  const answers = ["Detail", "Passage", "Score", "Error"].map((name) => element("section", {}, element("h2", { textContent: name }), element("p", { textContent: components.schemas[name].description || "" }), table(components.schemas[name])));
  document.getElementById("routes").append(...routes, ...answers);
});
