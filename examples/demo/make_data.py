"""Write a small instruction data set: train.jsonl and heldout.jsonl, in Alpaca columns.

A mixture of tasks that a tiny model can learn in a minute: looking something up in a sentence, copying, sorting,
counting, adding, rewriting. Lengths spread over more than an order of magnitude, some rows have several turns, and a
few are longer than a pack. The same arguments give the same files, byte for byte.

    python make_data.py --output demo-out/data --rows 6000 --seed 1234
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELDOUT_SHARE = 0.1
"""Rows of heldout.jsonl per row of train.jsonl."""

# fmt: off
NAMES = ("Ana", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leon", "Maya",
         "Nora", "Oscar", "Paula", "Rosa", "Simon", "Tara", "Viktor")
CITIES = ("Oslo", "Paris", "Lima", "Cairo", "Tokyo", "Delhi", "Rome", "Quito", "Accra", "Dublin", "Hanoi", "Bern",
          "Porto", "Riga", "Seoul", "Turin")
JOBS = ("baker", "nurse", "pilot", "teacher", "farmer", "painter", "lawyer", "plumber", "tailor", "writer")
ANIMALS = ("fox", "owl", "bear", "wolf", "hare", "goat", "crow", "deer", "mole", "duck")
COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "grey")
PLACES = ("river", "mill", "bridge", "garden", "tower", "forest", "harbour", "station", "market", "castle")
VERBS = ("sleeps", "waits", "sings", "rests", "hides", "eats", "plays", "dreams")
THINGS = ("lamp", "chair", "bread", "stone", "apple", "letter", "ticket", "basket", "mirror", "candle", "window",
          "hammer", "pencil", "carpet", "bottle", "button")
PRODUCTS = ("kettle", "phone", "film", "hotel", "book", "bicycle", "concert", "restaurant", "jacket", "game")
PRAISE = ("wonderful", "excellent", "delightful", "superb", "lovely", "brilliant")
BLAME = ("terrible", "awful", "dreadful", "boring", "horrible", "useless")
WORDS = ("acorn", "arrow", "beach", "bench", "blanket", "boat", "boot", "branch", "broom", "bucket", "cable", "camel",
         "canal", "canoe", "chain", "cherry", "clock", "coat", "coin", "coral", "couch", "crane", "cup", "dagger",
         "dish", "dragon", "eagle", "fence", "flag", "flower", "fork", "fruit", "ghost", "globe", "grape", "harp",
         "hill", "horse", "jar", "kite", "ladder", "leaf", "lion", "magnet", "marble", "meadow", "moon", "needle",
         "oven", "palace", "pearl", "pillow", "planet", "pond", "puzzle", "rain", "ring", "rocket", "rope", "salt",
         "scarf", "seed", "sheep", "ship", "shovel", "snow", "spoon", "storm", "sun", "table", "thread", "tool",
         "tree", "tunnel", "valley", "wagon", "wheel", "wood")
# fmt: on


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the files. ``history`` holds the earlier turns, as [user, assistant] pairs."""

    task: str
    instruction: str
    input: str
    output: str
    history: tuple[tuple[str, str], ...] = ()

    @property
    def prompt(self) -> tuple[Any, ...]:
        """What the model sees; two rows with the same prompt count as the same row."""
        return self.history, self.instruction, self.input

    def to_json(self) -> str:
        columns: dict[str, Any] = {"instruction": self.instruction, "input": self.input, "output": self.output}
        if self.history:
            columns["history"] = self.history
        return json.dumps({**columns, "task": self.task}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of rows; ``weight`` is its share of the mixture."""

    name: str
    weight: float
    make: Callable[[random.Random], Row] = field(repr=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write train.jsonl and heldout.jsonl.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--rows", type=int, default=6000, help="rows of train.jsonl")
    parser.add_argument("--seed", type=int, default=1234)
    arguments = parser.parse_args()
    train, heldout = make_rows(arguments.rows, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("heldout", heldout)):
        path = arguments.output / f"{name}.jsonl"
        path.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows):,} rows, {sum(bool(row.history) for row in rows):,} of them with several turns")


def make_rows(num_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out; no prompt comes twice, in either or across the two."""
    rng = random.Random(seed)
    num_heldout = max(1, round(num_rows * HELDOUT_SHARE))
    stream = distinct_rows(rng)
    rows = [next(stream) for _ in range(num_rows + num_heldout)]
    return rows[num_heldout:], rows[:num_heldout]


def distinct_rows(rng: random.Random) -> Iterator[Row]:
    """Rows of the mixture, endless. Each task draws its own kind, so a task with few rows only becomes rarer."""
    seen = set()
    weights = [task.weight for task in TASKS]
    while True:
        [task] = rng.choices(TASKS, weights)
        row = task.make(rng)
        if row.prompt not in seen:
            seen.add(row.prompt)
            yield row


def make_city(rng: random.Random) -> Row:
    """Find a word in a sentence: the easiest task."""
    name, city = rng.choice(NAMES), rng.choice(CITIES)
    fact = f"{name} works as a {rng.choice(JOBS)} in {city} and owns a {rng.choice(COLOURS)} {rng.choice(THINGS)}."
    question = rng.choice(
        (f"In which city does {name} work?", f"Where does {name} work?", f"Name the city that {name} works in.")
    )
    return Row("city", question, fact, f"{name} works in {city}.")


def make_sentiment(rng: random.Random) -> Row:
    words, label = rng.choice(((PRAISE, "positive"), (BLAME, "negative")))
    first, second = rng.sample(words, 2)
    review = rng.choice(
        (
            f"The {rng.choice(PRODUCTS)} I bought in {rng.choice(CITIES)} is {first} and {second}.",
            f"{rng.choice(NAMES)} says the {rng.choice(PRODUCTS)} was {first}, even {second}.",
            f"What a {first} {rng.choice(PRODUCTS)}! My {rng.choice(PRODUCTS)} was {second} too.",
        )
    )
    question = rng.choice(("Is this review positive or negative?", "What is the mood of the review?"))
    return Row("sentiment", question, review, f"The review is {label}.")


def make_parity(rng: random.Random) -> Row:
    number = rng.randrange(10, 10_000)
    question = rng.choice((f"Is {number} even or odd?", f"Tell me whether {number} is an even number."))
    return Row("parity", question, "", f"{number} is {'odd' if number % 2 else 'even'}.")


def make_addition(rng: random.Random) -> Row:
    left, right = rng.randrange(100), rng.randrange(100)
    question = rng.choice((f"What is {left} + {right}?", f"Add {left} and {right}."))
    return Row("addition", question, "", f"{left} + {right} = {left + right}")


def make_uppercase(rng: random.Random) -> Row:
    words = rng.sample(THINGS, rng.randint(2, 6))
    question = rng.choice(("Write these words in capital letters.", "Change the words to upper case."))
    return Row("uppercase", question, _listed(words), _listed([word.upper() for word in words]))


def make_reverse(rng: random.Random) -> Row:
    words = rng.sample((*THINGS, *ANIMALS), rng.randint(3, 12))
    question = rng.choice(("Reverse the order of the words.", "List these words from last to first."))
    return Row("reverse", question, _listed(words), _listed(words[::-1]))


def make_count(rng: random.Random) -> Row:
    word, other = rng.sample(ANIMALS, 2)
    number = rng.randint(2, 9)
    words = [word] * number + [other] * rng.randint(0, 9)
    rng.shuffle(words)
    return Row("count", f"How often does the word {word} occur?", _listed(words), f"It occurs {number} times.")


def make_sort(rng: random.Random) -> Row:
    numbers = rng.sample(range(10, 100), rng.randint(3, 16))
    question = rng.choice(("Sort the numbers, smallest first.", "Put these numbers in ascending order."))
    return Row("sort", question, _listed(map(str, numbers)), _listed(map(str, sorted(numbers))))


def make_range(rng: random.Random) -> Row:
    start = rng.randrange(0, 900)
    stop = start + rng.randint(3, 40)
    question = rng.choice((f"Count from {start} to {stop}.", f"List all numbers between {start} and {stop}."))
    return Row("range", question, "", _listed(map(str, range(start, stop + 1))))


def make_repeat(rng: random.Random) -> Row:
    word, times = rng.choice((*THINGS, *ANIMALS)), rng.randint(2, 80)
    question = rng.choice((f"Write the word {word} {times} times.", f"Repeat {word}, {times} times in all."))
    return Row("repeat", question, "", " ".join([word] * times))


def make_copy(rng: random.Random) -> Row:
    """A line of words, none of them twice; its length is drawn so that each doubling is equally likely."""
    line = " ".join(rng.sample(WORDS, round(2 ** rng.uniform(1, math.log2(len(WORDS))))))
    return Row("copy", rng.choice(("Copy this line.", "Repeat the words as they are.")), line, line)


def make_rewrite(rng: random.Random) -> Row:
    """A text to copy, with one word replaced."""
    return _rewrite(rng, num_sentences=round(2 ** rng.uniform(0, 4.2)))


def make_long_rewrite(rng: random.Random) -> Row:
    """The same with a text that fits no pack of the demo."""
    return _rewrite(rng, num_sentences=rng.randint(40, 90))


def make_chat(rng: random.Random) -> Row:
    """Several turns; the last question is about an earlier one."""
    name, city, job = rng.choice(NAMES), rng.choice(CITIES), rng.choice(JOBS)
    turns = [
        (f"Hello, my name is {name}.", f"Nice to meet you, {name}!"),
        (f"I live in {city}.", f"I hear that {city} is beautiful."),
        (f"I work as a {job}.", f"A {job} is never bored."),
        (f"My {rng.choice(ANIMALS)} {rng.choice(VERBS)} a lot.", "That sounds like a happy animal."),
    ]
    asked = rng.choice(
        (
            (turns[0], "What is my name?", f"Your name is {name}."),
            (turns[1], "Where do I live?", f"You live in {city}."),
            (turns[2], "What is my job?", f"You work as a {job}."),
        )
    )
    fact, question, answer = asked
    others = rng.sample([turn for turn in turns if turn != fact], rng.randint(0, 3))
    history = [*others, fact]
    rng.shuffle(history)
    return Row("chat", question, "", answer, tuple(history))


TASKS = (
    Task("city", 25, make_city),
    Task("sentiment", 12, make_sentiment),
    Task("chat", 12, make_chat),
    Task("copy", 12, make_copy),
    Task("rewrite", 6, make_rewrite),
    Task("rewrite", 0.4, make_long_rewrite),
    Task("uppercase", 5, make_uppercase),
    Task("range", 5, make_range),
    Task("repeat", 5, make_repeat),
    Task("parity", 4, make_parity),
    Task("addition", 3, make_addition),
    Task("reverse", 3, make_reverse),
    Task("sort", 3, make_sort),
    Task("count", 2, make_count),
)


def _rewrite(rng: random.Random, num_sentences: int) -> Row:
    old, new = rng.sample(COLOURS, 2)
    text = " ".join(_sentence(rng, rng.choice((old, rng.choice(COLOURS)))) for _ in range(num_sentences))
    question = rng.choice((f"Replace {old} by {new} in the text.", f"Rewrite the text with {new} instead of {old}."))
    return Row("rewrite", question, text, text.replace(f" {old} ", f" {new} "))


def _sentence(rng: random.Random, colour: str) -> str:
    return f"The {colour} {rng.choice(ANIMALS)} {rng.choice(VERBS)} near the {rng.choice(PLACES)}."


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


if __name__ == "__main__":
    main()
