"""Encoders from a model's folder: BERT-like ones and CLIP's text tower, by transformers.

Fast on CPUs as measured (docs/performance.md): all texts tokenised in one call, sorted by tokens,
batches of a number of tokens rather than of texts, weights converted to bf16 once (autocast would
at each call), no mask where nothing is padded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.config import ConfigError, EncoderConfig
from trainer.learn.frozen import frozen
from trainer.learn.placement import has_bf16, has_compiler

Vectors = NDArray[np.float32]
"""(n, dim)"""
Places = NDArray[np.int64]
COMPILE_LEAST = 100_000
"""Texts from which compiling pays: it takes half a minute and makes them a third faster."""
STEP = 16
"""Attention over a multiple of as many tokens takes half as long on CPUs (bf16) as just beside."""
MOST_PADDED = 1.125
"""From so much longer on, the padding takes what attention saves."""
GPU_TOKENS = 32
"""Times a GPU's batch is larger than a CPU's."""
_WAYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
PICKLED = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth", "pytorch_model.pt")


@dataclass
class Bert:
    """An encoder that was learnt."""

    name: str
    """Model type and the first 16 hexadecimal digits of the SHA-256 of its files."""
    dim: int
    tokenizer: Any
    pooling: str
    """mean, cls or projected (CLIP's own)."""
    pad_id: int
    batch_tokens: int
    compiled: bool
    most: int
    """Tokens of a text."""
    device: torch.device
    threads: int
    """Batches at once on a CPU, each by one thread: none waits for others in every layer, and the
    vectors do not depend on how many there are."""
    run: Any
    """The network itself, or compiled."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim) unit vectors; zeros for an empty text."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        told = np.array([i for i, text in enumerate(texts) if text.strip()], np.int64)
        if len(told) == 0:
            return vectors
        tokens = self.tokenizer.encode_batch_fast([texts[i] for i in told.tolist()])
        ids = [np.array(each.ids or [self.pad_id], np.int64) for each in tokens]
        every = list(batches([len(each) for each in ids], self.batch_tokens))
        found = self._at_once(lambda batch: self._forward([ids[i] for i in batch]), every)
        for batch, rows in zip(every, found, strict=True):
            vectors[told[batch]] = rows
        return vectors

    def _at_once(self, ask: Callable[[Places], Vectors], every: list[Places]) -> list[Vectors]:
        if self.threads == 1:
            return [ask(batch) for batch in every]
        with _unshared(), ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(ask, every))

    @torch.inference_mode()
    def _forward(self, ids: list[NDArray[np.int64]]) -> Vectors:
        if self.compiled and len(ids) == 1:  # one row is another shape to a compiler
            return self._forward(ids * 2)[:1]
        longest = padded_length(max(map(len, ids)), self.most)
        padded = np.full((len(ids), longest), self.pad_id, np.int64)
        for row, each in zip(padded, ids, strict=True):
            row[: len(each)] = each
        lengths = torch.tensor([len(each) for each in ids])
        mask = (torch.arange(longest) < lengths[:, None]).to(self.device)
        full = bool((lengths == longest).all())
        tokens = torch.from_numpy(padded).to(self.device)
        # Without a mask attention takes its fast way.
        answer = self.run(input_ids=tokens, attention_mask=None if full else mask.long())
        pooled = self._pool(answer, mask).float()
        unit = nn.functional.normalize(pooled, dim=1)
        vectors: Vectors = unit.cpu().numpy()
        return vectors

    def _pool(self, answer: Any, mask: Tensor) -> Tensor:
        if self.pooling == "projected":
            projected: Tensor = answer.text_embeds
            return projected
        hidden: Tensor = answer.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        share = mask.to(hidden.dtype)[:, :, None]
        return (hidden * share).float().sum(1) / mask.sum(1, keepdim=True)


def batches(lengths: Sequence[int], budget: int) -> Iterator[Places]:
    """Places of the texts, shortest first, in batches of at most `budget` padded tokens each.

    A text longer than the budget is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    sizes = np.asarray(lengths)[order]
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i + 1 - start) * sizes[i] > budget:
            yield order[start:i]
            start = i


def padded_length(longest: int, most: int) -> int:
    """Tokens that texts of a batch are padded to, of which the longest has `longest`."""
    padded = -(-longest // STEP) * STEP
    return padded if padded <= min(MOST_PADDED * longest, most) else longest


def load(folder: Path, config: EncoderConfig, device: torch.device, num_texts: int) -> Bert:
    """The encoder of a folder. Raises ConfigError naming encoder.model and what is wrong.

    num_texts: about how many will be encoded; many are worth compiling for.
    """
    described = _described(folder)
    _check(folder, described)
    from tokenizers import Tokenizer
    from transformers import AutoModel, CLIPTextModelWithProjection
    from transformers.utils import logging as told

    told.disable_progress_bar()  # type: ignore[no-untyped-call]
    told.set_verbosity_error()  # type: ignore[no-untyped-call]
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))
    kind: Any = CLIPTextModelWithProjection if _is_clip(described) else AutoModel
    try:
        network, found = kind.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # transformers and tokenizers raise whatever comes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"encoder.model {folder} cannot be loaded: {reason}") from error
    pooling = "projected" if _is_clip(described) else _pooling(folder, config)
    _check_loaded(f"encoder.model {folder}", network, found, tokenizer)
    text: Any = network.config
    most = min(config.most_tokens, _positions(network))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    cuda = device.type == "cuda"
    compiled = _compiles(config, device, num_texts)
    placed = cast(nn.Module, network).to(device).eval()
    return Bert(
        name=f"{described.get('model_type')}-{digest(folder)}-{pooling}-{most}",
        dim=int(text.projection_dim if pooling == "projected" else text.hidden_size),
        tokenizer=tokenizer,
        pooling=pooling,
        pad_id=int(getattr(text, "pad_token_id", 0) or 0),
        batch_tokens=config.batch_tokens * (GPU_TOKENS if cuda else 1) // (1 if bf16 else 2),
        compiled=compiled,
        most=most,
        device=device,
        threads=1 if cuda else torch.get_num_threads(),
        run=_compiled(placed, min(STEP, most), device) if compiled else placed,
    )


def _compiles(config: EncoderConfig, device: torch.device, num_texts: int) -> bool:
    if config.compile == "auto":
        return num_texts >= COMPILE_LEAST and has_compiler(device)
    if config.compile == "on" and not has_compiler(device):
        raise ConfigError("encoder.compile is on, but there is no compiler here; set it to auto")
    return config.compile == "on"


def _compiled(network: nn.Module, length: int, device: torch.device) -> Any:
    """For batches of any shape, full or not, each asked by one thread of a CPU."""
    run = frozen(network, dynamic=True)
    ids = torch.zeros((2, length), dtype=torch.int64, device=device)
    with _unshared():
        for mask in (None, torch.ones_like(ids)):
            run(input_ids=ids, attention_mask=mask)
    return run


@contextmanager
def _unshared() -> Iterator[None]:
    """Within, this thread and those that begin compute alone, and code is compiled for that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def digest(folder: Path) -> str:
    """16 hexadecimal digits that name the model's weights, tokeniser and settings."""
    whole = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with open(folder / name, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def _described(folder: Path) -> dict[str, Any]:
    where = f"encoder.model {folder}"
    if not folder.is_dir():
        raise ConfigError(f"{where} is no folder; give that of a model, or ngrams")
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{where} has no config.json, so it holds no model") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: config.json cannot be read: {error}") from error
    if not isinstance(described, dict) or not isinstance(described.get("model_type"), str):
        raise ConfigError(f"{where}: config.json names no model_type")
    return described


def _check(folder: Path, described: dict[str, Any]) -> None:
    where = f"encoder.model {folder}"
    if "auto_map" in described:
        raise ConfigError(f"{where} needs code of its own, which is never run; take another model")
    if not (folder / "model.safetensors").is_file():
        pickled = [name for name in PICKLED if (folder / name).exists()]
        hint = f", only {pickled[0]}, which is pickled and never loaded" if pickled else ""
        raise ConfigError(f"{where} has no model.safetensors{hint}; convert its weights")
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{where} has no tokenizer.json; save it with a fast tokeniser")
    if described.get("is_encoder_decoder") or described.get("is_decoder"):
        raise ConfigError(
            f"{where} is a {described['model_type']}, which writes texts; give an encoder"
        )


def _check_loaded(where: str, network: Any, found: dict[str, Any], tokenizer: Any) -> None:
    """transformers draws weights that are missing at random, and says so in its log alone."""
    absent = {name for name in found["missing_keys"] if not name.startswith("pooler.")}
    absent |= {name for name, *_ in found["mismatched_keys"]}
    if absent:
        raise ConfigError(
            f"{where}: model.safetensors lacks {len(absent)} tensors that config.json describes, or"
            f" has them in another shape, as {min(absent)}"
        )
    if network.main_input_name != "input_ids":
        raise ConfigError(f"{where} reads {network.main_input_name}, not texts; give an encoder")
    known = network.get_input_embeddings().num_embeddings
    most = max(tokenizer.get_vocab().values(), default=0)
    if most >= known:
        raise ConfigError(
            f"{where}: tokenizer.json has tokens up to number {most}, but the model knows {known}"
        )
    if not _is_clip({"model_type": network.config.model_type}) and not _looks_ahead(network):
        raise ConfigError(
            f"{where} is a {network.config.model_type}, whose words do not see those after them:"
            " it writes texts; give an encoder"
        )


@torch.inference_mode()
def _looks_ahead(network: Any) -> bool:
    """Whether a token's vector depends on the next token: a decoder's does not."""
    pairs = torch.tensor([[2, 2], [2, 0]], device=network.device)
    first, second = network(input_ids=pairs, attention_mask=torch.ones_like(pairs))[0][:, 0]
    return not torch.equal(first, second)


def _positions(network: nn.Module) -> int:
    """Tokens that the model has positions for."""
    most = int(getattr(network.config, "max_position_embeddings", 0) or 0)
    for name, module in network.named_modules():
        # RoBERTa and MPNet count positions from the one after padding's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            most -= 0 if module.padding_idx is None else module.padding_idx + 1
    return most if most > 0 else 1 << 20  # relative positions have no end


def _is_clip(described: dict[str, Any]) -> bool:
    return str(described["model_type"]) in ("clip", "clip_text_model")


def _pooling(folder: Path, config: EncoderConfig) -> str:
    """As configured, or as sentence-transformers' file in the folder says; mean without it."""
    if config.pooling != "auto":
        return config.pooling
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        # One name, or before its version 6 a switch for each way.
        way = said.get("pooling_mode") or [name for name, on in said.items() if on is True]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"encoder.model {folder}: 1_Pooling/config.json is damaged") from error
    ways = {_WAYS.get(name, name) for name in ([way] if isinstance(way, str) else way)}
    ways.discard("include_prompt")
    if len(ways) != 1 or not ways <= {"mean", "cls"}:
        raise ConfigError(
            f"encoder.model {folder} pools by {', '.join(sorted(ways)) or 'nothing'}, which is not"
            " made here; set encoder.pooling to mean or cls, or take another model"
        )
    return ways.pop()
