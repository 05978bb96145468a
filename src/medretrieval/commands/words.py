"""The words of a verb: one table of options a verb, read by argparse, with the same refusals everywhere.

This program is spoken to in key=value, as Hydra is; argparse gets the same words as --key=value.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.commands import VERBS
from medretrieval.errors import UserError, choices, suggestion

# An attribute for each option, `overrides` of a saved run's configuration, and `words` of a run.
Given = argparse.Namespace
# What a verb's own option is called in the configuration of a run.
IN_CONFIG = {"outputs": "paths.outputs", "uri": "tracking.uri"}
ANY_KEY = "*"  # in Verb.overrides: every key of a run's configuration
# Options of a run that say where its configuration is; each has a value.
CONFIG_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
OTHER_KEYS = ("experiments", "hydra")  # of a run's words, that are no part of its configuration
MAX_SHOWN_CHARACTERS = 200  # of a word in a refusal
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Option:
    """A key that a verb knows: `k` is given as k=5, `--json` as it stands.

    Attributes:
        name: the key; with dashes before it where no = follows.
        meaning: what it does, for --help.
        value: what stands for the value in --help, such as "<file>".
        type: str, Path, int, float or bool; a bool with dashes is a switch.
        choices: the values it may have, where these are few.
        least: of a number.
        most: of a number; None for no limit.
        default: taken where it is not given; None where `unset` says what happens then.
        unset: the same in words.
        needed: whether the verb cannot do without it.
        many: whether it may be given several times; its value is a list.
        formerly: its name in earlier versions, which is refused with the new one.
    """

    name: str
    meaning: str
    value: str = ""
    type: type = str
    choices: tuple[str, ...] = ()
    least: float = 0
    most: float | None = None
    default: str | int | float | None = None
    unset: str = ""
    needed: bool = False
    many: bool = False
    formerly: str = ""

    @property
    def dashed(self) -> bool:
        """Whether it is given without a =."""
        return self.name.startswith("--")

    @property
    def switch(self) -> bool:
        """Whether it takes no value."""
        return self.dashed and self.type is bool

    @property
    def key(self) -> str:
        """Its name as refusals and --help show it."""
        return self.name if self.dashed else f"{self.name}="

    @property
    def allowed(self) -> tuple[str, ...]:
        """The values it may have; empty where these are not few."""
        return ("true", "false") if self.type is bool else self.choices

    def read(self, text: str) -> Any:
        """The value that a word says.

        Raises:
            argparse.ArgumentTypeError: it says none, with the word and what is wanted.
        """
        wanted = self._complaint(text)
        if wanted is not None:
            raise argparse.ArgumentTypeError(f"{shown(text)}: {wanted}")
        if self.type is bool:
            return text == "true"
        return Path(text).expanduser() if self.type is Path else self.type(text)

    def _complaint(self, text: str) -> str | None:
        if not text.strip():
            return "give a value"
        if self.allowed:
            return None if text in self.allowed else suggestion(text, self.allowed) + choices(self.allowed)
        if self.type not in (int, float):
            return None
        pattern = re.compile(r"\d{1,15}", re.ASCII) if self.type is int else NUMBER
        if pattern.fullmatch(text) and self._within(float(text)):
            return None
        limits = f", {self.least:g} or more" if self.most is None else f", {self.least:g} to {self.most:g}"
        return f"give a {'whole ' if self.type is int else ''}number{limits}"

    def _within(self, number: float) -> bool:
        return self.least <= number <= (sys.float_info.max if self.most is None else self.most)


SHORT_IDS = "Of an id or a folder's name the beginning is enough, 4 characters or more, where no other has it"


def one_run(of_a_sweep: str = "of several runs the best is taken") -> Option:
    """The option of a verb that takes one run."""
    return Option(
        "run",
        "a run's folder, its manifest.json or its MLflow run id; latest, the run that finished last; or a "
        f"sweep (its id or folder), a folder of runs or an MLflow experiment: {of_a_sweep}. {SHORT_IDS}. The "
        "word alone, without run=, is enough",
        "<run>",
        needed=True,
    )


RUNS = Option(
    "run",
    "a run's folder, its manifest.json or its MLflow run id; a sweep (its id or folder), a folder of runs or "
    "an MLflow experiment: all its runs; latest: the sweep of the run that finished last, or that run where "
    f"it is of no sweep. {SHORT_IDS}. May be given several times; the words alone, without run=, are enough",
    "<run>",
    needed=True,
    many=True,
)
OUTPUTS = Option("outputs", "the folder that holds runs and sweeps", "<folder>", Path, default="outputs")
URI = Option("uri", "MLflow's store", "<uri>", unset="MLFLOW_TRACKING_URI, or sqlite:///<outputs>/mlflow.db")
CONFIG_DIR = Option(
    "--config-dir",
    "a folder of your own configuration: classes of the modules that it names are used where the run names "
    "them; a run's folder alone has no code run but this program's",
    "<folder>",
    Path,
    unset="none",
)
UNVERIFIED = Option(
    "--unverified",
    "use a run whose files are not those that it wrote (by the SHA-256 in its manifest.json)",
    type=bool,
    unset="such a run is refused",
)
JSON = Option("--json", "write JSON, and nothing else, to stdout", type=bool, unset="readable text")


def _as_it_is() -> AbstractContextManager[None]:
    """A block in which runs are used although their files are not those that they wrote."""
    from medretrieval.runs.saved.seal import unverified

    return unverified()


def track(what: str, formerly: str = "") -> Option:
    """The option of a verb that logs what it makes."""
    meaning = f"log {what} with the tracker of its runs, or to MLflow where they have none"
    return Option("track", meaning, "true|false", bool, default="false", formerly=formerly)


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        name: as in `VERBS`.
        usage: what follows the name, a line for each way to use it.
        options: its own.
        run: does it, given the options' values; returns the exit code.
        examples: whole command lines.
        bare: the option that a word without a = is the value of; None where there is none.
        overrides: keys of a run's configuration that it takes too: "device", "encoder.*", or ANY_KEY. Those
            of IN_CONFIG come with the options they are other names of.
        composes: whether its other words are those of a run, which Hydra reads: they are kept as they stand.
        note: what of these words counts, where it composes.
    """

    name: str
    usage: tuple[str, ...]
    options: tuple[Option, ...]
    run: Callable[[Given], int]
    examples: tuple[str, ...]
    bare: str | None = "run"
    overrides: tuple[str, ...] = ()
    composes: bool = False
    note: str = ""

    def main(self, arguments: Sequence[str]) -> int:
        """Do what the words say, or print the help where -h or --help is among them; returns the exit code.

        Raises:
            UserError: words that cannot be meant, and whatever the verb refuses.
        """
        if "-h" in arguments or "--help" in arguments:
            print(self.help())
            return 0
        from medretrieval.commands.parts.own_code import trusting_words

        given = self.parse(arguments)
        trusted = trusting_words(getattr(given, "config_dir", None), [*given.overrides, *given.words])
        with trusted, _as_it_is() if getattr(given, "unverified", False) else nullcontext():
            return self.run(given)

    def parse(self, arguments: Sequence[str]) -> Given:
        """The values of the options, overrides of a saved configuration as "key=value", and a run's words.

        Raises:
            UserError: a word that is unknown, given twice or empty, a value that cannot be meant, or an
                option that is needed and missing.
        """
        words: dict[str, list[str]] = {}
        overrides: dict[str, str] = {}
        arguments, of_a_run = self._divided(arguments)
        for key, value in self._pairs(arguments):
            option = self._named(key)
            if option is None:
                if key in overrides:
                    raise self._twice(f"{key}={value}", f"{key}=")
                overrides[key] = value
            elif key in words and not option.many:
                raise self._twice(option.name if option.switch else f"{key}={value}", option.key)
            else:
                words.setdefault(key, []).append(value)
        overrides = self._merged(words, overrides)
        given = self._values(words)
        given.overrides = tuple(f"{key}={value}" for key, value in overrides.items())
        given.words = tuple(of_a_run)
        for option in self.options:
            if option.needed and option.name not in words:
                usage = f"medretrieval {self.name} {self.usage[0]}"
                raise UserError(f"{self.name}: {option.key} is missing; {usage} (see --help)")
        return given

    def help(self) -> str:
        """The text of --help."""
        return self._parser().format_help().rstrip()

    def refusal(self, what: str) -> UserError:
        """An error of this verb's words."""
        return UserError(f"{self.name}: {what}")

    def _named(self, key: str) -> Option | None:
        return next((option for option in self.options if option.name == key), None)

    def _divided(self, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
        """This verb's own words, and those of a run, which it takes where it composes one."""
        if not self.composes:
            return list(arguments), []
        own: list[str] = []
        of_a_run: list[str] = []
        rest = iter(arguments)
        for word in rest:
            key, equals, _ = word.partition("=")
            if key in CONFIG_OPTIONS:
                value = [] if equals else [next(rest, "")]
                if value == [""]:
                    raise self.refusal(f"{key}: give a value")
                of_a_run += [word, *value]
            elif self._named(key) is None and key not in self._other_names() and _is_of_a_run(word):
                of_a_run.append(word)
            else:
                own.append(word)
        return own, of_a_run

    def _pairs(self, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each word as a key and its value; a word without a = is the value of the option `bare`."""
        rest = iter(arguments)
        for word in rest:
            key, equals, value = word.partition("=")
            option = self._named(key)
            if option is not None and option.switch:
                if equals:
                    raise self.refusal(f"{shown(word)}: takes no value")
                yield key, ""
            elif option is not None and (equals or option.dashed):
                yield key, value if equals else next(rest, "")
            elif equals and self._overrides(key):
                if not value.strip():
                    raise self.refusal(f"{shown(word)}: give a value")
                yield key, value
            # A folder may have a = in its name.
            elif word.startswith("-") or (equals and not os.path.exists(word)):
                raise self._unknown(word, key)
            elif self.bare is None:
                raise self.refusal(
                    f"{shown(word)}: not key=value; {choices([option.name for option in self.options])}, or "
                    "a word of a run, such as dataset=pneumoniamnist"
                )
            else:
                yield self.bare, word

    def _overrides(self, key: str) -> bool:
        """Whether a key is one of the run's configuration that this verb takes."""
        if key in self._other_names():
            return True
        if ANY_KEY in self.overrides:
            return key.split(".")[0] in _config_keys()
        ends = tuple(pattern.removesuffix("*") for pattern in self.overrides if pattern.endswith(".*"))
        return key in self.overrides or key.startswith(ends)

    def _other_names(self) -> dict[str, str]:
        """Keys of the configuration that this verb has an option for, each with the option's name."""
        if not self.overrides and not self.composes:
            return {}
        return {key: name for name, key in IN_CONFIG.items() if self._named(name) is not None}

    def _merged(self, words: dict[str, list[str]], overrides: dict[str, str]) -> dict[str, str]:
        """One value where an option and a key of the configuration mean the same, in both."""
        for key, name in self._other_names().items():
            said = words.get(name, [None])[0]
            also = overrides.get(key, said)
            if said is not None and also != said:
                raise self.refusal(
                    f"{name}={said} and {key}={also}: two names for the same setting; give one of them"
                )
            if also is not None:
                words[name] = [also]
                overrides = {**overrides, key: also}
        return overrides

    def _values(self, words: Mapping[str, Sequence[str]]) -> Given:
        # The second = keeps argparse from taking a value such as -- for a word of its own.
        lines = [
            _dashed(name) if self._is_switch(name) else f"{_dashed(name)}=={value}"
            for name, values in words.items()
            for value in values
        ]
        try:
            return self._parser().parse_args(lines)
        except argparse.ArgumentError as error:
            key = next(o.name for o in self.options if _dashed(o.name) == error.argument_name)
            raise self.refusal(f"{key}={error.message}") from error

    def _is_switch(self, name: str) -> bool:
        option = self._named(name)
        return option is not None and option.switch

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            usage="\n       ".join(f"medretrieval {self.name} {line}" for line in self.usage),
            description=VERBS[self.name],
            epilog=self._epilog(),
            formatter_class=_Help,
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
        )
        for option in self.options:
            _add(parser, option)
        return parser

    def _epilog(self) -> str:
        lines = ["examples:" if len(self.examples) > 1 else "example:", *(f"  {e}" for e in self.examples)]
        if self.overrides:
            keys = ["any key"] if ANY_KEY in self.overrides else sorted(self.overrides)
            same = ", ".join(f"{key}= is {name}=" for key, name in self._other_names().items())
            lines = [f"also keys of the run's configuration: {'  '.join(keys)}", f"({same})", "", *lines]
        if self.composes:
            said = "also the words of a run: dataset=  seed=  --config-dir <folder>  ..."
            lines = [said, *([self.note] if self.note else []), "", *lines]
        return "\n".join(lines)

    def _twice(self, word: str, key: str) -> UserError:
        return self.refusal(f"{shown(word)}: {key} is given twice; give it once")

    def _unknown(self, word: str, key: str) -> UserError:
        for option in self.options:
            if option.formerly == key:
                return self.refusal(f"{shown(word)}: {key}= is now called {option.key}")
        names = [option.name for option in self.options]
        any_key = self.composes or ANY_KEY in self.overrides
        keys = sorted(_config_keys()) if any_key else list(self.overrides)
        meant = {other: name for name, other in IN_CONFIG.items() if name in names}.get(key)
        hint = f"did you mean {meant}? " if meant else suggestion(key, [*names, *keys])
        if any_key:
            said = f"{choices(names)}, or a key of the run's configuration"
        else:
            said = choices([*names, *keys])
        return self.refusal(f"{shown(word)}: no such key; {hint}{said}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options as this program spells them."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return str(action.metavar or action.option_strings[0])


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    said = f"default: {option.default if option.default is not None else option.unset}"
    about = f"{option.meaning} ({'needed' if option.needed else said})".replace("%", "%%")
    name, dest = _dashed(option.name), re.sub(r"\W", "_", option.name.strip("-"))
    if option.switch:
        parser.add_argument(name, dest=dest, action="store_true", help=about)
        return
    value = option.value or "|".join(option.allowed)
    parser.add_argument(
        name,
        dest=dest,
        action="append" if option.many else "store",
        type=lambda text: option.read(text.removeprefix("=")),
        default=[] if option.many else option.default,
        metavar=f"{option.name} {value}" if option.dashed else f"{option.name}={value}",
        help=about,
    )


def _dashed(name: str) -> str:
    return f"--{name.strip('-')}"


def _config_keys() -> set[str]:
    """First parts of the keys of a run's configuration, with those of earlier versions."""
    from dataclasses import fields

    from medretrieval.config import RENAMED, Config

    return {field.name for field in fields(Config)} | {old.split(".")[0] for old in RENAMED}


def _is_of_a_run(word: str) -> bool:
    """Whether a word is one of Hydra's for a key that a run has: key=, +key=, ~key, group@package=."""
    key, equals, _ = word.partition("=")
    removes = key.startswith("~")
    first = re.split(r"[.@/]", key.lstrip("+~"))[0]
    return bool(equals or removes) and first in _config_keys().union(OTHER_KEYS)


def shown(word: str) -> str:
    """A word in one line, shortened where it is long."""
    line = " ".join(word.split())
    return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[: MAX_SHOWN_CHARACTERS - 3]}..."


def picture_path(verb: str, out: str) -> Path:
    """Where a picture goes.

    Raises:
        UserError: no .png, or a folder that is not there.
    """
    path = Path(out).expanduser()
    if path.suffix.lower() != ".png":
        raise UserError(f"{verb}: out={out}: give a name that ends in .png, or none")
    if not path.parent.is_dir():
        raise UserError(f"{verb}: out={out}: there is no folder {path.parent}")
    return path
