// The look of a report's page, light or dark as the reader's system is; classes c0 to c7 are the runs' colours, p0 to
// p7 those of a step's phases.
//
// Not for what stands on the page (report_page.hpp).
#pragma once

namespace nibble {

inline constexpr const char* report_style = R"(
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2128; --soft: #59636e; --rule: #d1d9e0; --grid: #e6eaef; --panel: #f6f8fa;
  --c0: #1f6feb; --c1: #d9480f; --c2: #1a7f37; --c3: #bf3989; --c4: #8250df; --c5: #0b7285; --c6: #9a6700; --c7: #57606a;
  --hot: 217 95 14;
  --p0: #4c78a8; --p1: #7aa6d8; --p2: #e39a3b; --p3: #5aa469; --p4: #c4668f; --p5: #8e7cc3; --p6: #4aa3a2; --p7: #a0a8b0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #11151a; --ink: #e6edf3; --soft: #9aa4af; --rule: #343b44; --grid: #232a32; --panel: #191f26;
    --c0: #6cb0ff; --c1: #ff9a5c; --c2: #56d27a; --c3: #ff8ac4; --c4: #bf9bff; --c5: #4fd0e0; --c6: #e3b341; --c7: #aab4be;
    --p0: #5b8fc7; --p1: #9cc3ec; --p2: #eeb067; --p3: #74bf84; --p4: #d987ab; --p5: #a897dc; --p6: #66bdbb; --p7: #77818b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 3rem; background: var(--paper); color: var(--ink);
  font: 0.95rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2, h3 { margin: 0; font-size: 1.2rem; }
h3 { font-size: 1rem; }
header p, figcaption p, section > p, footer { margin: 0.15rem 0 0; color: var(--soft); font-size: 0.85rem; }
section, figure { margin: 2.25rem 0 0; }
.figures figure { margin-top: 1.5rem; }
footer { margin-top: 3rem; }
section > h3 { margin-top: 1.6rem; }
.problem { color: var(--c1); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr)); column-gap: 2.5rem; }
.wide { grid-column: 1 / -1; }
.wide .plot { height: 23rem; }
.plot { position: relative; height: 14rem; margin: 0.9rem 0.9rem 1.6rem 3.1rem; }
.plot > svg { display: block; width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; }
.plot .grid { stroke: var(--grid); }
.plot .axis { stroke: var(--rule); }
.plot span { position: absolute; color: var(--soft); font-size: 0.75rem; line-height: 1; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.plot .y { right: calc(100% + 0.5rem); transform: translateY(-50%); }
.plot .x { top: calc(100% + 0.5rem); transform: translateX(-50%); }
.x-label { margin: 0; text-align: center; color: var(--soft); font-size: 0.8rem; }
.line { fill: none; stroke: var(--c); stroke-width: 1.3; stroke-linejoin: round; }
.strong { stroke-width: 2.2; }
.dots { stroke: var(--c); stroke-width: 6.5; stroke-linecap: round; }
.plot .band { fill: var(--c); opacity: 0.22; stroke: none; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.d1.line { stroke-dasharray: 7 4; } .d2.line { stroke-dasharray: 2 3; }
.p0 { --c: var(--p0); } .p1 { --c: var(--p1); } .p2 { --c: var(--p2); } .p3 { --c: var(--p3); }
.p4 { --c: var(--p4); } .p5 { --c: var(--p5); } .p6 { --c: var(--p6); } .p7 { --c: var(--p7); }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; margin: 0.4rem 0 0; padding: 0; list-style: none;
  font-size: 0.82rem; }
.runs { position: sticky; top: 0; z-index: 2; max-height: 6.5rem; overflow-y: auto; padding: 0.35rem 0;
  background: var(--paper); }
.key { width: 1.5rem; height: 0.5rem; margin-right: 0.4rem; }
.block { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem; border-radius: 2px;
  background: var(--c); }
.bars { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr; gap: 0.5rem 0.9rem; align-items: center;
  margin-top: 0.9rem; }
.bars span { max-width: 20rem; font-size: 0.85rem; }
.bar { display: flex; height: 1.5rem; }
.bar i { background: var(--c); min-width: 0; }
.scroll { overflow-x: auto; margin-top: 0.7rem; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums;
  overflow-wrap: break-word; }
th, td { padding: 0.28rem 0 0.28rem 1.6rem; border-bottom: 1px solid var(--grid); text-align: right;
  vertical-align: top; }
thead th { border-color: var(--rule); }
tbody th { min-width: 7.5rem; }
td { min-width: 4.5rem; }
thead th { vertical-align: bottom; }
th:first-child { position: sticky; left: 0; padding-left: 0; background: var(--paper); text-align: left; font-weight: normal;
  color: var(--soft); }
.heat td { background: rgb(var(--hot) / calc(0.5 * var(--heat, 0))); }
details { margin-top: 0.7rem; }
summary { cursor: pointer; }
pre { margin: 0.5rem 0 0; padding: 0.8rem 1rem; overflow-x: auto; background: var(--panel); border-radius: 6px;
  font-size: 0.8rem; line-height: 1.45; }
@media (max-width: 35rem) { .bars { grid-template-columns: 1fr; gap: 0.1rem; } .bar { margin-bottom: 0.4rem; } }
@media (min-width: 45rem) { tbody th, td { white-space: nowrap; } }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
)";

}  // namespace nibble
