"use strict";
(() => {
  const ROWS_A_PAGE = 50;
  const MOST_TOKENS = 1500; // of a row, before its button is pressed
  const MARK = "\ue000";
  const THE_FILE = 0; // as a row: what is wrong with the file itself

  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const blocks = [...document.querySelectorAll("script.rows")];
  const said = (key, values = {}) =>
    data.texts[key].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

  // Every text becomes a text node: nothing a row says is ever markup.
  const make = (name, text = "", className = "") => {
    const node = document.createElement(name);
    if (text !== "") node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const into = (parent, ...children) => {
    parent.append(...children);
    return parent;
  };

  // Rows stand in blocks; a block is read when one of its rows is asked for.
  const contents = [];
  const starts = [];
  const lengths = blocks.map((block) => Number(block.dataset.rows));
  lengths.reduce((start, length) => (starts.push(start), start + length), 0);
  const blockOf = (number) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= number) low = middle;
      else high = middle - 1;
    }
    return low;
  };
  const contentOf = (number) => {
    const block = blockOf(number);
    if (!contents[block]) {
      contents[block] = JSON.parse(blocks[block].textContent);
      blocks[block].textContent = "";
    }
    return contents[block][number - starts[block]];
  };

  // One entry a row that can be trained on, and one for each bad row; notes are what was found.
  const entries = data.index.row.map((row, number) => ({
    row,
    line: data.index.line[number],
    tokens: data.index.tokens[number],
    learned: data.index.learned[number],
    number,
    problems: [],
    warnings: [],
  }));
  const byRow = new Map();
  for (const entry of entries) {
    if (!byRow.has(entry.row)) byRow.set(entry.row, []);
    byRow.get(entry.row).push(entry);
  }
  const entriesOf = (row, line) => {
    if (!byRow.has(row)) {
      const entry = { row, line, tokens: null, learned: null, number: null, problems: [], warnings: [] };
      byRow.set(row, [entry]);
      entries.push(entry);
    }
    return byRow.get(row);
  };
  const problemKinds = new Map();
  for (const finding of data.findings) {
    const kind = problemKinds.get(finding.key) ?? { key: finding.key, sentence: finding.reason, fix: finding.fix, count: 0 };
    problemKinds.set(finding.key, kind);
    kind.count += 1;
    for (const entry of entriesOf(finding.row, finding.line)) entry.problems.push(finding);
  }
  data.warnings.forEach((kind, index) => {
    for (const [row, line, detail] of kind.rows)
      for (const entry of entriesOf(row, line)) entry.warnings.push({ index, name: kind.name, detail });
  });
  entries.sort((one, other) => one.row - other.row);

  // --- what is known of the whole ---------------------------------------------------------------------------------

  for (const caution of data.cautions) byId("cautions").append(make("p", caution, "caution"));
  for (const sentence of data.summary) byId("summary").append(make("li", sentence));

  const bar = (share) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("width", `${Math.max(100 * share, share > 0 ? 0.5 : 0)}%`);
    rect.setAttribute("height", "100%");
    return into(svg, rect);
  };
  const head = (...titles) => {
    const row = make("tr");
    for (const title of titles) {
      const cell = make(title ? "th" : "td", title, title === said("page.rows") ? "number" : "");
      if (title) cell.scope = "col";
      row.append(cell);
    }
    return into(make("thead"), row);
  };
  const chart = (distribution, caption) => {
    const body = make("tbody");
    const longest = Math.max(...distribution.histogram.map((each) => each.rows));
    for (const each of distribution.histogram) {
      const name = make("th", each.from === each.to ? String(each.from) : `${each.from}–${each.to}`);
      name.scope = "row";
      const row = into(make("tr"), name, into(make("td", "", "bar"), bar(each.rows / longest)));
      body.append(into(row, make("td", String(each.rows), "number")));
    }
    return into(make("table"), make("caption", caption), head(said("page.value"), "", said("page.rows")), body);
  };
  data.distributions.forEach((distribution, index) => {
    byId("charts").append(chart(distribution, said(index === 0 ? "page.tokens_a_row" : "page.learned_percent")));
  });

  const kindRow = (sentence, fix, count, show) => {
    const button = make("button", said("page.show"));
    button.type = "button";
    button.addEventListener("click", show);
    const cell = make("td", sentence, "note");
    return into(make("tr"), cell, make("td", fix), make("td", String(count), "number"), into(make("td"), button));
  };
  const listKinds = () => {
    const body = make("tbody");
    for (const kind of problemKinds.values())
      body.append(kindRow(kind.sentence, kind.fix, kind.count, () => choose(kind.key, "")));
    data.warnings.forEach((kind, index) =>
      body.append(kindRow(kind.sentence, kind.fix, kind.rows.length, () => choose("", String(index)))),
    );
    if (!body.children.length) return make("p", said("page.no_problem"));
    return into(make("table"), head(said("page.kind"), said("page.remedy"), said("page.rows"), ""), body);
  };

  // --- one row ----------------------------------------------------------------------------------------------------

  const visible = (text) => text.replace(/\n/g, "↵\n").replace(/\t/g, "→\t");
  const runsOf = (content) =>
    content.flatMap((part) => (typeof part === "number" ? data.pieces[part] : [[part[0], part.slice(1)]]));
  const drawTokens = (content, most) => {
    const paragraph = make("p", "", "tokens");
    let drawn = 0;
    for (const [code, joined] of runsOf(content)) {
      let withoutText = 0;
      for (const token of joined.split(MARK)) {
        if ((drawn += 1) > most) return paragraph;
        if (token === "") {
          withoutText += 1;
          continue;
        }
        const span = make("span", visible(token), `token ${code}`);
        if (withoutText) span.title = said("page.several_tokens", { number: withoutText + 1 });
        withoutText = 0;
        paragraph.append(span);
      }
    }
    return paragraph;
  };
  const placeOf = (entry) => {
    if (entry.row === THE_FILE) return said("page.the_file");
    return said(entry.line ? "page.place" : "page.place_without_line", entry);
  };
  const drawEntry = (entry) => {
    const article = into(make("article", "", "row"), make("h3", placeOf(entry)));
    if (entry.tokens !== null) {
      const percent = Math.round((100 * entry.learned) / entry.tokens);
      article.append(make("p", said("page.figures", { ...entry, percent }), "figures"));
    }
    for (const finding of entry.problems) {
      const place = finding.field ? `${finding.field}: ` : "";
      article.append(make("p", `✗ ${place}${finding.reason}\n→ ${finding.fix}`, "note bad"));
    }
    for (const warning of entry.warnings) article.append(make("p", `! ${warning.name}: ${warning.detail}`, "note odd"));
    if (entry.number === null) {
      if (!entry.problems.length) article.append(make("p", said("page.not_here"), "note"));
      return article;
    }
    article.append(drawTokens(contentOf(entry.number), MOST_TOKENS));
    if (entry.tokens > MOST_TOKENS) {
      const button = make("button", said("page.all_tokens"));
      button.type = "button";
      button.addEventListener("click", () => {
        article.querySelector(".tokens").replaceWith(drawTokens(contentOf(entry.number), Infinity));
        button.remove();
      });
      article.append(button);
    }
    return article;
  };

  // --- filter and pages ---------------------------------------------------------------------------------------------

  const textOf = (entry) => {
    if (entry.number === null) return entry.problems.map((finding) => finding.reason).join("\n");
    return contentOf(entry.number)
      .filter((part) => typeof part === "string")
      .map((part) => part.slice(1).replaceAll(MARK, ""))
      .join("\n");
  };
  const fits = (chosen, kinds) => chosen === "" || (chosen === "*" ? kinds.length > 0 : kinds.includes(chosen));
  const matching = () => {
    const problem = byId("problem").value;
    const warning = byId("warning").value;
    const least = byId("least").value === "" ? null : Number(byId("least").value);
    const most = byId("most").value === "" ? null : Number(byId("most").value);
    const sought = byId("search").value.toLowerCase();
    return entries.filter(
      (entry) =>
        fits(problem, entry.problems.map((finding) => finding.key)) &&
        fits(warning, entry.warnings.map((each) => String(each.index))) &&
        (least === null || (entry.tokens !== null && entry.tokens >= least)) &&
        (most === null || (entry.tokens !== null && entry.tokens <= most)) &&
        (sought === "" || textOf(entry).toLowerCase().includes(sought)),
    );
  };

  let found = entries;
  let pageNumber = 0;
  const numPages = () => Math.max(1, Math.ceil(found.length / ROWS_A_PAGE));
  const draw = () => {
    const start = pageNumber * ROWS_A_PAGE;
    byId("rows").replaceChildren(...found.slice(start, start + ROWS_A_PAGE).map(drawEntry));
    if (!found.length) byId("rows").append(make("p", said("page.no_match")));
    byId("matches").textContent = said("page.matches", { num_found: found.length, num_rows: entries.length });
    for (const number of document.querySelectorAll(".pager .number"))
      number.textContent = said("page.page_of", { number: pageNumber + 1, num_pages: numPages() });
    for (const button of document.querySelectorAll(".pager button")) {
      const target = pageNumber + Number(button.dataset.step);
      button.disabled = target < 0 || target >= numPages();
    }
  };
  const refresh = () => {
    found = matching();
    pageNumber = 0;
    draw();
  };
  const choose = (problem, warning) => {
    byId("filter").reset();
    byId("problem").value = problem;
    byId("warning").value = warning;
    refresh();
    byId("rows-title").scrollIntoView();
    byId("problem").focus({ preventScroll: true });
  };
  const option = (value, label) => {
    const node = make("option", label.length > 60 ? `${label.slice(0, 60)}…` : label);
    node.value = value;
    return node;
  };
  into(byId("problem"), option("", said("page.all")), option("*", said("page.any")));
  for (const kind of problemKinds.values())
    byId("problem").append(option(kind.key, `${kind.sentence.split("\n")[0]} (${kind.count})`));
  into(byId("warning"), option("", said("page.all")), option("*", said("page.any")));
  data.warnings.forEach((kind, index) => byId("warning").append(option(String(index), `${kind.name} (${kind.rows.length})`)));

  byId("kinds").append(listKinds());
  let waiting = 0;
  byId("filter").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 250);
  });
  byId("filter").addEventListener("reset", () => setTimeout(refresh, 0));
  byId("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    refresh();
  });
  for (const button of document.querySelectorAll(".pager button"))
    button.addEventListener("click", () => {
      pageNumber += Number(button.dataset.step);
      draw();
      byId("rows-title").scrollIntoView();
    });
  draw();
})();
