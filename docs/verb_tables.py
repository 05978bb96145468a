"""Write what is known of each verb into Markdown files, between two markers, from the tables of verbs.

`python docs/verb_tables.py docs/verbs.md` rewrites what stands between `<!-- verbs:begin -->` and
`<!-- verbs:end -->`.
"""

import sys
from pathlib import Path

from medretrieval.commands import VERBS, verb
from medretrieval.commands.words import ANY_KEY, IN_CONFIG, Option, Verb
from medretrieval.evaluate.score_docs import rewrite


def verb_sections() -> str:
    """A section for each verb: usage, options, keys of a configuration, examples."""
    return "\n".join(_section(verb(name)) for name in VERBS)


def _section(verb: Verb) -> str:
    usage = "\n".join(f"medretrieval {verb.name} {line}" for line in verb.usage)
    meaning = VERBS[verb.name]
    parts = [
        f"## {verb.name}\n",
        f"{meaning[0].upper()}{meaning[1:]}.\n",
        f"```text\n{usage}\n```\n",
        _options(verb),
        *([f"{_keys(verb)}\n"] if verb.overrides else []),
        *([f"{_composed(verb)}\n"] if verb.composes else []),
        "```bash\n" + "\n".join(verb.examples) + "\n```\n",
    ]
    return "\n".join(parts)


def _options(verb: Verb) -> str:
    rows = [["option", "meaning", "value", "default"], ["---"] * 4]
    rows += [[f"`{o.key}`", _text(o.meaning), _value(o), _default(o)] for o in verb.options]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _text(words: str) -> str:
    """Words in which Markdown sees no tag and no border of a table."""
    return words.replace("<", "&lt;").replace("|", "&#124;")


def _value(option: Option) -> str:
    if option.switch:
        return "none"
    if option.allowed:
        return ", ".join(f"`{value}`" for value in option.allowed)
    if option.type not in (int, float):
        return f"`{option.value}`"
    limits = f"{option.least:g} or more" if option.most is None else f"{option.least:g} to {option.most:g}"
    return f"a {'whole ' if option.type is int else ''}number, {limits}"


def _default(option: Option) -> str:
    if option.needed:
        return "(needed)"
    return _text(option.unset) if option.default is None else f"`{option.default}`"


def _keys(verb: Verb) -> str:
    """Keys of a run's configuration that a verb takes."""
    same = " and ".join(
        f"`{key}=` is the same as `{name}=`"
        for name, key in IN_CONFIG.items()
        if any(option.name == name for option in verb.options)
    )
    if ANY_KEY in verb.overrides:
        return f"Any key of the run's configuration can be given too; {same}."
    keys = ", ".join(f"`{key}`" for key in sorted(verb.overrides))
    return f"Of the run's configuration it takes {keys}; {same}."


def _composed(verb: Verb) -> str:
    """What a verb takes that composes a run's configuration."""
    return "It takes the words of a run too (`dataset=`, `seed=`, `--config-dir <folder>`, ...)" + (
        f"; {verb.note}" if verb.note else "."
    )


TABLES = {"verbs": verb_sections}


def main(paths: list[str]) -> None:
    """Rewrite pages, and name those that changed."""
    for path in paths:
        if rewrite(Path(path), TABLES):
            print(f"{path}: verbs written")


if __name__ == "__main__":
    main(sys.argv[1:])
