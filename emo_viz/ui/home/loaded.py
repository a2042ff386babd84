"""Home: which models and documents are loaded."""

import pandas as pd
import streamlit as st

from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.kept import kept
from emo_viz.server import assets, catalogue, commands, library
from emo_viz.ui.parts import export
from emo_viz.ui.shell import missing, routes
from emo_viz.ui.shell.words import compact, count, escape_markdown

Row = dict[str, object]


def models(runs: Comparison) -> None:
    """What each model is, as a table to take along."""
    rows, numbers = list[Row](), list[Row]()
    for run in runs:
        try:
            facts = assets.model_facts(run)
        except FileNotFoundError:
            continue
        except ValueError as error:
            if (model := catalogue.entry(run).model) and not library.is_emo(run.id):
                rows.append(_row_of_another_family(run, model))
                numbers.append(_another_in_numbers(run, model))
                continue
            st.error(escape_markdown(str(error)), icon=":material/error:")
            continue
        rows.append(_row(facts))
        numbers.append(_in_numbers(facts))
    if rows:
        st.table(_table(rows))
        tables = {"Models": lambda: pd.DataFrame(numbers).convert_dtypes()}
        export.offer("models", runs, tables=tables, apart={routes.HOME_SEEN})
    else:
        st.write("No checkpoint is here.")
        missing.mend(commands.train(runs.ids) or commands.TRAIN)


@kept
def _table(rows: list[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows).set_index("Model").astype({"Layers": "Int64"})
    return table.astype({"Hidden size": "Int64"}) if "Hidden size" in table else table


def _in_numbers(facts: assets.ModelFacts) -> Row:
    """The same to take home: routed and shared experts apart."""
    trained, shared = facts.tokens_trained, facts.num_shared_experts
    return {
        "Model": facts.label,
        "Layers": facts.num_layers,
        "Routed experts a layer": export.number(facts.experts_in_words(shared)),
        "Routed experts a token": facts.num_experts_per_tok - shared,
        "Shared experts a layer": shared,
        "Hidden size": facts.hidden_size,
        "Parameters": facts.parameters,
        "Tokens trained on": trained,
    }


def _row(facts: assets.ModelFacts) -> Row:
    trained, shared = facts.tokens_trained, facts.num_shared_experts
    return {
        "Model": facts.label,
        "Layers": facts.num_layers,
        "Experts a layer": f"{facts.experts_in_words(shared)} routed + {shared} shared",
        "Experts a token": f"{facts.num_experts_per_tok - shared} routed + {shared} shared",
        "Hidden size": facts.hidden_size,
        "Parameters": compact(facts.parameters),
        "Tokens trained on": "not recorded" if trained is None else compact(trained),
    }


def _row_of_another_family(run: Run, model: catalogue.Model) -> Row:
    """As far as its config says what EMO's own say."""
    return {
        "Model": run.label,
        "Layers": model.layers,
        "Experts a layer": model.experts or None,
        "Experts a token": None if model.top_k is None else str(model.top_k),
        "Parameters": compact(model.parameters),
    }


def _another_in_numbers(run: Run, model: catalogue.Model) -> Row:
    experts = {"Experts a layer": export.number(model.experts), "Experts a token": model.top_k}
    return _row_of_another_family(run, model) | experts | {"Parameters": model.parameters}


def texts(runs: Comparison) -> None:
    """How many documents there are and whose, in a line."""
    path = assets.documents_path(runs.ids)
    if not path.exists():
        st.write("No documents are here.")
        missing.mend(commands.documents(path))
        return
    found = library.documents(runs.ids)
    st.caption(
        f"{library.whose_documents()} held-out documents: {count(len(found), 'document')} of "
        f"{count(found['domain'].nunique(), 'domain')}{_recorded_tokens(runs)}, with their "
        f"licences in ATTRIBUTION.md beside them.{_cut(found)}"
    )


def _cut(texts: pd.DataFrame) -> str:
    """How many texts are not here as a whole."""
    cut = int((texts["cut_tokens"] > 0).sum()) if "cut_tokens" in texts else 0
    words = f" Of {count(cut, 'longer text')} only the beginning is here, as much as fits the "
    return f"{words}models' context." if cut else ""


def _recorded_tokens(runs: Comparison) -> str:
    try:
        tokens = library.trace(runs.first.id).manifest.tokens
    except library.Missing:
        return ""
    return f", {count(tokens, 'token')}"
