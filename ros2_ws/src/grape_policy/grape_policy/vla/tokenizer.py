"""Prompts to token ids. Only ids travel through the system: text is never tokenised twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPACE = "▁"
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
MAX_INSTRUCTION_CHARACTERS = 400
PROMPTS = {
    "openvla": "In: What action should the robot take to {instruction}?\nOut:",
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: What action should the robot take to {instruction}? ASSISTANT:"
    ),
}


class VlaTokenizer:
    """A Llama-style tokenizer file plus OpenVLA's prompt."""

    def __init__(self, tokenizer: Tokenizer, prompt_style: str = "openvla") -> None:
        """Wrap ``tokenizer``.

        Raises:
            ValueError: it lacks the tokens BOS, EOS or the lone space that closes the prompt.
        """
        self.tokenizer = tokenizer
        self.prompt_style = prompt_style
        found = {token: tokenizer.token_to_id(token) for token in (BOS, EOS, SPACE)}
        missing = [token for token, index in found.items() if index is None]
        if missing:
            raise ValueError(f"tokenizer has no token {missing}; a Llama-style tokenizer.json is needed")
        self.bos_id, self.eos_id, self.empty_id = (
            int(index) for index in found.values() if index is not None
        )

    @classmethod
    def from_file(cls, path: Path, prompt_style: str = "openvla") -> VlaTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            ValueError: the file is no tokenizer or lacks needed tokens.
        """
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")), prompt_style)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: {error}") from error

    def __len__(self) -> int:
        """Number of text tokens."""
        return int(self.tokenizer.get_vocab_size())

    def to_json(self) -> str:
        """Return the content of ``tokenizer.json``."""
        return str(self.tokenizer.to_str(pretty=False))

    def prompt_ids(self, instruction: str) -> list[int]:
        """Return the prompt's ids: BOS first, the lone-space token last.

        OpenVLA was trained with that token before the first action token; no prompt's text ends with it.

        Raises:
            ValueError: the instruction is empty or longer than 400 characters.
        """
        instruction = instruction.strip().lower()
        if not 0 < len(instruction) <= MAX_INSTRUCTION_CHARACTERS:
            raise ValueError(
                f"an instruction needs 1 to {MAX_INSTRUCTION_CHARACTERS} characters, got {len(instruction)}"
            )
        text = PROMPTS[self.prompt_style].format_map({"instruction": instruction})
        return [self.bos_id, *self.tokenizer.encode(text, add_special_tokens=False).ids, self.empty_id]


def train_tokenizer(instructions: Iterable[str], merges: int = 256) -> VlaTokenizer:
    """Train a small Llama-style BPE tokenizer: ``<unk> <s> </s>``, bytes, characters, ``merges`` merges.

    Words never merge with each other or with punctuation: a frequent word is one token in any sentence.
    Unknown characters fall back to bytes, so that any text can be encoded.
    """
    corpus = [PROMPTS["openvla"].format_map({"instruction": text.lower()}) for text in instructions]
    alphabet = [SPACE, "\n", *map(chr, range(33, 127))]
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = _word_splitter()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    draft.train_from_iterator(corpus, trainer)
    learnt = json.loads(draft.to_str())["model"]
    tokens = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(first, second) for first, second in learnt["merges"]]
    return VlaTokenizer(_assemble(vocabulary, pairs))


def _word_splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first"),
            pre_tokenizers.Split(Regex(rf"[^\w{SPACE}]"), "isolated"),
        ]
    )


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    model = models.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _word_splitter()
    to_space = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence(
        [to_space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.add_special_tokens([UNKNOWN, BOS, EOS])
    return tokenizer
