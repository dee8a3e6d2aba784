"""The documents say what the code does: tables are current, commands, messages and links are valid.

Blocks with `>>>` are run by pytest itself (`--doctest-glob=*.md`). Run this file to write the
generated tables anew.
"""

import re
import shlex
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from models.events import decode_any
from models.schemas import schemas
from stream.cli.main import main
from stream.settings import settings_table

ROOT = Path(__file__).parents[1]
PACKAGES = ("stream", "agents", "models", "policies")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)
FENCE = re.compile(r"^ {0,3}```(\w*)\n(.*?)^ {0,3}```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\.\.\.|…")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for found, body in FENCE.findall(text) if found == language]


def between(name: str, text: str) -> str:
    """What stands between the markers of a generated table."""
    found = re.findall(rf"<!-- {name}:begin -->\n(.*?)\n<!-- {name}:end -->", text, re.DOTALL)
    assert len(found) == 1, f"the markers {name}:begin and {name}:end must stand there once"
    return found[0]


def commands_table() -> str:
    """One row a command, as docs/cli.md has it."""
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                rows.append(f"| `rankloop {name} {inner}` | {one.get_short_help_str(200)} |")
        else:
            rows.append(f"| `rankloop {name}` | {command.get_short_help_str(200)} |")
    return "\n".join(rows)


# Size and tables


def test_readme_has_at_most_250_lines() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250


def test_the_table_of_settings_is_current() -> None:
    text = (ROOT / "docs/configuration.md").read_text("utf-8")
    assert between("settings", text) == settings_table().strip()


def test_the_table_of_commands_is_current() -> None:
    assert between("commands", (ROOT / "docs/cli.md").read_text("utf-8")) == commands_table()


# Commands


def command_lines(text: str) -> list[str]:
    """Lines that run `rankloop`: indented by four, or in a block of shell; continuations joined."""
    shell = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    rest = FENCE.sub("", text)
    lines = [line.strip() for line in shell.splitlines()]
    lines += [line.strip() for line in rest.splitlines() if re.match(r" {4}\S", line)]
    lines = [re.sub(r"^(\w+=\S* +)+", "", line) for line in lines]  # VARIABLE=value before it
    return [line for line in lines if re.match(r"rankloop\b", line)]


def inline_commands(text: str) -> list[str]:
    """`rankloop ...` within a sentence, up to a choice (`a | b`)."""
    spans = re.findall(r"`(rankloop [^`]+)`", FENCE.sub("", text))
    return [span.split(" | ")[0] for span in spans]


def check_command(line: str, whole: bool = True) -> None:
    """Fail unless the command and its options exist. `whole`: a group alone is no command."""
    command: click.Command = main
    words = shlex.split(line, comments=True)[1:]
    while words:
        word = words.pop(0)
        if word in ("|", ">", ">>", "2>", "&", "&&", ";"):
            break
        if PLACEHOLDER.search(word):
            whole = False
        elif word.startswith("-") and word not in ("-", "--"):
            option, _, value = word.partition("=")
            known = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
            if option in ("-h", "--help"):
                whole = False
                continue
            assert option in known, f"{command.name} has no option {option}: {line}"
            parameter = known[option]
            if not (isinstance(parameter, click.Option) and parameter.is_flag) and not value:
                words[:1] = []
            whole = whole and option != "--version"
        elif isinstance(command, click.Group) and not (word.isupper() and not whole):
            assert word in command.commands, f"{command.name} has no command {word}: {line}"
            command = command.commands[word]
    assert not (whole and isinstance(command, click.Group)), f"{line} names no command"


LINES = [(name_of(p), line) for p in DOCUMENTS for line in command_lines(p.read_text("utf-8"))]
INLINE = [(name_of(p), line) for p in DOCUMENTS for line in inline_commands(p.read_text("utf-8"))]


@pytest.mark.parametrize(("document", "line"), LINES, ids=[f"{d}:{x[:50]}" for d, x in LINES])
def test_a_command_in_a_document_exists_with_its_options(document: str, line: str) -> None:
    check_command(line)


def test_commands_within_sentences_exist() -> None:
    assert len(LINES) > 20
    assert len(INLINE) > 20
    for document, line in INLINE:
        if document != "CHANGELOG.md":  # it also tells of what there was
            check_command(line, whole=False)


# Messages


def test_every_example_message_is_valid_and_every_type_has_one() -> None:
    text = (ROOT / "docs/messages.md").read_text("utf-8")
    lines = "".join(blocks(text, "json")).splitlines()
    kinds = {type(decode_any(line.encode())).__name__.lower() for line in lines}
    assert kinds == set(schemas())


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a document, by GitHub's rule, and those of `<a id="...">`."""
    found = set(re.findall(r"""<a\s+(?:id|name)=["']([^"']+)["']""", text))
    count: Counter[str] = Counter()
    for heading in re.findall(r"^ {0,3}#{1,6} +(.*?)(?: +#+)? *$", FENCE.sub("", text), re.M):
        plain = re.sub(r"<[^>]+>", "", heading)  # an <a id> within it
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)  # a link's text
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{count[slug]}" if count[slug] else slug)
        count[slug] += 1
    return found


def links(text: str) -> list[str]:
    """Where a document's links and pictures point, outside code."""
    prose = re.sub(r"(`+).*?\1", "", FENCE.sub("", text))
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", prose)
    found += re.findall(r"^ {0,3}\[[^\]]+\]: +(\S+)", prose, re.M)
    found += re.findall(r"""<(?:a|img)\s[^>]*(?:href|src)=["']([^"']+)""", prose)
    return found


def broken(path: Path) -> list[str]:
    """Relative links of a document that lead nowhere."""
    wrong: list[str] = []
    for link in links(path.read_text("utf-8")):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # another site's
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or ROOT not in (target, *target.parents):
            wrong.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
            wrong.append(f"{link}: no such anchor")
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_and_anchor_resolves(path: Path) -> None:
    assert broken(path) == []


def test_anchors_follow_githubs_rule() -> None:
    text = "# A `Slot`, and *k*!\n## Twice\n## Twice\n```\n# no\n```\n## 开始：一步\n<a id='l1'>"
    assert anchors(text) == {"a-slot-and-k", "twice", "twice-1", "开始一步", "l1"}


def test_readme_links_to_every_document() -> None:
    for name in ("README.md", "README.zh.md"):
        targets = {link.partition("#")[0] for link in links((ROOT / name).read_text("utf-8"))}
        assert {name_of(path) for path in ROOT.glob("docs/*.md")} <= targets, name


def test_every_make_target_in_a_document_exists() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony
    named = {
        word
        for path in DOCUMENTS
        if path.name != "CHANGELOG.md"
        for words in re.findall(r"(?:^ {4}|`|^|&& )make ([^`#\n]*)", path.read_text("utf-8"), re.M)
        for word in words.partition("ARGS")[0].split()
        if re.fullmatch(r"[a-z][a-z-]*", word)
    }
    assert {"demo", "test", "install"} <= named
    assert named <= set(phony[1].split())


# The rules of the logs


def sources(*folders: str) -> list[Path]:
    """The Python files of folders, this one left out."""
    here = Path(__file__).resolve()
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in found if path.resolve() != here]


def test_every_rule_that_code_names_has_an_anchor_in_the_design() -> None:
    named = {
        f"l{number}"
        for path in sources(*PACKAGES)
        for number in re.findall(r"\bL([1-9]|1[0-2])\b", path.read_text("utf-8"))
    }
    assert named
    assert named <= anchors((ROOT / "docs/design.md").read_text("utf-8"))


def test_no_code_points_to_sections_of_a_design_that_is_not_here() -> None:
    old = "DESIGN " + "section"
    assert [name_of(p) for p in sources(*PACKAGES, "tests") if old in p.read_text("utf-8")] == []


def write_tables() -> None:
    """Put the tables of the code into the documents that show them."""
    for name, document, table in (
        ("settings", "configuration", settings_table().strip()),
        ("commands", "cli", commands_table()),
    ):
        path = ROOT / "docs" / f"{document}.md"
        text = path.read_text()
        path.write_text(text.replace(between(name, text), table))


if __name__ == "__main__":
    write_tables()
