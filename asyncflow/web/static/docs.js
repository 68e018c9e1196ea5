// Shows openapi.json to people. Texts go in as text, never as markup.

const LIMIT = 6; // schemas may refer to themselves

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function code(text) {
  return element("code", text);
}

function named(reference) {
  return reference.split("/").pop();
}

// An example-like outline of a schema, in the words of JSON.
function outline(schema, schemas, depth = 0) {
  if (depth > LIMIT) return "…";
  if (schema.$ref) return outline(schemas[named(schema.$ref)], schemas, depth + 1);
  if (schema.anyOf) {
    const kinds = schema.anyOf.filter((one) => one.type !== "null");
    const shown = outline(kinds[0] ?? {}, schemas, depth);
    return kinds.length < schema.anyOf.length && typeof shown === "string" ? `${shown} or null` : shown;
  }
  if (schema.enum) return schema.enum.join(" | ");
  if ("const" in schema) return String(schema.const);
  if (schema.properties) {
    const members = Object.entries(schema.properties);
    return Object.fromEntries(members.map(([key, one]) => [key, outline(one, schemas, depth + 1)]));
  }
  if (schema.type === "array") {
    return [outline(schema.items ?? schema.prefixItems?.[0] ?? {}, schemas, depth + 1)];
  }
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return { "…": outline(schema.additionalProperties, schemas, depth + 1) };
  }
  return schema.format ?? schema.type ?? "anything";
}

function content(contents, schemas) {
  return Object.entries(contents ?? {}).map(([kind, { schema = {} }]) => {
    const shape = outline(schema, schemas);
    const text = typeof shape === "string" ? shape : JSON.stringify(shape, null, 2);
    return element("div", null, code(kind), element("pre", text));
  });
}

function table(head, rows) {
  const cells = (row, kind) => row.map((one) => element(kind, null, one));
  const body = rows.map((row) => element("tr", null, ...cells(row, "td")));
  return element(
    "table",
    null,
    element("thead", null, element("tr", null, ...cells(head, "th"))),
    element("tbody", null, ...body),
  );
}

function operation(path, method, told, schemas) {
  const verb = element("span", method.toUpperCase());
  verb.className = "method";
  const line = element("summary", null, verb, code(path), ` ${told.summary}`);
  const inside = element("div", null);
  if (told.security.every((one) => "token" in one)) inside.append(element("p", "Needs the token."));
  if (told.parameters.length) {
    const rows = told.parameters.map((one) => [code(one.name), one.in, one.description]);
    inside.append(element("h3", "Parameters"), table(["Name", "In", "Meaning"], rows));
  }
  if (told.requestBody) {
    inside.append(element("h3", "Body"), ...content(told.requestBody.content, schemas));
  }
  inside.append(element("h3", "Answers"));
  for (const [status, answer] of Object.entries(told.responses)) {
    inside.append(element("p", null, code(status), ` ${answer.description}`));
    if (status < 400) inside.append(...content(answer.content, schemas));
  }
  const whole = element("details", null, line, inside);
  whole.dataset.words = `${method} ${path} ${told.summary}`.toLowerCase();
  return whole;
}

function show(description) {
  const schemas = description.components.schemas;
  document.querySelector("#version").textContent = description.info.version;
  const sections = new Map();
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, told] of Object.entries(methods)) {
      const tag = told.tags[0];
      if (!sections.has(tag)) sections.set(tag, element("section", null, element("h2", tag)));
      sections.get(tag).append(operation(path, method, told, schemas));
    }
  }
  document.querySelector("#operations").replaceChildren(...sections.values());
}

function find(event) {
  const wanted = event.target.value.toLowerCase();
  let found = 0;
  for (const section of document.querySelectorAll("#operations section")) {
    const all = [...section.querySelectorAll("details")];
    for (const one of all) one.hidden = !one.dataset.words.includes(wanted);
    const shown = all.filter((one) => !one.hidden).length;
    section.hidden = shown === 0;
    found += shown;
  }
  document.querySelector("#none").hidden = found > 0;
}

document.querySelector("#find").addEventListener("input", find);
try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  const text = `The description could not be loaded: ${error.message}.`;
  document.querySelector("#operations").replaceChildren(element("p", text));
}
