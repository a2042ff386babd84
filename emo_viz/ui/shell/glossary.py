"""The words that the pages use, each explained once."""

import streamlit as st

TERMS = {
    "Layer": "One step of the model, with a router and experts of its own. Numbered from 0, as "
    "in the checkpoint; expert ids start at 0 in every layer.",
    "Routed expert": "One of the small feed-forward networks of a layer among which the router "
    "chooses for every token.",
    "Shared expert": "An expert of a layer that every token passes, whatever the router "
    "says. A layer has none, one or several: the pair shown at first has one, with weight 1; "
    "several share their weight as the model says.",
    "Router logits": "The router's raw scores, one for each routed expert; a softmax turns them "
    "into router probabilities.",
    "Gate weight": "The router probability of a chosen expert: how much of its output is used. "
    "EMO does not rescale the weights, so they sum to less than 1; some families do.",
    "Top-k": "How many experts work on one token, shared experts included.",
    "Router entropy": "How undecided the router is, in nats: 0 when one expert takes all, the "
    "logarithm of the number of routed experts when all are equally likely.",
    "Loss": "How surprised the model is by a token given those before it, in nats a token. "
    "Lower is better.",
    "Document pool": "In EMO's training, the set of experts that all tokens of one document must "
    "share.",
    "Expert subset": "The experts that stay when the others of a layer are switched off.",
    "Keep-k": "The size of an expert subset in each layer, shared experts included.",
    "Calibration documents": "The documents from which an expert subset is chosen.",
    "Held-out documents": "Documents that neither training nor calibration has seen.",
    "Domain": "Where a document comes from, as its source says: chess, medicine, code_go, ...",
    "Likelihood kept": "e to the minus of a loss increase: the share of the probability that the "
    "full model gives a token, in the geometric mean, which is left after a cut.",
    "95 % interval": "Where the number lies in 95 of 100 resamples of the documents "
    "(bootstrap). How much another training run would change it is not in it.",
    "Normalised mutual information (NMI)": "How much two groupings tell about each other, from 0 "
    "(nothing) to 1 (the same groups). Rises a little by chance with more groups.",
    "Adjusted Rand index (ARI)": "The share of pairs on which two groupings agree, corrected so "
    "that chance gives 0; 1 for the same groups.",
    "UMAP": "A map that keeps neighbours together; distances between far groups mean little.",
    "L3 E62": "Expert 62 of layer 3.",
    "EMO": "A mixture of experts trained with document pools, so that groups of experts which "
    "belong together emerge.",
    "Standard MoE": "The same architecture, data and number of tokens, trained without document "
    "pools.",
}


def popover() -> None:
    """A button that opens the definitions."""
    with st.popover("Glossary", icon=":material/menu_book:", width="stretch"):
        # One element: each is a message of its own, to every visitor of every page.
        st.markdown("\n\n".join(f"**{term}**  \n{meaning}" for term, meaning in TERMS.items()))
