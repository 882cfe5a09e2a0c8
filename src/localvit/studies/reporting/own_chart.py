"""The chart that a study chooses: a row per variant, a line or curves over a field, or rows beside their layers."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from localvit.benchmark.look import BLUE, COLOURS, GREY, PALE, height_of_rows, label, rows_axis, style
from localvit.locality.localize import select_layers
from localvit.studies.claims import field_words, number
from localvit.studies.reporting.chart_style import add_band, add_line, error_bar, looks
from localvit.studies.statistics.findings import StudySummary, VariantSummary
from localvit.training import ModelConfig

_DEPTH = 12  # of the paper's transformers, unless the arguments say otherwise


def own_chart(summary: StudySummary) -> go.Figure:
    """The chart that the study's configuration asks for."""
    match summary.config.chart:
        case "bars":
            return _rows(summary)
        case "line":
            return _line(summary)
        case "layers":
            return _layers(summary)
        case "curves":
            return _curves(summary)


def depthwise_layers(model: ModelConfig) -> tuple[list[bool], int]:
    """Which layers have the depth-wise convolution, from input to output, and the number of layers."""
    depths = model.arguments.get("depth", model.arguments.get("depths", _DEPTH))
    depth = sum(depths) if isinstance(depths, list | tuple) else int(depths)
    if model.locality is None:  # the models of the paper have it everywhere
        return [model.name.startswith("localvit")] * depth, depth
    chosen = select_layers(model.layers, depth)
    others = model.other_layers is not None and model.other_layers.depthwise
    return [model.locality.depthwise if layer in chosen else others for layer in range(depth)], depth


def _rows(summary: StudySummary) -> go.Figure:
    figure = go.Figure()
    _add_rows(figure, summary, summary.variants)
    style(figure, height=height_of_rows(len(summary.variants)))
    figure.update_xaxes(title="test accuracy, %")
    figure.update_yaxes(**rows_axis([variant.name for variant in summary.variants]))
    figure.update_layout(showlegend=False)
    return figure


def _layers(summary: StudySummary) -> go.Figure:
    figure = make_subplots(cols=2, shared_yaxes=True, column_widths=[0.36, 0.64], horizontal_spacing=0.03)
    layers = [depthwise_layers(summary.config.variant_config(variant.name).model) for variant in summary.variants]
    deepest = max(depth for _, depth in layers)
    figure.add_heatmap(
        z=[[int(has) for has in row] + [None] * (deepest - len(row)) for row, _ in layers],
        colorscale=[[0, PALE], [1, BLUE]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=18,
        customdata=[["with" if has else "without" for has in row] + [""] * (deepest - len(row)) for row, _ in layers],
        hovertemplate="layer %{x}: %{customdata} depth-wise convolution<extra></extra>",
        row=1,
        col=1,
    )
    _add_rows(figure, summary, summary.variants, row=1, col=2)
    style(figure, height=height_of_rows(len(summary.variants)))
    figure.update_yaxes(**rows_axis([variant.name for variant in summary.variants]))
    figure.update_xaxes(title="layer", showgrid=False, dtick=1 if deepest <= 6 else None, row=1, col=1)
    figure.update_xaxes(title="test accuracy, %", row=1, col=2)
    figure.update_layout(showlegend=False)
    return figure


def _add_rows(figure: go.Figure, summary: StudySummary, variants: tuple[VariantSummary, ...], **place: int) -> None:
    """A row per variant: mean and 95 % interval, with its seeds as small dots below; a line at a single baseline."""
    config, looked = summary.config, looks(summary.config)
    single = config.baseline if isinstance(config.baseline, str) else None
    for row, variant in enumerate(variants):
        if variant.accuracy is None:
            continue
        look = looked[variant.name]
        colour = look.colour if single is None else GREY if variant.name == single else BLUE
        figure.add_scatter(
            x=list(variant.accuracies.values()),
            y=[row + 0.24] * len(variant.accuracies),
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.45},
            customdata=list(variant.accuracies),
            name=label(variant.name),
            hovertemplate="seed %{customdata}: %{x:.2f} %",
            **place,
        )
        hollow = config.baseline_of(variant.name) is None
        figure.add_scatter(
            x=[variant.accuracy.mean],
            y=[row],
            error_x=error_bar(variant.accuracy, colour),
            mode="markers",
            marker={
                "color": colour,
                "size": 13,
                "symbol": "circle-open" if hollow else "circle",
                "line": {"color": colour, "width": 2.5},
            },
            name=label(variant.name),
            hovertemplate=f"{variant.accuracy.text()} %",
            **place,
        )
    baseline = None if single is None else summary.variant(single).accuracy
    if baseline is not None:
        figure.add_vline(x=baseline.mean, line={"color": GREY, "width": 1.5, "dash": "dash"}, **place)


def _line(summary: StudySummary) -> go.Figure:
    """Accuracy over the numeric field ``axis`` of the recipe, with a band of the 95 % intervals."""
    config, figure = summary.config, go.Figure()
    axis = config.axis or ""
    values = {variant.name: number(config.variant_config(variant.name), axis) for variant in summary.variants}
    shown = [name for names in config.curves.values() for name in names] or [*config.variants]
    points = sorted(
        (value, variant.name, variant.accuracies, variant.accuracy)
        for variant in summary.variants
        if variant.name in shown and (value := values[variant.name]) is not None and variant.accuracy is not None
    )
    add_band(figure, [(x, accuracy) for x, _, _, accuracy in points], BLUE, name="95 % interval")
    seeds = [(x, name, seed, value) for x, name, accuracies, _ in points for seed, value in accuracies.items()]
    figure.add_scatter(
        x=[x for x, *_ in seeds],
        y=[value for *_, value in seeds],
        mode="markers",
        marker={"color": GREY, "size": 7, "opacity": 0.5},
        customdata=[[label(name), seed] for _, name, seed, _ in seeds],
        hovertemplate="%{customdata[0]}, seed %{customdata[1]}: %{y:.2f} %<extra></extra>",
        name="one seed",
    )
    figure.add_scatter(
        x=[x for x, *_ in points],
        y=[accuracy.mean for *_, accuracy in points],
        mode="lines+markers",
        line={"color": BLUE, "width": 2.5},
        marker={
            "size": 12,
            "symbol": ["circle-open" if config.baseline_of(name) is None else "circle" for _, name, *_ in points],
            "line": {"color": BLUE, "width": 2.5},
        },
        customdata=[[label(name), accuracy.text()] for _, name, _, accuracy in points],
        hovertemplate="%{customdata[0]}: %{customdata[1]} %<extra></extra>",
        name="mean (hollow: baseline)",
    )
    style(figure, height=440)
    figure.update_xaxes(title=field_words(axis))
    figure.update_xaxes(tickvals=sorted({x for x, *_ in points}))
    figure.update_yaxes(title="test accuracy, %")
    return figure


def _curves(summary: StudySummary) -> go.Figure:
    """Accuracy of each curve over the numeric field ``axis``, and below it the gain of locality over its control."""
    config = summary.config
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    axis = config.axis or ""
    position = {name: number(config.variant_config(name), axis) for name in config.variants}
    colours: dict[str, str] = {}
    for index, (curve, names) in enumerate(config.curves.items()):
        colour = GREY if index == 0 else COLOURS[(index - 1) % len(COLOURS)]
        colours |= dict.fromkeys(names, colour)
        accuracies = [(position[name], summary.variant(name).accuracy) for name in names]
        add_line(figure, accuracies, colour, label(curve), row=1, col=1)
    gains = [(position[name], summary.isolated.get(name)) for name in config.isolates]
    with_locality = next(iter(config.isolates), "")
    add_line(figure, gains, colours.get(with_locality, BLUE), "gain of locality", row=2, col=1)
    style(figure, height=620)
    figure.add_hline(y=0, line={"color": GREY, "width": 1.5, "dash": "dash"}, row=2, col=1)
    values = sorted({value for value in position.values() if value is not None})
    ticks = {"type": "log", "tickvals": values, "ticktext": [f"{value:g}" for value in values]}
    figure.update_xaxes(**ticks)
    figure.update_xaxes(title=field_words(axis), row=2, col=1)
    figure.update_yaxes(title="test accuracy, %", row=1, col=1)
    figure.update_yaxes(title="gain, points", row=2, col=1)
    return figure
