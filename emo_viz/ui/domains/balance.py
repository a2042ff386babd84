"""Domains page: how evenly the experts of each layer are used."""

import pandas as pd
import streamlit as st

from emo_viz.analysis import domains
from emo_viz.figures import domains as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import library
from emo_viz.ui.domains.view import View
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import share


def show(view: View) -> None:
    """Load by layer in both runs."""
    tables = {run: domains.balance(known.use, _slots(run)) for run, known in view.known.items()}
    chance = in_each(view.runs, lambda run: share(float(tables[run]["by_chance"].mean())))
    dormant = in_each(view.runs, lambda run: share(float(tables[run]["dormant"].mean())))
    view.say(
        "Loads spread around even use by "
        f"{in_each(view.runs, lambda run: f'**{share(float(tables[run].cv.mean()))}**')}.",
        f"Choices at random: {chance}. Dormant (below {share(domains.DORMANT)} of even use): "
        f"{dormant} of the experts.",
    )
    st.plotly_chart(
        sized(figures.balance(view.runs, tables)),
        key="domains_balance",
        config=CHART_CONFIG,
        alt="The spread of the loads of each layer's experts: percentiles, least and most used; "
        "the table below has the numbers.",
    )
    both = [tables[run.id].assign(run=run.label) for run in view.runs]
    rows = pd.concat(both, ignore_index=True)
    _table(rows, several=len(both) > 1)
    view.export("balance", {"Load by layer": "domains_balance"}, {"Balance": lambda: rows})
    view.explain(
        "Of each layer the coefficient of variation (CV) of its experts' loads, their standard "
        "deviation over their mean; the answer is its mean over layers."
    )
    _names()


def _slots(run: str) -> list[int] | None:
    trace = library.trace(run)
    return list(trace.manifest.model.slots) if trace.has("top_k") else None


def _table(rows: pd.DataFrame, several: bool) -> None:
    number = st.column_config.NumberColumn
    columns = {
        "run": st.column_config.TextColumn("Run"),
        "layer": number("Layer"),
        "experts": number("Experts"),
        "cv": number(
            "CV", format="%.1f %%", help="Standard deviation of the loads over their mean."
        ),
        "by_chance": number("CV by chance", format="%.1f %%", help="Of as many choices at random."),
        "gini": number("Gini", format="%.3f", help="0: all the same; 1: one expert has all."),
        "dormant": number("Dormant", format="%.1f %%", help="Share of the experts."),
        "min": number("Min / mean", format="%.2f"),
        **{f"p{p}": number(f"p{p}", format="%.2f") for p in domains.PERCENTILES},
        "max": number("Max / mean", format="%.2f"),
    }
    shown = [name for name in columns if several or name != "run"]
    percent = {name: 100 * rows[name] for name in ("cv", "by_chance", "dormant")}
    st.dataframe(
        rows.assign(**percent)[shown],
        key="domains_balance_table",
        hide_index=True,
        height="content",
        row_height=28,
        column_config=columns,
        alt="The load of the experts of each layer, in numbers.",
    )


def _names() -> None:
    with st.expander("What training frameworks call it"):
        st.markdown(
            "- **Max / mean**: the straggler of a layer under expert parallelism; DeepSeek's "
            "MaxVio is this less 1.\n"
            "- **tokens_per_expert** (Megatron-style logs): the loads before they are divided by "
            "their mean; p5 to p95 are its percentiles.\n"
            "- **load_balancing_loss** (Megatron-style logs): experts times the sum of load times "
            "mean router probability, 1 for even use. It is not shown here: it is of training "
            "batches, and rises with the squared CV of what is shown.\n"
            "- **Dormant, dead or cold experts**: those that are hardly ever chosen. These are "
            "held-out documents: an expert can be dormant here and serve what they do not hold."
        )
