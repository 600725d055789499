"""What every HTML page here is made of: its style, numbers as people read them, tiles, tables, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --blue: #2463a8; --paper: #fff;
        --pale: #f4f8fc; --ground: #f7f8fa; --note: #fff8e6; --note-line: #f0dfae; --mark: #ffe9a8; --rail: #e8eef6;
        --shade: #0003; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ed; --soft: #9ca7b4; --line: #323a44; --blue: #86b9f0; --paper: #14181d; --pale: #1b2633;
          --ground: #1b2027; --note: #2e2717; --note-line: #5c4c22; --mark: #5f5120; --rail: #26303b; --shade: #fff3; }
  figure svg { background: #f4f5f7; border-radius: .5rem; padding: .5rem; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; color: var(--ink); background: var(--paper);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile.head { border-color: var(--blue); background: var(--pale); }
.scroll { overflow-x: auto; background: /* a shadow at each side where there is more to scroll to */
  linear-gradient(to right, var(--paper) 30%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 30%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) 0 0 / .75rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / .75rem 100% no-repeat scroll; }
.lead { font-size: 1.15rem; line-height: 1.45; margin: 1rem 0; }
a { color: var(--blue); }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; max-width: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 8rem; }
.bar { min-width: 7rem; width: 30%; }
.bar div { background: var(--rail); border-radius: 2px; height: .85rem; margin-top: .3rem; }
.bar i { display: block; background: var(--blue); border-radius: 2px; height: 100%; }
@media (max-width: 45rem) { .bar { display: none; } }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
figure.small { max-width: 26rem; }
figure.wide { max-width: 46rem; overflow-x: auto; }
figure.wide svg { min-width: 34rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1.5rem; }
ul.notes { background: var(--note); border: 1px solid var(--note-line); border-radius: .5rem;
           padding: .6rem 1rem .6rem 2rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0; overflow-wrap: anywhere; }
blockquote { margin: .5rem 0; padding: .4rem .9rem; border-left: 3px solid var(--line); font-size: .9rem;
             white-space: pre-wrap; overflow-wrap: anywhere; }
blockquote b { display: block; } mark { background: var(--mark); color: inherit; }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
code, pre { overflow-wrap: anywhere; white-space: pre-wrap; }
details { margin: .75rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; } details { display: block; } }
"""


def score(value: float, places: int = 4) -> str:
    return f"{value:.{places}f}"


def interval(bounds: Sequence[float], places: int = 4) -> str:
    return f"[{bounds[0]:.{places}f}, {bounds[1]:.{places}f}]"


def percent(share: float) -> str:
    """A share in percent; a tiny one is not shown as none."""
    return "under 0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """1.2 ms, 3.4 s, 5 min 6 s, 1:02:03 h."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{timedelta(seconds=int(seconds))} h"


def size(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page; empty parts are left out, and the title is text."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
    ]
    return "\n".join(part for part in (*head, *parts, "</body></html>") if part) + "\n"


def tile(name: str, value: str, below: str, kind: str = "") -> str:
    """A headline in a box; all but the kind are HTML already."""
    return f'<div class="tile {kind}">{name}<b>{value}</b><span class="soft">{below}</span></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str]) -> str:
    """`rows` are HTML already; a kind `n` is a number, aligned to the right; other kinds are classes."""
    classes = [' class="number"' if kind == "n" else f' class="{kind}"' if kind else "" for kind in kinds]
    classes += [""] * (len(head) - len(classes))
    top = "".join(f"<th{c}>{cell}</th>" for c, cell in zip(classes, head, strict=True))
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    body = "".join(
        f"<tr>{''.join(f'<td{c}>{cell}</td>' for c, cell in zip(classes, row, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def repeating(command: str, machine: dict, versions: dict, *more: tuple[str, str]) -> list[str]:
    """How to repeat what is shown: the command, and where it ran; `more` are names and HTML."""
    facts = [(escape(str(name)), escape(str(value))) for name, value in (*machine.items(), *versions.items())]
    return ["<h2>How to repeat it</h2>", f"<pre>{escape(command)}</pre>", table(("", ""), [*facts, *more], ["", ""])]


def picture(svg: str, caption: str, kind: str = "") -> str:
    """An SVG and its caption; the kind is a class: small, wide, or none."""
    return f'<figure class="{kind}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
