"""What pictures are to show, as people say it, and what a model takes of it: `Ask` in, `Asked` out.

What is not said is the null: no text, no number known, any class. Only a model of classes that is asked for nothing at
all is drawn from class by class, in turn. A condition that was never hidden in training has no null, and must be given.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inkwash.asking.asked import Asked, Text
from inkwash.asking.numbers import numbers, spoken
from inkwash.asking.opened import opened, painted, sha256_of
from inkwash.conditions import ByText, Masked
from inkwash.conditions.tasks import framed
from inkwash.kinds import to_table
from inkwash.modelfolder import Config
from inkwash.types import CONDITIONS, Condition, Steered

if TYPE_CHECKING:
    from inkwash.text import Tokens

Encode = Callable[[Sequence[str]], "Tokens"]
"""Texts to their tokens, as the model's own encoder gives them."""

SHOWN_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Ask:
    """What to show: the arguments of `Pipeline.__call__` of these names, which says what each may be."""

    label: str | int | Sequence[str | int] | None = None
    prompt: str | Sequence[str] | None = None
    negative: str | Sequence[str] | None = None
    also: Mapping[str, float] | None = None
    vector: Any = None
    image: Any = None
    mask: Any = None
    cond: Condition | None = None

    def __post_init__(self) -> None:
        for name in ("label", "prompt", "negative"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        if isinstance(self.also, Mapping) and not self.also:
            object.__setattr__(self, "also", None)

    def given(self) -> dict[str, Any]:
        """What is said, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def check(self, config: Config) -> None:
        """Raise ValueError for what the model does not take, and for what it needs."""
        told, conditions = self.given(), config.conditions
        if self.also is not None and not isinstance(self.also, Mapping):
            raise ValueError(f"also = {self.also!r:.60} must be texts with their weights, as in {{'snow': 1.5}}.")
        if self.cond is not None and len(told) > 1:
            others = ", ".join(name for name in told if name != "cond")
            raise ValueError(
                f"cond holds all conditions of every row, and {others} was given as well. Give one of them."
            )
        for name in told.keys() - taken(config, told).keys():
            what = {"label": "classes", "vector": "vectors", "image": "pictures to go by", "mask": "pictures to go by"}
            shown = f" = {told[name]!r:.60}" if name in ("label", "prompt", "negative", "also") else ""
            raise ValueError(
                f"{name}{shown} was asked for, but this model was trained without {what.get(name, 'texts')}. "
                f"{takes(config)}"
            )
        if self.mask is not None and not (conditions.image and isinstance(conditions.image.task, Masked)):
            raise ValueError(
                "mask= is for a model trained to fill in (task masked), and this one was not. Any model can with "
                "edit=Fill(x0, mask), or `inkwash edit --mask`."
            )
        if self.mask is not None and self.image is None:
            raise ValueError("mask= says where to paint. Give image= too: what is around it.")
        if wrong := [(text, weight) for text, weight in (self.also or {}).items() if not math.isfinite(weight)]:
            raise ValueError(
                f"also = {wrong[0][0]!r:.60} has weight {wrong[0][1]}, which must be a finite number: how strongly the "
                "text is followed, below 0 for away from it. Try 1."
            )
        if self.cond is not None:
            return
        if needed := [name for name in config.needed if name not in told]:
            raise ValueError(
                f"This model was never trained without its {needed[0]}: give {needed[0]}=. {takes(config)}"
            )
        if config.classes and not config.label_dropout and told:  # asked for nothing, it draws every class in turn
            labels = [self.label] if self.label is None or isinstance(self.label, (str, int)) else self.label
            if any(one is None or find_class(config.classes, one) < 0 for one in labels):
                raise ValueError(f"This model was never trained without its label: give label=. {takes(config)}")

    def count(self, config: Config) -> int:
        """How many pictures this asks for, where nobody says: one for each of what was given in a list, else 1."""
        if self.cond is not None:
            return len(_rows(self.cond))
        listed = [v for v in (self.label, self.prompt, self.negative) if _several(v)]
        counts = [len(v) for v in listed]  # type: ignore[arg-type]
        if self.vector is not None and config.conditions.numbers:
            counts += [len(x) for x, many in [numbers(self.vector, config.conditions.numbers)] if many]
        if self.image is not None and config.conditions.image:
            shown = [(self.image, "image"), *([] if self.mask is None else [(self.mask, "mask")])]
            counts += [len(found.pictures) for found in (opened(*one) for one in shown) if found.many]
        return max(counts, default=1)

    def understood(
        self, config: Config, n: int, first: int, size: tuple[int, ...], encode: Encode, guidance: float | None = None
    ) -> Asked:
        """What samples first to first + n - 1 of a model are to show.

        size: (C, H, W) of the pictures; encode: called only where there is a text; guidance: its scale, where that was
        said elsewhere. Raises ValueError for what the model does not take, for what it needs and was not given, for as
        many of something as fit no n, and for a scale that a model was not taught to be told.
        """
        self.check(config)
        asked = self._said(config, n, first, size, encode) if self.cond is None else _given(self.cond, config, n)
        if (taught := config.conditions.guidance) is not None:
            taught.check_told(asked.told, guidance)
        return asked

    def _said(self, config: Config, n: int, first: int, size: tuple[int, ...], encode: Encode) -> Asked:
        """As `understood`, of what is said in words, numbers and pictures."""
        told, conditions = self.given(), config.conditions
        one = self.label is None or isinstance(self.label, str | int)
        said: dict[str, Any] = {"label": self.label if one else [*self.label]}  # type: ignore[misc]  # a sequence
        words: list[list[str]] = []
        label = self._labels(config, n, first)
        names: tuple[str, ...] = ()
        if label is not None:
            names = tuple(config.classes[i] if i >= 0 else "any" for i in label.tolist())
            if "label" in told or not told:  # "any" says nothing beside other words
                words.append([name if name != "any" or len(told) == 1 else "" for name in names])
        text = base = None
        others: list[Text] = []
        if conditions.text:
            away = [] if self.negative is None else [(self.negative, "negative")]
            asked = [(self.prompt, "prompt"), *away, *((other, "also") for other in self.also or {})]
            text, *others = _fitted([_text(*one, n, encode, conditions.text) for one in asked], conditions.text)
            base = others.pop(0) if away else None
            for name in ("prompt", "negative"):
                if name in told:
                    said[name] = told[name] if isinstance(told[name], str) else list(told[name])
            if self.also:
                said["also"] = {other: float(weight) for other, weight in self.also.items()}
            if self.prompt is not None:
                words.append([self.prompt] * n if isinstance(self.prompt, str) else list(self.prompt))
        vector = None
        if (way := conditions.numbers) is not None:
            known, many = numbers({} if self.vector is None else self.vector, way)
            known = _for_each(known, many, "vectors", n)
            vector = way.standard(torch.from_numpy(np.array(known)))
            if self.vector is not None:
                said["vector"] = _listed(known)
                words.append(spoken(known, way))
        shown, hidden = self._pictures(config, n, size, said)
        captions = tuple(", ".join(word for word in each if word) for each in zip(*words, strict=True)) if words else ()
        return Asked(
            Condition(
                label,
                None if text is None else text.values,
                None if text is None else text.present,
                vector,
            ),
            labels=names,
            captions=captions,
            settings=said,
            base=base,
            others=tuple(others),
            weights=tuple(float(w) for w in (self.also or {}).values()),
            shown=shown,
            hidden=hidden,
            names=hideable(config),
        )

    def _labels(self, config: Config, n: int, first: int) -> Tensor | None:
        """Class indices [n]; None for a model without classes."""
        classes, label = config.classes, self.label
        if not classes:
            return None
        if label is None:
            return torch.full((n,), -1) if self.given() else torch.arange(first, first + n) % len(classes)
        if isinstance(label, (str, int)):
            return torch.full((n,), find_class(classes, label))
        _check_count(len(label), "labels", n)
        return torch.tensor([find_class(classes, one) for one in label])

    def _pictures(
        self, config: Config, n: int, size: tuple[int, ...], said: dict[str, Any]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What is shown of pictures, uint8 [n, H, W, C], and where it is hidden, [n, H, W] bool."""
        image = config.conditions.image
        if image is None or self.image is None:
            return None, None
        pictures: Sequence[np.ndarray]
        pictures, many = opened(self.image)
        if self.mask is not None:
            masks = painted(self.mask, size[1], size[2])
            if len(masks) > 1 and not many:
                pictures, many = [pictures[0]] * len(masks), True
            _check_count(len(masks), "masks", len(pictures) if len(masks) > 1 else 1)
            paper = [framed(one, size) for one in pictures]
            every = masks if len(masks) > 1 else np.repeat(masks, len(paper), 0)
            pictures = [np.concatenate([one, 255 - mask[..., None]], 2) for one, mask in zip(paper, every, strict=True)]
        own = [image.task.own(one, size) for one in pictures]
        shown = np.stack([one.pixels for one in own])
        said["image"] = sha256_of(shown)
        hidden = None
        if own[0].hidden is not None:
            hidden = np.stack([one.hidden for one in own if one.hidden is not None])
            if not hidden.any():
                raise ValueError(
                    "This model fills in what is missing, and nothing is: add mask=, a picture that is white where to "
                    "paint, or give a picture that is transparent there."
                )
            said["mask"] = sha256_of(hidden)
            hidden = _for_each(hidden, many, "images", n)
        return _for_each(shown, many, "images", n), hidden


def takes(config: Config) -> str:
    """What a model can be asked for, in a sentence."""
    told, ways = config.conditions, []
    if config.classes:
        more = ", ..." if len(config.classes) > SHOWN_CLASSES else ""
        ways.append(f"label= ({', '.join(config.classes[:SHOWN_CLASSES])}{more})")
    if told.text:
        ways.append("prompt= (a text)")
    if told.numbers:
        ways.append(f"vector= ({', '.join(told.numbers.names[:SHOWN_CLASSES])})")
    if told.image:
        ways.append(f"image= (for {to_table(told.image.task)['kind']})")
    return f"It takes {', '.join(ways)}." if ways else "It was trained without any condition."


def taken(config: Config, told: Mapping[str, Any]) -> dict[str, Any]:
    """What of the arguments `told` a model takes: for several models that are asked for one thing."""
    fits = {"label": bool(config.classes), "vector": config.conditions.numbers is not None}
    fits |= dict.fromkeys(("prompt", "negative", "also"), config.conditions.text is not None)
    fits |= dict.fromkeys(("image", "mask"), config.conditions.image is not None)
    return {name: value for name, value in told.items() if fits.get(name, True)}


def hideable(config: Config) -> tuple[str, ...]:
    """The conditions that were hidden at times in training: what guidance hides to see what they change."""
    return (*(["label"] if config.classes and config.label_dropout else []), *config.conditions.dropped)


def find_class(classes: Sequence[str], label: str | int) -> int:
    """The index of a class given by name (in any case where that says which) or index; -1 is the null label, "any".

    Raises ValueError with the nearest names for one that does not exist.
    """
    text = str(label).strip()
    if text in classes:
        return classes.index(text)
    by_name = {c.casefold(): i for i, c in enumerate(classes)}
    same = [c for c in classes if c.casefold() == text.casefold()]
    if len(same) > 1:
        raise ValueError(f"Class {text!r} could be {' or '.join(same)}. Write it as one of them.")
    if same:
        return classes.index(same[0])
    if text.removeprefix("-").isdigit():
        if -1 <= int(text) < len(classes):
            return int(text)
        raise ValueError(f"There is no class {text}: indices go from 0 to {len(classes) - 1}, and -1 is any class.")
    near = [classes[by_name[m]] for m in difflib.get_close_matches(text.casefold(), by_name, 3, 0.4)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The classes are {', '.join(classes[:20])}."
    raise ValueError(f"This model has no class {text!r}. {hint}")


def _plain(said: Any) -> Any:
    """What numpy and torch hold, as Python has it: a number, or a list of what was given in one."""
    if hasattr(said, "tolist"):
        return said.tolist()
    return [_plain(one) for one in said] if _several(said) else said


def _text(said: str | Sequence[str] | None, name: str, n: int, encode: Encode, told: ByText) -> Text:
    """The tokens of one text for all or one for each of n, as the packed cache of captions has them, in float16.

    All texts have as many as the encoder reads: the bits of a picture depend on how many there are.
    """
    texts = [said or ""] if said is None or isinstance(said, str) else list(said)
    if wrong := [one for one in texts if not isinstance(one, str)]:
        raise ValueError(f"{name} = {wrong[0]!r} is not a text.")
    once = list(dict.fromkeys(texts))
    most, width = told.encoder.max_tokens, told.encoder.width
    if any(one.strip() for one in once):
        tokens = encode(once)
        if long := [one for one, cut in zip(once, tokens.cut.tolist(), strict=True) if cut]:
            raise ValueError(f"{name} = {long[0]!r:.60} is longer than the {most} tokens this model reads. Shorten it.")
        tokens = tokens.padded(most)
        values, present = tokens.values.cpu().half().float(), tokens.present.cpu()
    else:
        values, present = torch.zeros(len(once), most, width), torch.zeros(len(once), most, dtype=torch.bool)
    if said is None or isinstance(said, str):
        return Text(values.expand(n, -1, -1), present.expand(n, -1))
    _check_count(len(texts), f"texts ({name})", n)
    rows = torch.tensor([once.index(one) for one in texts])
    return Text(values[rows], present[rows])


def _fitted(texts: list[Text], told: ByText) -> list[Text]:
    """With no more tokens than captions have, where all texts fit: see `guidance.Fitted`."""
    longest = max(int(text.present.sum(1).max()) for text in texts)
    if told.length is None or longest > told.length:
        return texts
    return [Text(text.values[:, : told.length], text.present[:, : told.length]) for text in texts]


def _given(cond: Condition, config: Config, n: int) -> Asked:
    """A condition taken as it is.

    Raises ValueError where it has other fields than the model takes, other rows, or labels that are no class.
    """
    rows = _rows(cond)
    _check_count(len(rows), "rows of cond", n)
    has = {"label": cond.label, "text": cond.tokens, "vector": cond.vector, "image": cond.image}
    told = config.conditions
    needs = {"label": config.classes, "text": told.text, "vector": told.numbers, "image": told.image}
    if wrong := [name for name in CONDITIONS if (has[name] is None) == bool(needs[name])]:
        much = "lacks" if has[wrong[0]] is None else "has"
        raise ValueError(
            f"cond {much} {wrong[0]}: it must hold what the model takes, and nothing else. {takes(config)}"
        )
    steering = [cond.base, *cond.others] if isinstance(cond, Steered) else []
    for one in (cond, *steering):
        for part, value in ({} if one is None else vars(one)).items():
            if isinstance(value, Tensor) and value.shape[:1] != (n,):
                raise ValueError(f"cond.{part} of shape {list(value.shape)} must have n = {n} rows, as all of cond.")
    names: tuple[str, ...] = ()
    if cond.label is not None:
        listed, most = cond.label.tolist(), len(config.classes) - 1
        if unknown := [i for i in listed if not (isinstance(i, int) and -1 <= i <= most)]:
            raise ValueError(
                f"cond.label holds {unknown[0]}, which is no class of this model: its classes are whole numbers from 0 "
                f"to {most}, and -1 is any class."
            )
        names = tuple(config.classes[i] if i >= 0 else "any" for i in listed)
    return Asked(cond, labels=names, captions=(), settings={"label": None, "cond": "given"}, names=hideable(config))


def _rows(cond: Condition) -> Tensor:
    some = next((v for v in (cond.label, cond.tokens, cond.vector, cond.image) if v is not None), None)
    if some is None:
        raise ValueError("cond holds no condition at all. Leave it out.")
    return some


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_count(given: int, what: str, n: int) -> None:
    if given != n:
        raise ValueError(f"{given} {what} were given for n = {n} samples. Give one, or one for each.")


def _for_each(x: np.ndarray, many: bool, what: str, n: int) -> np.ndarray:
    """Rows for n samples, of one for all or of one for each."""
    if many:
        _check_count(len(x), what, n)
        return x
    return np.broadcast_to(x, (n, *x.shape[1:]))


def _listed(known: np.ndarray) -> list[Any]:
    """Numbers as JSON has them, one row where all are equal; None for one that is not known."""
    rows = known[:1] if len({row.tobytes() for row in np.ascontiguousarray(known)}) == 1 else known
    plain = [[None if np.isnan(v) else float(v) for v in row] for row in rows]
    return plain[0] if len(plain) == 1 else plain
