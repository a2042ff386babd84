"""Every address: the file of each page, and each name that stands in an address, once.

A name is also the key under which its value is kept in the session, where nothing else is said.
"""

HOME = "app.py"
ROUTING = "pages/1_Token_routing.py"
CLUSTERS = "pages/2_Document_clusters.py"
ABLATION = "pages/3_Subset_ablation.py"
KERNEL = "pages/4_Kernel.py"
LIBRARY = "pages/6_Library.py"
DIFFERENCE = "pages/7_Routing_difference.py"
SEARCH = "pages/10_Search.py"
TRAINING = "pages/11_Training.py"
EXPERTS = "pages/8_Experts.py"
DOMAINS = "pages/9_Domains.py"

SLOT_A, SLOT_B = "a", "b"  # the runs that all pages show
NO_RUN = "none"  # in place of the second one

TOUR = "tour"  # the step of the guided tour
PRESENT = "present"  # large type, on all pages
RUN = "run"  # the one that is shown where two do not compare

HOME_DOCUMENT, HOME_KEEP = "home_document", "home_k"
HOME_LAYER, HOME_TOKEN = "home_layer", "home_token"

ROUTING_SOURCE, ROUTING_DOMAIN = "routing_source", "routing_domain"
ROUTING_DOCUMENT, ROUTING_TEXT = "routing_doc", "routing_text"
ROUTING_LAYER, ROUTING_TOKEN, ROUTING_EXPERT = "routing_layer", "routing_token", "routing_expert"
ROUTING_ORDER, ROUTING_COLOUR = "routing_order", "routing_colour"
ROUTING_PICTURE, ROUTING_MATCH = "routing_picture", "routing_match"
ROUTING_ROWS, WHOLE_TEXT = "routing_rows", "Whole text"  # at first, instead of readable rows
ALL_LAYERS = "All layers"  # of the pictures

CLUSTER_LEVEL, CLUSTER_K, CLUSTER_LAYER = "cluster_level", "cluster_k", "cluster_layer"
CLUSTER_MAP, CLUSTER_COLOUR = "cluster_map", "cluster_colour"
CLUSTER_PART = "cluster_part"
CLUSTER_TOKEN_COLOUR, CLUSTER_TOKEN_K = "cluster_token_colour", "cluster_token_k"
CLUSTER_DOMAIN, CLUSTER_HIGHLIGHT = "cluster_domain", "cluster_highlight"
CLUSTER_SELECTION, CLUSTER_TOKENS = "cluster_selection", "cluster_tokens"
CLUSTER_DOCUMENT, CLUSTER_TOKEN = "cluster_document", "cluster_token"
CLUSTER_READER, CLUSTER_READER_LAYER = "cluster_reader", "cluster_reader_layer"

DRAWERS = [CLUSTER_DOCUMENT]  # a drawer is open wherever the address has its name

SUBSET_DOMAIN, SUBSET_METHOD, SUBSET_KEEP = "subset_domain", "subset_method", "k"
SUBSET_DOCUMENT, SUBSET_TEXT = "subset_document", "subset_text"
SUBSET_TOKEN, SUBSET_VIEW = "subset_token", "subset_view"
HOME_SEEN, SUBSET_SEEN = "home_seen", "subset_seen"  # of all held-out documents, or the new ones
SUBSET_SWITCHED = "subset_switched"  # single experts: a2x17.b0o3, run, layer, out or on, expert

KERNEL_ARCH, KERNEL_SIZE = "kernel_arch", "kernel_size"

DIFFERENCE_OF, DIFFERENCE_SOURCE = "difference_of", "difference_source"
DIFFERENCE_DOMAIN, DIFFERENCE_DOCUMENTS = "difference_domain", "difference_documents"
DIFFERENCE_TEXT, DIFFERENCE_DOCUMENT = "difference_text", "difference_document"
DIFFERENCE_TOKEN, DIFFERENCE_COLOUR = "difference_token", "difference_colour"
DIFFERENCE_EXPERTS, DIFFERENCE_VIEW = "difference_experts", "difference_view"

SEARCH_VIEW, SEARCH_TEXT, SEARCH_FOR = "search_view", "search_text", "search_for"
SEARCH_MATCH, SEARCH_DOMAIN = "search_match", "search_domain"
SEARCH_RUN, SEARCH_PAGE = "search_run", "search_page"
PINS, PIN_LEFT, PIN_RIGHT = "pins", "pin_left", "pin_right"
FINDING, COMPARING = "Find", "Compare pins"  # what the page shows
# An expert is written LAYER.ID, the layer by the model's own number.
EXPERT, EXPERT_RUN = "expert", "expert_run"
EXPERT_OTHER, EXPERT_OTHER_RUN = "expert_other", "expert_other_run"
EXPERTS_SHOWN, EXPERTS_LAYER, EXPERTS_DOMAIN = "experts_shown", "experts_layer", "experts_domain"

DOMAINS_VIEW, DOMAINS_LAYER, DOMAINS_KEEP = "domains_view", "domains_layer", "domains_k"
DOMAINS_FROM, DOMAINS_SHOWN = "domains_from", "domains_nodes"

TRAINING_VIEW, TRAINING_RUNS, TRAINING_FOLDER = "training_view", "training_run", "training_folder"
TRAINING_ALONG, TRAINING_AXIS = "training_along", "training_axis"
TRAINING_SMOOTH, TRAINING_LAYER = "training_smooth", "training_layer"
TRAINING_HISTORY = "training_history"

# What stands for a text of the visitor's own: as the source of a text, in place of a document's id.
OWN_SOURCE, OWN_DOCUMENT = "Your own text", "own"
ALL_DOMAINS = "All domains"


def routing_of_document(document: str, token: int | None = None) -> dict[str, str]:
    """The parameters of the routing page that open a document, at one of its tokens."""
    found = {ROUTING_DOCUMENT: document}
    return found if token is None else found | {ROUTING_TOKEN: str(token)}


def routing_of_text(code: str, token: int | None = None) -> dict[str, str]:
    """Those that open a text of the visitor's own, as a link carries it, at one of its tokens."""
    found = {ROUTING_SOURCE: OWN_SOURCE, ROUTING_TEXT: code}
    return found if token is None else found | {ROUTING_TOKEN: str(token)}


def routing_of_mixed(code: str) -> dict[str, str]:
    """Those that open a text of several kinds, all of it in sight."""
    return routing_of_text(code) | {ROUTING_ROWS: WHOLE_TEXT}


def ablation_of_document(document: str) -> dict[str, str]:
    """The parameters of the ablation page that open a document."""
    return {SUBSET_DOCUMENT: document}


def ablation_of_text(code: str) -> dict[str, str]:
    """Those that open a text of the visitor's own, as a link carries it."""
    return {SUBSET_DOCUMENT: OWN_DOCUMENT, SUBSET_TEXT: code}


def clusters_of_document(document: str, token: int | None = None) -> dict[str, str]:
    """Those of the clusters page that read a document, with one of its tokens picked or none."""
    found = {CLUSTER_DOCUMENT: document}
    return found if token is None else found | {CLUSTER_TOKEN: str(token)}


def compared() -> dict[str, str]:
    """Those of the search page that compare what the visitor has pinned."""
    return {SEARCH_VIEW: COMPARING}


def address(page: str) -> str:
    """The path of a page, as it stands beside that of any other: "Token_routing"."""
    return page.removeprefix("pages/").removesuffix(".py").split("_", 1)[1]


def expert_page(run: str, layer: int, expert: int) -> dict[str, str]:
    """The parameters of the experts page that open one expert. layer: the model's own number."""
    return {EXPERT_RUN: run, EXPERT: f"{layer}.{expert}"}
