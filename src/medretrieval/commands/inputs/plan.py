"""The verb `plan`: what size of difference the queries can show, before more is run."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.commands.parts.named_runs import chosen_run
from medretrieval.commands.words import JSON, OUTPUTS, URI, Given, Option, Verb, one_run

if TYPE_CHECKING:
    from medretrieval.describe.plan import Plan, Question
    from medretrieval.track.find_runs import Run


def _run(given: Given) -> int:
    from medretrieval.describe.plan import Question
    from medretrieval.runs.typed_json import to_json

    _require_sense(given)
    question = Question(given.delta, given.power, given.comparisons, given.score, given.assumed)
    with tempfile.TemporaryDirectory() as aside:
        runs = _runs(given, Path(aside))
        plan = _planned(given, runs, question)
        if given.json:
            named = [str(run.folder) for run in runs] + [None, None]
            print(
                json.dumps({"run": named[0], "versus": named[1]} | to_json(plan), indent=2, allow_nan=False)
            )
        else:
            print("\n".join(_lines(plan)))
    return 0


def _require_sense(given: Given) -> None:
    if given.delta is not None and not 0 < given.delta < 1:
        raise VERB.refusal(f"delta={given.delta:g}: give a number above 0 and below 1, such as 0.02")
    if given.versus and not given.run:
        raise VERB.refusal(f"versus={given.versus}: is compared with a run; give run=<run> too")
    if given.run and given.assumed is not None:
        raise VERB.refusal(
            f"assumed={given.assumed:g}: is of a simulation, and with run= scores are measured; "
            "give one of them"
        )


def _runs(given: Given, aside: Path) -> "list[Run]":
    from medretrieval.track.find_runs import load_run

    words = [word for word in (given.run, given.versus) if word]
    found = []
    for number, word in enumerate(words):
        place = aside / str(number)
        place.mkdir()
        given.run = word
        folder = chosen_run(given, place).folder
        found.append(load_run(folder, str(folder)))
    return found


def _planned(given: Given, runs: "list[Run]", question: "Question") -> "Plan":
    from medretrieval.commands.parts.run_words import settings_of
    from medretrieval.describe.plan import from_runs, from_settings, require_same

    if not runs:
        return from_settings(settings_of(given.words), question)
    if given.words:
        settings = settings_of(given.words)
        require_same(runs[0], settings)
        if question.score is None and settings.evaluation.objective is not None:
            question = replace(question, score=settings.evaluation.objective)
    return from_runs(runs, question)


def _lines(plan: "Plan") -> list[str]:
    from medretrieval.describe.plan import verdict
    from medretrieval.runs.tables import table

    head = "assumed" if plan.simulated else "measured"
    header = ["standing on", "correlation", "standard error", "smallest difference"]
    rows = [
        [
            case.about,
            "-" if case.correlation is None else f"{case.correlation:.2f}",
            f"{case.error:.4f}",
            f"{case.smallest:.4f}",
        ]
        for case in plan.cases
    ]
    if plan.delta is not None:
        header += [f"power at {plan.delta:g}", f"{plan.kind} for {plan.delta:g}"]
        for row, case in zip(rows, plan.cases, strict=True):
            row += [f"{100 * (case.power_at_delta or 0):.0f} %", str(case.units_for_delta)]
    return [
        f"{plan.score} on {plan.dataset}: {plan.value:.4f} ({head}), {plan.units:,} {plan.kind}",
        "",
        *table(header, rows, ("standing on",)),
        "",
        verdict(plan),
        *plan.notes,
    ]


VERB = Verb(
    "plan",
    usage=(
        "<words of a run> [delta=<difference>] [key=value ...]",
        "<run> [versus=<run>] [delta=<difference>] [key=value ...]",
    ),
    options=(
        replace(one_run(), needed=False, unset="none: scores are simulated from the dataset's labels"),
        Option(
            "versus",
            "a second run over the same queries, so that the spread of the difference is measured; named as "
            "run= is",
            "<run>",
            unset="none: a range of assumptions",
        ),
        Option(
            "delta",
            "the difference of the score that is to be shown, above 0 and below 1",
            "<difference>",
            float,
            most=1,
            unset="none: only the smallest one is said",
        ),
        Option(
            "power", "in how many studies it is to be shown", "<p>", float, least=0.5, most=0.999, default=0.8
        ),
        Option("comparisons", "that will be made and corrected together", "<n>", int, least=1, default=1),
        Option(
            "score", "the score; macro_<score> for the mean over classes", "<score>", unset="the objective"
        ),
        Option(
            "assumed",
            "of a simulation: the mean score",
            "<score>",
            float,
            most=1,
            unset="halfway between a random ranking and 1",
        ),
        URI,
        OUTPUTS,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval plan dataset=pneumoniamnist delta=0.02",
        "medretrieval plan latest delta=0.02",
        "medretrieval plan run=outputs/runs/first versus=outputs/runs/second delta=0.02 comparisons=4",
    ),
    composes=True,
    note="of these dataset, protocol, evaluation, seed and paths.data count; with run= dataset and protocol "
    "must be those of the run. Data that is not here is downloaded, as by a run.",
)
