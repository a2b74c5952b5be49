"""Writes docs/fusion.md, the catalogue of fusion methods, from the docstrings of the code.

python docs/make_fusion_page.py            # after a method has come or changed; a test compares
"""

import inspect
import re
from pathlib import Path

from mmfuse.fusion import FUSIONS

PAGE = Path(__file__).parent / "fusion.md"
PARTS = ("Source", "Reads", "Absent", "Cost", "Use")
HEAD = """# Fusion methods

Made by `docs/make_fusion_page.py` from the docstrings of the code: change those, not this page.

Every method is built as `Method(dims, dim)`, where `dims` is `dims_of(encoders)`, and stands in for every other one.
Any modality may be absent in any sample. How they do beside each other is in [comparison.md](comparison.md), what they
cost in [speed.md](speed.md), and how to write one of your own in [your_own_fusion.md](your_own_fusion.md).

Modality *m* of *M* has a pooled vector $`x_m`$ of width $`d_m`$ and tokens $`X_m`$, *T* of them; *h* is the fused
vector, of width `dim`. $`W_m x_m`$ and the like are learned linear maps, $`[a; b]`$ puts one below the other, and
$`*`$ multiplies coordinate by coordinate. Sums and means are over what is present. `help(Method)` explains the other
symbols, says where a method deviates from its paper, and lists the arguments.
"""


def page() -> str:
    """The whole page, as Markdown."""
    methods = {name: describe(FUSIONS[name]) for name in sorted(FUSIONS)}
    lines = [HEAD, "| Method | In one line | Reads | Source |", "|---|---|---|---|"]
    for name, parts in methods.items():
        source = shorten(parts["Source"])
        lines.append(f"| [`{name}`](#{name.lower()}) | {cell(parts['summary'])} | {reads(parts)} | {cell(source)} |")
    for name, parts in methods.items():
        lines += ["", f"## {name}", "", f"`{signature(FUSIONS[name])}`", "", plain(parts["summary"])]
        lines += ["", "```math", mathematics(parts["equation"]), "```", ""]
        lines += [f"- **{part}:** {plain(parts[part])}" for part in PARTS]
        lines += [f"- **File:** [{module(name)}](../src/mmfuse/fusion/{module(name)})"]
    return "\n".join(lines) + "\n"


def describe(cls: type) -> dict[str, str]:
    """The parts of a method's docstring: summary, equation, and each of PARTS."""
    text = inspect.getdoc(cls) or ""
    found = {"summary": text.split("\n\n")[0].replace("\n", " "), "equation": equation(cls.__name__, text)}
    for part in PARTS:
        match = re.search(rf"^{part}: (.*?)(?=\n\n|\n[A-Z][a-z]+: |\nArgs:|\Z)", text, re.MULTILINE | re.DOTALL)
        if match is None:
            raise ValueError(f"The docstring of {cls.__name__} has no paragraph '{part}: ...'. Write one.")
        found[part] = " ".join(match.group(1).split())
    return found


def equation(owner: str, text: str) -> str:
    """The first block of mathematics, on one line."""
    match = re.search(r"\.\. math::(.*?)(?=\n\n(?! )|\Z)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"The docstring of {owner} has no block '.. math::'. Write the equation that defines it.")
    return " ".join(match.group(1).split())


def signature(cls: type) -> str:
    """How a method is built, without types."""
    given = []
    for name, argument in inspect.signature(cls).parameters.items():
        default = "" if argument.default is inspect.Parameter.empty else f"={argument.default!r}"
        if argument.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        given.append(name + default)
    return f"{cls.__name__}({', '.join(given)})"


def plain(text: str) -> str:
    """reStructuredText of a docstring as Markdown."""
    text = re.sub(r":math:`([^`]*)`", lambda match: f"$`{mathematics(match.group(1))}`$", text)
    text = re.sub(r":(?:class|func|meth|attr):`~?([^`]*)`", lambda match: f"`{match.group(1).split('.')[-1]}`", text)
    return text.replace("``", "`")


def mathematics(text: str) -> str:
    """The same formula without ``operatorname``, a macro that GitHub does not allow."""
    return re.sub(r"\\operatorname\*?(?=\{)", r"\\mathrm", text)


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return plain(text).replace("|", "\\|")


def reads(parts: dict[str, str]) -> str:
    """What a method reads, in a few words."""
    return parts["Reads"].split(".")[0]


def shorten(source: str) -> str:
    """Authors and year, with the link; the first author alone where there are more than three."""
    link = re.search(r"https?://\S*[\w/]", source)
    name = re.split(r'[,.;:]? ["“]|[;:] |, https?://', source)[0].rstrip(" ,.")
    if len(re.split(", | and ", name)) > 3:
        name = re.sub(r"^(.*?), .* \(", r"\1 et al. (", name)
    return f"[{name}]({link.group(0)})" if link else name


def module(name: str) -> str:
    """The file of a method."""
    return FUSIONS[name].__module__.split(".")[-1] + ".py"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
