"""In which points a run and a published table are not made in the same way."""

from dataclasses import asdict

from medretrieval.report.published.rows import Published, PublishedProtocol
from medretrieval.runs.report import RunReport
from medretrieval.track.find_runs import Run, config_of

UNKNOWN = "not known"


def protocol_of(run: Run, published: Published) -> PublishedProtocol:
    """How a run's scores came about, in the words of published tables.

    A further point is a field of `PublishedProtocol`, what a run says of it here, and a key of the files.

    Args:
        run: a finished one.
        published: what an encoder without a choice of view (pixels) is said to have.
    """
    report = run.report
    left_out = report.left_out.options if report.left_out is not None else []
    # The configuration and not the images themselves, which a run does not keep.
    size = config_of(run).get("dataset.size")
    return PublishedProtocol(
        image_size=size if isinstance(size, int) else 0,
        query_split=report.protocol.query or report.protocol.prompts or UNKNOWN,
        gallery_split=report.protocol.gallery,
        left_out=_left_out(report, left_out),
        query_images=report.corrupt or "clean",
        view=report.encoder.view or published.protocol.view,
        metric=report.metric,
        search="exact" if report.ann_loss is None else "approximate",
        adaptation=_adaptation(report),
    )


def differences(run: Run, published: Published) -> list[str]:
    """Each point in which a run differs, as a line: "image size: 64, published 28"."""
    ours, theirs = asdict(protocol_of(run, published)), asdict(published.protocol)
    lines = [
        f"{point.replace('_', ' ')}: {ours[point] or UNKNOWN}, published {theirs[point]}"
        for point in theirs
        if ours[point] != theirs[point]
    ]
    if (queries := run.report.counts.queries) != published.queries:
        lines.append(f"queries: {queries}, published {published.queries}")
    return lines


def _left_out(report: RunReport, options: list[str]) -> str:
    """What the queries of a run may not find."""
    own = ["exclude_self"] if report.protocol.query == report.protocol.gallery else []
    return ", ".join([*(own if report.protocol.exclude_self else []), *options]) or "nothing"


def _adaptation(report: RunReport) -> str:
    """What the vectors of a run were changed by."""
    if report.adapt is None:
        return "none"
    labels = "with" if report.adapt.uses_labels else "without"
    return f"{report.adapt.name}, fitted to train {labels} its labels"
