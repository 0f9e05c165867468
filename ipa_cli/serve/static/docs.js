// The page at `/docs`: the routes of /openapi.json, with their fields and a command for each.

import "./token.js";
import { hasToken, request } from "./api.js";

const byId = (id) => document.getElementById(id);

function made(tag, text = "", attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...(text ? [text] : []), ...children);
  return element;
}

/** Text with what is in backticks as code. */
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? made("code", part) : part));

let api = null;
const resolved = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema) ?? {};

/** A type in words: "text", "list of numbers", "one of a, b". */
function inWords(schema) {
  const known = resolved(schema);
  if (known.enum) return `one of ${known.enum.filter((one) => one !== null).join(", ")}`;
  if (known.examples) return `text, such as ${known.examples.join(", ")}`;
  if (known.const !== undefined) return JSON.stringify(known.const);
  if (known.anyOf) {
    const words = known.anyOf.filter((one) => one.type !== "null").map(inWords);
    return [...new Set(words)].join(" or ") + range(known);
  }
  if (known.type === "array") return `list of ${inWords(known.items)}`;
  const words = { string: known.format === "binary" ? "file" : "text", integer: "whole number", boolean: "true or false" };
  return (words[known.type] ?? known.type ?? "anything") + range(known);
}

function range({ minimum, maximum, multipleOf }) {
  const parts = [];
  if (minimum !== undefined && maximum !== undefined) parts.push(`${minimum} to ${maximum}`);
  else if (minimum !== undefined) parts.push(`at least ${minimum}`);
  else if (maximum !== undefined) parts.push(`at most ${maximum}`);
  if (multipleOf !== undefined) parts.push(`a multiple of ${multipleOf}`);
  return parts.length ? `, ${parts.join(", ")}` : "";
}

/** The fields of a body or of an address, as a table. */
function table(fields) {
  const head = made("tr", "", {}, ...["Name", "Type", "Meaning"].map((name) => made("th", name, { scope: "col" })));
  const rows = fields.map(({ name, schema, description, required }) =>
    made("tr", "", {}, made("td", name), made("td", inWords(schema)), made("td", "", {}, ...prose([description, required && "(needed)"].filter(Boolean).join(" ")))),
  );
  return made("div", "", { className: "table", tabIndex: 0 }, made("table", "", {}, made("thead", "", {}, head), made("tbody", "", {}, ...rows)));
}

function fieldsOf(schema) {
  const { properties = {}, required = [] } = resolved(schema);
  return Object.entries(properties).map(([name, one]) => ({
    name, schema: one, description: one.description ?? resolved(one).description, required: required.includes(name),
  }));
}

const EXAMPLES = { prompt: "a large star", seed: 7, image: undefined };

/** A command that asks this route. */
function curl(method, path, body) {
  const words = ["curl"];
  if (method !== "get") words.push(`-X ${method.toUpperCase()}`);
  if (hasToken()) words.push('-H "Authorization: Bearer $TOKEN"');
  const [type, content] = Object.entries(body?.content ?? {})[0] ?? [];
  const fields = content ? fieldsOf(content.schema) : [];
  if (type === "application/json") {
    const used = fields.filter(({ name, required }) => required || EXAMPLES[name] !== undefined);
    const example = Object.fromEntries(used.map(({ name, schema }) => [name, EXAMPLES[name] ?? schema.default ?? "…"]));
    words.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(content.example ?? example)}'`);
  } else if (type === "multipart/form-data") {
    const used = fields.filter(({ name, required }) => required || EXAMPLES[name] !== undefined);
    words.push(...used.map(({ name, schema }) => `-F '${name}=${inWords(schema).includes("file") ? "@cat.png" : (EXAMPLES[name] ?? "…")}'`));
  } else if (type) {
    words.push("--data-binary @cat.png");
  }
  return [...words, `'${location.origin}${path}'`].join(" ");
}

function route(method, path, { description, parameters = [], requestBody, operationId }) {
  const parts = [
    made("h3", "", {}, made("b", method.toUpperCase()), ` ${path}`),
    made("p", "", { className: "text" }, ...prose(description ?? "")),
  ];
  const body = Object.values(requestBody?.content ?? {})[0];
  const fields = [
    ...parameters.map(({ name, schema, description, required }) => ({ name, schema, description, required })),
    ...(body ? fieldsOf(body.schema) : []),
  ];
  if (fields.length) parts.push(table(fields));
  parts.push(made("pre", "", { tabIndex: 0 }, made("code", curl(method, path, requestBody))));
  return made("article", "", { className: "card", id: operationId }, ...parts);
}

try {
  api = await (await request("/openapi.json")).json();
  byId("version").textContent = `${api.info.version} · ${api.info.summary ?? ""}`;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), route(method, path, operation)]);
    }
  }
  for (const [tag, routes] of groups) {
    byId("routes").append(made("h2", tag[0].toUpperCase() + tag.slice(1), { id: `of-${tag}` }), ...routes);
    byId("contents").append(made("li", "", {}, made("a", tag, { href: `#of-${tag}` })));
  }
  byId("status").hidden = true;
} catch (error) {
  byId("status").textContent = `${error.message || "The server cannot be reached"}. ${error.hint ?? ""}`;
}
