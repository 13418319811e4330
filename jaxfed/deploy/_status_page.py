"""The text of the operator's page."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxfed: rounds</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #18212b; --soft: #55616d;
  --line: #dce1e6; --accent: #0a5a78; --wash: #f3f6f8; --limit: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --paper: #12171d; --ink: #e7ecf0;
  --soft: #a3b0bc; --line: #303a44; --accent: #73c3e0; --wash: #1a2129;
  --limit: #fdba74; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; text-wrap: balance; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .92rem; }
.facts { display: grid; gap: 1rem 2rem; margin: 1.6rem 0 0; padding: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  border-top: 2px solid var(--ink); border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.4rem; font-weight: 600; }
.facts small { display: block; font-size: .85rem; font-weight: 400;
  color: var(--soft); }
.bar { height: .6rem; border-radius: .3rem; background: var(--line);
  overflow: hidden; margin: .5rem 0; }
.bar > i { display: block; height: 100%; background: var(--accent); }
.private { background: var(--wash); border-left: 4px solid var(--limit);
  padding: .9rem 1.1rem; margin-top: 1rem; }
.private b { color: var(--limit); }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85em; }
</style></head><body><main>
<h1 id="verdict">Asking the server&hellip;</h1>
<p class="soft" id="what"></p>
<dl class="facts" id="facts"></dl>
<div class="bar" id="budget" role="img"><i></i></div>
<div class="private" id="open" hidden></div>
<h2>Last attempts</h2>
<table><thead><tr><th>round</th><th>attempt</th><th>state</th></tr></thead>
<tbody id="attempts"></tbody></table>
<p class="soft" id="foot"></p>
</main><script>
const at = (id) => document.getElementById(id);
function put(parent, tag, text) {
  const one = document.createElement(tag);
  one.textContent = text;
  parent.append(one);
  return one;
}
function fact(name, value, note) {
  put(at("facts"), "div", "");
  const box = at("facts").lastChild;
  put(box, "dt", name);
  put(put(box, "dd", value), "small", note);
}
function show(s) {
  at("verdict").textContent = s.state;
  at("what").textContent = s.run + ": " + s.algorithm;
  at("facts").replaceChildren();
  fact("rounds released", s.released + " of " + s.rounds, "");
  fact("epsilon spent", s.epsilon, "of " + s.budget + " at delta " + s.delta);
  fact("clients", s.clients, s.cohort + " in a round");
  fact("released from", s.least_cohort + " or more",
    s.goal ? "closes at " + s.goal : "waits for all");
  fact("deadline", s.deadline_seconds + " s", "");
  at("budget").firstChild.style.width = s.spent_percent + "%";
  at("budget").setAttribute("aria-label", s.spent_percent + " % of the budget spent");
  at("open").hidden = !s.open;
  if (s.open) {
    at("open").replaceChildren();
    const line = put(at("open"), "p", "");
    put(line, "b", "Private, do not publish. ");
    line.append("Round " + s.open.round + ": " + s.open.reported + " of "
      + s.open.asked + " reported, " + s.open.seconds_left + " s left.");
    if (s.open.missing.length)
      put(at("open"), "p", "Not yet: " + s.open.missing.join(", "));
  }
  at("attempts").replaceChildren();
  for (const a of s.attempts) {
    const row = put(at("attempts"), "tr", "");
    for (const value of [a.round, a.attempt, a.state]) put(row, "td", value);
  }
  at("foot").textContent = "Ledger head " + s.head;
}
async function ask() {
  try {
    show(await (await fetch("/status.json")).json());
  } catch (error) {
    at("verdict").textContent = "The server does not answer";
  }
  setTimeout(ask, 2000);
}
ask();
</script></body></html>
"""
