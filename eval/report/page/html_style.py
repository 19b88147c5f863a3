"""The style of the pages that ``html`` makes."""
# ruff: noqa: E501

LIGHT = """--ink: #1d2330; --soft: #5d6678; --page: #f6f7f9; --card: #ffffff; --line: #dfe3ea; --text: #2563eb;
  --image: #d9620f; --other: #8b3fd1; --structure: #667085; --all: #10a37f; --ok: #0a7d4f; --no: #c02b3c; --made: #2563eb17; --on: #ffffff;"""
DARK = """--ink: #e7eaf0; --soft: #9aa4b5; --page: #12151b; --card: #1b2029; --line: #303846; --text: #6ea3ff;
  --image: #ff9a4d; --other: #c08cff; --structure: #8b96a8; --all: #3ecfa6; --ok: #45d19a; --no: #ff7b89; --made: #6ea3ff26; --on: #10131a;"""
"""Colors, as CSS variables."""

PARTS = """
.lead { font-size: 1.08rem; color: var(--soft); }
.note, small, figcaption, caption { color: var(--soft); }
.note { font-size: .92rem; }
.px { image-rendering: pixelated; display: block; max-width: 100%; height: auto; background: #fff; border-radius: 3px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.3rem 0; }
.cards > div { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .9rem 1rem;
  display: flex; flex-direction: column; gap: .3rem; }
.cards strong { font-size: 1.9rem; line-height: 1.15; letter-spacing: -.02em; font-variant-numeric: tabular-nums; white-space: nowrap; }
.cards span { font-weight: 600; font-size: .95rem; }
.cards small { font-size: .82rem; line-height: 1.4; }
.cards ul { list-style: none; margin: 0; padding: 0; font-size: .8rem; line-height: 1.5; color: var(--soft); }
.cards li { display: flex; align-items: center; gap: .4rem; } .cards li b { margin-left: auto; font-weight: 600; color: var(--ink); }
.cards li i { width: .28rem; height: .85rem; border-radius: 2px; flex: none; }
.meter { position: relative; height: .6rem; border-radius: .3rem; background: var(--line); margin: .2rem 0; }
.meter i { position: absolute; inset: 0 auto 0 0; min-width: .15rem; border-radius: .3rem; background: var(--text); }
.meter b { position: absolute; top: -.22rem; bottom: -.22rem; width: .22rem; margin-left: -.11rem; border-radius: 2px; box-shadow: 0 0 0 1px var(--card); }
:is(.meter b, .cards li i).floor { background: var(--soft); } :is(.meter b, .cards li i).reference { background: var(--image); }
:is(.meter b, .cards li i).other { background: var(--other); } :is(.meter b, .cards li i).ceiling { background: var(--all); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(var(--cell, 9rem), 100%), 1fr));
  gap: .7rem; margin: .8rem 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .55rem; background: var(--page);
  display: flex; flex-direction: column; gap: .35rem; min-width: 0; }
figcaption { font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.ok, .no { font-weight: 700; } .ok { color: var(--ok); } .no { color: var(--no); }
figure.wrong { border-style: dashed; }
.beside, .stacked { display: flex; gap: .5rem; align-items: flex-start; }
.stacked { flex-direction: column; gap: .3rem; }
.labelled { display: flex; flex-direction: column; gap: .15rem; min-width: 0; max-width: 100%; }
.labelled small { font-size: .74rem; line-height: 1.25; }
.document { border: 1px solid var(--line); background: var(--page); border-radius: .6rem; padding: .8rem 1rem; margin: .7rem 0;
  line-height: 2; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.05rem; }
.said.made { background: var(--made); border-radius: .25rem; }
.drawn { display: inline-block; vertical-align: middle; margin: .3rem .45rem; max-width: 100%; border-radius: 5px;
  border: 2px solid var(--line); line-height: 0; }
.drawn.made { border-color: var(--text); }
.drawn.given { border-style: dashed; }
.tokens { display: flex; flex-wrap: wrap; gap: 2px; margin: .7rem 0; font: .72rem/1.35rem ui-monospace, Menlo, Consolas, monospace; }
.tokens i { font-style: normal; min-width: .8rem; height: 1.35rem; padding: 0 .22rem; border-radius: 3px; text-align: center;
  color: var(--on); background: var(--structure); white-space: pre; }
.tokens i.given { opacity: .62; } .tokens i[style*="--p:"] { position: relative; overflow: hidden; padding-bottom: 4px; }
.tokens i[style*="--p:"]::after { content: ""; position: absolute; left: 0; bottom: 0; height: 3px; width: calc(100% * var(--p)); background: var(--ink); }
.tokens .text { background: var(--text); } .tokens :is(.image, .other) { background: var(--image); padding: 0; opacity: .85; }
.tokens .other { background: var(--other); }
.tokens i.piece { width: 1.35rem; opacity: 1; image-rendering: pixelated; box-shadow: inset 0 0 0 1px var(--image); }
.tokens i.piece.given { box-shadow: inset 0 0 0 1px var(--soft); }
.tokens i.piece:hover { outline: 2px solid #e5006d; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .7rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .85rem; padding: 0 0 .35rem; }
th, td { padding: .3rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: .84rem; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: .8rem; }
.chart figcaption { font-weight: 600; color: var(--ink); font-size: .95rem; }
.chart figcaption small { font-weight: 400; }
.chart svg { width: 100%; height: auto; }
.chart text { font-size: 15px; fill: var(--soft); }
.chart svg { touch-action: pan-y; } .chart svg:focus-visible { outline: 2px solid var(--text); outline-offset: 2px; }
.chart .note { margin: 0; font-size: .85rem; line-height: 1.4; } .at { float: right; font-weight: 600; }
path.here { stroke: var(--soft); stroke-dasharray: 3 3; fill: none; } circle { fill: var(--all); }
circle.text { fill: var(--text); } circle.image { fill: var(--image); } circle.structure { fill: var(--structure); } circle.other { fill: var(--other); }
.grid { stroke: var(--line); fill: none; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: var(--all); }
polyline.text { stroke: var(--text); } polyline.image { stroke: var(--image); } polyline.structure { stroke: var(--structure); }
polyline.other { stroke: var(--other); }
polyline.dashed { stroke-dasharray: 5 4; } :is(polyline, .legend i).faint { opacity: .45; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: 1.1rem; border-top: 3px solid var(--all); vertical-align: middle; margin-right: .35rem; }
.legend i.text { border-color: var(--text); } .legend i.image { border-color: var(--image); }
.legend i.structure { border-color: var(--structure); } .legend i.other { border-color: var(--other); } .legend i.dashed { border-top-style: dashed; }
.command pre { display: inline-block; max-width: 100%; vertical-align: middle; }
pre { margin: .2rem 0 .9rem; padding: .5rem .8rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--page); overflow-x: auto; white-space: pre-wrap; }
.markdown button { float: right; } .markdown { max-height: 20rem; overflow: auto; font-size: .85rem; }
.command .note { margin: .6rem 0 0; }
pre button { font: 600 .8rem system-ui, sans-serif; color: var(--text); background: none; border: 1px solid var(--line); border-radius: .4rem;
  padding: .15rem .6rem; margin-left: .8rem; cursor: pointer; }
summary { cursor: pointer; } summary:focus-visible { outline: 2px solid var(--text); outline-offset: 3px; }
details details { margin: .7rem 0; } details details > summary { color: var(--text); font-weight: 600; font-size: .95rem; }
.banner { border: 1px solid var(--image); border-left-width: 6px; border-radius: .8rem; background: var(--card); padding: 1rem 1.2rem; margin: 1.2rem 0; }
.banner p { margin: .25rem 0; max-width: none; } .banner b { font-size: 1.1rem; }
.aside { border-left: 4px solid var(--line); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; font-size: .95rem; }
.hero { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.3rem 0 .4rem; }
.hero figure { flex: 1 1 9rem; background: var(--card); align-items: center; justify-content: center; border-radius: .8rem; }
.hero figure:has(.stacked) { flex-basis: 15rem; } .hero .stacked { max-width: 100%; }
.hero figcaption { color: var(--ink); font-size: .95rem; }
.stages td:last-child { text-align: left; }
.share { display: inline-block; height: .6rem; border-radius: .3rem; background: var(--text); min-width: 2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: .6rem 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
a { color: var(--text); }
"""
"""Pictures, documents, tokens, figures, tables and charts."""

STYLE = (
    f""":root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.2rem 1.1rem 4rem; min-width: 0; }
section, [id] { scroll-margin-top: 3.2rem; }
section > details > summary:has(h2) { list-style: none; display: flex; justify-content: space-between; align-items: baseline; }
section > details > summary:has(h2)::-webkit-details-marker { display: none; }
section > details > summary:has(h2)::after { content: "+"; color: var(--soft); font-size: 1.3rem; line-height: 1; }
section > details[open] > summary:has(h2)::after { content: "−"; }
.contents { position: sticky; top: 0; z-index: 1; display: flex; gap: 1.1rem; overflow-x: auto; white-space: nowrap; padding: .6rem 1.1rem;
  background: var(--page); border-bottom: 1px solid var(--line); font-size: .92rem; }
.contents a { color: var(--soft); text-decoration: none; } .contents a:hover { color: var(--text); text-decoration: underline; }
.spot { position: absolute; border: 2px solid #e5006d; pointer-events: none; } .drawn { position: relative; }
@media (min-width: 82rem) { body:has(.contents) { display: grid; grid-template-columns: 11rem minmax(0, 68rem); justify-content: center; align-items: start; }
  .contents { flex-direction: column; gap: .55rem; max-height: 100vh; white-space: normal; border: 0; padding: 2.6rem .4rem 2rem 0; }
  body:has(.contents) main { margin: 0; width: 100%; } section, [id] { scroll-margin-top: 1rem; } }
figure > .document { border: 0; margin: 0; padding: 0 .2rem; }
@media print { .contents { display: none; } pre button { display: none; } }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.25rem; margin: 0 0 .35rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0 .9rem; max-width: 48rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: 1.3rem 1.4rem;
  margin: 1.2rem 0; }
"""
    + PARTS
    + """
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; }
@media (max-width: 34rem) { main { padding: 1.3rem .7rem 3rem; } section { padding: 1rem .9rem; } h1 { font-size: 1.5rem; }
  .cards { grid-template-columns: 1fr 1fr; } .cards > div { padding: .8rem; } .cards strong { font-size: 1.3rem; } .sheet.small { grid-template-columns: 1fr 1fr; } .chart text { font-size: 22px; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } }
"""
)
"""A whole page."""
