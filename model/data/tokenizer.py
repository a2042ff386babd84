"""The byte-level BPE tokenizer: trained on a balanced sample, saved in transformers' format."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from model.data.documents import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EOS = "<|endoftext|>"
PADDING = "<|padding|>"
# Characters a domain may give to the training: the same for all, so that no script dominates.
SAMPLE_CHARS = 600_000
MAX_VOCAB_SIZE = 2**24  # what training a tokenizer can take; ids have 16 bits or 32
# Every byte and the two special tokens.
MIN_VOCAB_SIZE = 258

# GPT-4's pattern with single digits: contractions, words, one digit, punctuation, white space.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_on(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """A tokenizer from some texts."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, normalized=False) for name in (EOS, PADDING)],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """A saved tokenizer that can write a corpus.

    Raises CorpusError when the folder holds none, or one without an end-of-text token.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise CorpusError(f"{folder} holds no tokenizer.json; save a fast tokenizer there.")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:
        # The parser behind it raises a bare Exception.
        raise CorpusError(
            f"The tokenizer in {folder} cannot be read ({error}); save it again."
        ) from error
    if tokenizer.eos_token_id is None:
        raise CorpusError(f"The tokenizer in {folder} has no eos_token, which opens a document.")
    return tokenizer


def vocabulary_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """One more than the largest id that the tokenizer may give, gaps between ids counted."""
    return 1 + max(tokenizer.get_vocab().values())
