"""The look of a report: one column of sections, light or dark, black on white in print.

Only system fonts and inline drawings: a page loads nothing.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #18212b; --soft: #55616d; --line: #dce1e6;
  --accent: #0a5a78; --wash: #f3f6f8; --limit: #9a3412;
  --alarm: #8f2d0c; --on-alarm: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12171d; --ink: #e7ecf0; --soft: #a3b0bc; --line: #303a44;
    --accent: #73c3e0; --wash: #1a2129; --limit: #fdba74;
    --alarm: #ffb36b; --on-alarm: #2a1400;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
  overflow-wrap: anywhere;
}
.page { max-width: 66rem; margin: 0 auto; padding: 0 2rem 4rem; }
h1, h2, h3, p, dl, dd, ul, ol, figure { margin: 0; }
p, .body > ul, .body > ol { max-width: 44rem; }
.alarm { background: var(--alarm); color: var(--on-alarm); }
.alarm > * { max-width: 66rem; margin: 0 auto; padding: 0.8rem 2rem; }
.strip { position: sticky; top: 0; z-index: 1; font-size: 1.2rem; font-weight: 700; }
.strip p { padding-top: 0.9rem; padding-bottom: 0.7rem; line-height: 1.3; }
.why p { max-width: 66rem; padding-top: 0; padding-bottom: 1.1rem; }
header { padding: 3.2rem 0 2.6rem; }
.kind {
  font-size: 0.8rem; font-weight: 650; letter-spacing: 0.06em;
  text-transform: uppercase; color: var(--accent);
}
.kind.bad { color: var(--limit); }
h1 { font-size: 1.1rem; font-weight: 600; line-height: 1.3; margin-top: 0.3rem; }
.verdict {
  margin-top: 1.1rem; max-width: 50rem;
  font-size: clamp(1.5rem, 1.1rem + 1.7vw, 2.15rem); font-weight: 600;
  line-height: 1.22; letter-spacing: -0.012em; text-wrap: balance;
}
.lead { margin-top: 1.1rem; max-width: 44rem; color: var(--soft); }
.facts {
  display: grid; gap: 1.2rem 2rem; padding: 1.3rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  border-top: 2px solid var(--ink);
}
.facts dt { font-size: 0.85rem; color: var(--soft); }
.facts dd { font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.facts small {
  display: block; font-size: 0.85rem; font-weight: 400; color: var(--soft);
}
section { padding: 2.2rem 0; border-top: 1px solid var(--line); }
h2 { font-size: 1.1rem; line-height: 1.3; font-weight: 650; }
h3 { font-size: 1rem; line-height: 1.35; font-weight: 650; margin-bottom: 0.5rem; }
.body > * + * { margin-top: 1.1rem; }
.body > * + h3 { margin-top: 2rem; }
.note { color: var(--soft); font-size: 0.92rem; }
ul, ol { padding-left: 1.15rem; }
li + li { margin-top: 0.3rem; }
li::marker { color: var(--soft); }
.terms > div { padding: 0.7rem 0; border-top: 1px solid var(--line); }
.terms > div:first-child { border-top: 0; padding-top: 0; }
.terms dt { color: var(--soft); font-size: 0.92rem; }
.terms dd { max-width: 44rem; }
.claim { font-size: 1.12rem; font-weight: 550; line-height: 1.45; }
.pair { display: grid; gap: 1.6rem 2.5rem; }
code, .mono {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono",
    monospace;
  font-size: 0.88em;
}
.command, .printed {
  display: block; margin-top: 0.4rem; padding: 0.55rem 0.8rem; white-space: pre-wrap;
  background: var(--wash); border: 1px solid var(--line); border-radius: 5px;
}
.bar { display: block; width: 100%; }
.track { fill: var(--line); }
.fill { fill: var(--accent); }
.ends {
  display: flex; justify-content: space-between; gap: 1rem; margin-top: 0.35rem;
  font-variant-numeric: tabular-nums;
}
.ends span:last-child { text-align: right; color: var(--soft); }
.charts {
  display: grid; gap: 2rem 2.4rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr));
}
figcaption {
  display: flex; flex-wrap: wrap; gap: 0 1rem; justify-content: space-between;
}
.charts figcaption { flex-direction: column; }
.number { white-space: nowrap; }
figcaption .name { font-weight: 600; }
figcaption .span, td, .facts dd { font-variant-numeric: tabular-nums; }
figcaption .span { color: var(--soft); }
.plot { padding: 1.4rem 0.4rem 2.9rem 0; }
.plot > svg { display: block; width: 100%; overflow: visible; }
.plot svg svg { overflow: visible; }
.plot text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.plot .tick { text-anchor: end; }
.grid { stroke: var(--line); stroke-width: 1; }
line.limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 5 4; }
.plot text.limit { fill: var(--limit); }
.curve {
  fill: none; stroke: var(--accent); stroke-width: 2; stroke-linecap: round;
  stroke-linejoin: round; vector-effect: non-scaling-stroke;
}
.dot { fill: var(--accent); }
.empty { color: var(--soft); padding: 1.4rem 0; }
details { font-size: 0.88rem; }
summary { cursor: pointer; color: var(--soft); padding: 0.2rem 0; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; margin-top: 0.4rem; }
th, td { padding: 0.18rem 1.6rem 0.18rem 0; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 400; color: var(--soft); }
td, thead th:last-child { text-align: right; padding-right: 0; }
footer { padding-top: 1.4rem; border-top: 1px solid var(--line); }
@media (min-width: 56rem) {
  section { display: grid; grid-template-columns: 12rem minmax(0, 1fr); gap: 2.5rem; }
  .terms > div {
    display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); gap: 1rem;
  }
  .pair { grid-template-columns: 1fr 1fr; }
}
@media (max-width: 40rem) {
  .page { padding: 0 1.15rem 3rem; }
  .alarm > * { padding-left: 1.15rem; padding-right: 1.15rem; }
  .strip { font-size: 1.05rem; }
  header { padding: 1.9rem 0 1.8rem; }
  section { padding: 1.7rem 0; }
  h2 { margin-bottom: 0.9rem; }
  .facts { grid-template-columns: 1fr 1fr; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --soft: #333333; --line: #bbbbbb;
    --accent: #000000; --wash: #ffffff; --limit: #000000;
    --alarm: #ffffff; --on-alarm: #000000;
  }
  html { font-size: 10pt; }
  .page { max-width: none; padding: 0; }
  .alarm { border: 2pt solid #000000; border-bottom: 0; }
  .alarm + .alarm { border-top: 0; border-bottom: 2pt solid #000000; }
  .alarm > * { padding-left: 10pt; padding-right: 10pt; }
  .strip { position: static; font-size: 13pt; }
  header { padding: 14pt 0; }
  section { padding: 14pt 0; }
  section { display: block; }
  .terms > div {
    display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); gap: 1rem;
  }
  .verdict { font-size: 18pt; }
  .pair { grid-template-columns: 1fr 1fr; }
  h2, h3, .body > .note { break-after: avoid; }
  h2 { margin-bottom: 8pt; }
  figure, .facts, .terms > div, .pair, li, .ends { break-inside: avoid; }
  p { orphans: 3; widows: 3; }
  details:not([open]) { display: none; }
}
@page {
  margin: 18mm 16mm;
  @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; }
}
"""
SIMULATION_STYLE = """
@page {
  @top-center {
    content: "SIMULATION: not for release"; font: bold 9pt sans-serif;
  }
}
"""
