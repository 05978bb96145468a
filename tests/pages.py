"""The pages that are read as files and as a site: their code blocks, commands, links and headings."""

import re
import shlex
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
OPTIONS = {"--config-dir": 2, "--cfg": 2, "--multirun": 1, "-m": 1}  # of Hydra: words that each takes


class Page:
    """A Markdown file.

    Attributes:
        path: the file.
        name: its path in the repository.
        text: its content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(REPOSITORY).as_posix()
        self.text = path.read_text()

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of each code block."""
        return FENCE.findall(self.text)

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return FENCE.sub("", self.text)

    @property
    def commands(self) -> list[str]:
        """Every command line of ours: lines of code blocks, and code within the prose."""
        lines = [
            line for language, text in self.blocks if language in ("bash", "") for line in text.splitlines()
        ]
        lines += [" ".join(code.split()) for code in INLINE.findall(self.prose)]
        return [line for line in lines if line.startswith("medretrieval ")]

    @property
    def links(self) -> list[str]:
        """Targets of links and images that are not on another site."""
        return [target for target in LINK.findall(self.prose) if not re.match(r"\w+:", target)]

    @property
    def anchors(self) -> set[str]:
        """Of its headings, as GitHub and the site make them."""
        return {anchor(heading) for heading in HEADING.findall(self.prose)}


def anchor(heading: str) -> str:
    """What a heading is linked by: small letters, no punctuation, dashes for spaces."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def words(command: str) -> list[str]:
    """The words of a command line after `medretrieval`, without its comment and Hydra's options.

    <what is to be filled in> becomes a word, and "..." is left out.
    """
    filled = re.sub(r"<[\w ]+>", "x", command)
    left = [word for word in shlex.split(filled, comments=True)[1:] if word != "..."]
    for option, length in OPTIONS.items():
        if option in left:
            begin = left.index(option)
            del left[begin : begin + length]
    return left


def overrides(command: str) -> list[str]:
    """The key=value words of a command line."""
    return [word for word in words(command) if "=" in word]
