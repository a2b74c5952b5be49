"""Every code block of the README and of docs/ runs."""

import re
import shutil
from pathlib import Path

import pytest
from tiny_data import write_rows

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = {page: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES}
BLOCKS = [
    pytest.param(page, code, id=f"{page.name}-{number}")
    for page, codes in CODE.items()
    for number, code in enumerate(codes)
]


@pytest.mark.plain
@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_a_code_block_runs(page, code, tmp_path, monkeypatch):
    if code.startswith("# not run: needs the network"):
        compile(code, "block", "exec")
        for name in re.findall(r"^(\w+)\.from_pretrained", code, re.MULTILINE):
            import mmfuse.encoders

            assert hasattr(getattr(mmfuse.encoders, name), "from_pretrained")
        return
    table = write_rows(tmp_path, rows=30, name="posts.csv")
    table.write_text(table.read_text().replace("kind,size", "mood,age"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for other in CODE[page]:
        if name := re.match(r"# file: (\S+)\n", other):  # the page says that it is a file, for the blocks below
            Path(name.group(1)).write_text(other)

    exec(compile(code, "block", "exec"), {"__name__": "block"})


def test_the_first_example_needs_both_sides(capsys):
    code = BLOCKS[0].values[1]

    exec(compile(code, "block", "exec"), {"__name__": "block"})

    both, hidden = (float(line.split(":")[1]) for line in capsys.readouterr().out.strip().splitlines())
    assert both > 0.95
    assert hidden < 0.7


@pytest.mark.plain
def test_every_file_that_the_pages_name_exists():
    for page in PAGES:
        for target in re.findall(
            r"\]\((?!http)([^)#]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        ):
            assert (page.parent / target).exists(), f"{page.name} names {target}"


def test_the_tree_of_the_readme_is_the_tree():
    block = (ROOT / "README.md").read_text().split("src/mmfuse/\n")[1].split("```")[0]
    named = {line.split()[0].rstrip("/") for line in block.splitlines() if line.startswith("  ")}
    there = {path.name for path in (ROOT / "src" / "mmfuse").iterdir() if not path.name.startswith(("_", "py."))}
    assert named == there
    assert shutil.which("make")
