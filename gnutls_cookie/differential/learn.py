"""Learns a server's cookie stage as a state machine; needs the extra `learn` (AALpy).

A query is a sequence of letters that a new client sends. What was asked is kept, and where a server
answers one sequence in two ways, the one that comes twice counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from queue import SimpleQueue
from typing import Any

from aalpy.base import SUL, Oracle
from aalpy.learning_algs import run_Lstar

from .machine import LETTERS, NOTHING, Client, Machine, ReferenceServer, differences

__all__ = [
    "PATIENT",
    "Exchange",
    "FellSilent",
    "Silent",
    "Unsteady",
    "learn",
    "reference_machine",
]

#: Sends a datagram for a client of its own and gives what comes back; one is made for each query.
#: The second argument is the number of datagrams that are known to come, so that there is nothing
#: to wait for after them; None where it is not known, and PATIENT to wait long as well.
Exchange = Callable[[bytes, int | None], list[bytes]]

_TRIES = 5
_REVISIONS_MAX = 8
_LONGEST_WALK = 6
_RECENT_MAX = 4  # sequences that are told


PATIENT = -1


class Unsteady(Exception):
    """The server answers one sequence in many ways; the text has it."""


class Silent(Exception):
    """The server answers no hello."""


class FellSilent(Silent):
    """It did before; the text has what was sent last."""


def learn(
    connect: Callable[[], Exchange],
    walks: int = 25,
    seed: int = 0,
    reference: Machine | None = None,
    others: Sequence[Callable[[], Exchange]] = (),
) -> Machine:
    """Learn a machine.

    Args:
        connect: makes a client that the server does not know.
        walks: random sequences that a machine has to pass before it is taken.
        seed: of these.
        reference: what differs from it is asked once more, and waited for longer.
        others: make clients of more servers of the same kind, that are asked at the same time, each
            in a thread.

    Raises:
        Unsteady: the server does not answer in one way.
        Silent: it does not answer a first hello, or not any more.
    """
    asked = _Asked(connect, others)
    if not asked.answers_hello():
        raise Silent("no answer to a first ClientHello")

    def step(state: Any, letter: str) -> tuple[str, object]:
        return state.output_fun[letter], state.transitions[letter]

    for _ in range(_REVISIONS_MAX):
        try:
            learned: Any = run_Lstar(
                list(LETTERS), asked, _Walks(asked, walks, seed), "mealy",
                cache_and_non_det_check=False, print_level=0,
            )  # fmt: skip
            machine = Machine.of(step, learned.initial_state)
            for one in differences(reference, machine) if reference is not None else ():
                asked.confirm(one.letters)
            return machine
        except _Revised:  # begin again, with what is known by now
            continue
    raise Unsteady(f"answers one sequence in two ways, again and again: {asked.revised}")


def reference_machine() -> Machine:
    """The machine of the reference gate, learned in the same way."""
    return learn(lambda: ReferenceServer().answer)


class _Revised(Exception):
    """Something that was taken for known is not so: an answer was lost, or came late."""


class _Asked(SUL):  # type: ignore[misc]  # AALpy has no types
    """A server as AALpy asks it: whole sequences, each once."""

    def __init__(
        self, connect: Callable[[], Exchange], others: Sequence[Callable[[], Exchange]]
    ) -> None:
        super().__init__()
        self._connect = connect
        self._servers: SimpleQueue[Callable[[], Exchange]] = SimpleQueue()
        self._servers_count = 1 + len(others)
        for one in (connect, *others):
            self._servers.put(one)
        self._recent: list[tuple[str, ...]] = []  # the last one that was answered, and later ones
        self.revised = ""  # the sequence that was answered otherwise than before
        self._known: dict[tuple[str, ...], str] = {}
        self._counts: dict[tuple[str, ...], int] = {}  # of the datagrams that come for it

    def query(self, word: tuple[str, ...]) -> list[str]:
        """The outputs for a sequence of letters."""
        if not self._knows(word):  # L* asks for all pairs of letters after a state
            self.prepare((*word[:-2], *more) for more in product(LETTERS, repeat=2))
        if not self._knows(word):
            self._ask(word)
        return [self._known[word[:size]] for size in range(1, len(word) + 1)]

    def prepare(self, words: Iterable[tuple[str, ...]]) -> None:
        """Ask all servers for sequences that will be queried, each for some of them."""
        if self._servers_count == 1:
            return
        asked = [word for word in dict.fromkeys(words) if not self._knows(word)]
        with ThreadPoolExecutor(self._servers_count) as threads:
            try:
                for word, (outputs, counts) in zip(
                    asked, threads.map(self._run_anywhere, asked), strict=True
                ):
                    if self._agrees(word, outputs):  # where not, query() finds out what is right
                        self._keep(word, outputs, counts)
            finally:
                threads.shutdown(cancel_futures=True)

    def _knows(self, word: tuple[str, ...]) -> bool:
        return all(word[:size] in self._known for size in range(1, len(word) + 1))

    def _run_anywhere(self, word: tuple[str, ...]) -> tuple[list[str], list[int]]:
        connect = self._servers.get()
        try:
            return self._run(word, connect())
        finally:
            self._servers.put(connect)

    def answers_hello(self) -> bool:
        """Whether the server says anything to a first hello."""
        return any(self._run(("hello",))[0] != [NOTHING] for _ in range(_TRIES))

    def _ask(self, word: tuple[str, ...]) -> None:
        seen: list[list[str]] = []
        for _ in range(_TRIES):
            outputs, counts = self._run(word)
            if word[0] == "hello" and outputs[0] == NOTHING:  # it was answered in the beginning
                self._look_for_silence()
            agrees = self._agrees(word, outputs)
            if agrees if not seen else outputs in seen:
                if not agrees:
                    self._look_for_silence()
                    self._forget(word)
                self._keep(word, outputs, counts)
                if not agrees:
                    raise _Revised
                return
            seen.append(outputs)
            for size in range(1, len(word) + 1):  # it is not known what to wait for
                self._counts.pop(word[:size], None)
        self._look_for_silence()
        raise Unsteady(f"answers {seen} to {', '.join(word)}")

    def _keep(self, word: tuple[str, ...], outputs: list[str], counts: list[int]) -> None:
        for size, output in enumerate(outputs, 1):
            self._known[word[:size]] = output
            self._counts[word[:size]] = counts[size - 1]

    def confirm(self, word: tuple[str, ...]) -> None:
        """Ask once more for a sequence, without haste.

        Raises:
            _Revised: the answers are others now.
        """
        outputs, _ = self._run(word, patient=True)
        if not self._agrees(word, outputs):
            self._forget(word)
            raise _Revised

    def _look_for_silence(self) -> None:
        if not self.answers_hello():
            sent = "; ".join(", ".join(word) for word in self._recent[:_RECENT_MAX])
            raise FellSilent(f"the server answers no hello any more; sent last: {sent}")

    def _forget(self, word: tuple[str, ...]) -> None:
        self.revised = ", ".join(word)
        for table in self._known, self._counts:
            for one in [one for one in table if one[:1] == word[:1]]:
                del table[one]

    def _agrees(self, word: tuple[str, ...], outputs: list[str]) -> bool:
        known = (self._known.get(word[:size]) for size in range(1, len(word) + 1))
        return all(one in (None, output) for one, output in zip(known, outputs, strict=True))

    def _run(
        self, word: tuple[str, ...], exchange: Exchange | None = None, *, patient: bool = False
    ) -> tuple[list[str], list[int]]:
        exchange, client = exchange or self._connect(), Client()
        outputs, counts = [], []
        for size, letter in enumerate(word, 1):
            expected = PATIENT if patient else self._counts.get(word[:size])
            answers = exchange(client.datagram(letter), expected)
            outputs.append(client.read(answers))
            counts.append(len(answers))
        if any(counts):
            self._recent.clear()
        self._recent.append(word)
        return outputs, counts

    # What AALpy wants to be there; its own algorithm asks by query() alone.

    def pre(self) -> None:
        """Not used."""

    def post(self) -> None:
        """Not used."""

    def step(self, letter: str) -> str:
        """Not used."""
        raise NotImplementedError(letter)


class _Walks(Oracle):  # type: ignore[misc]
    """Whether a machine is right: two letters from each state, and random sequences."""

    def __init__(self, asked: _Asked, walks: int, seed: int) -> None:
        super().__init__(list(LETTERS), asked)
        self._walks = walks
        self._chance = random.Random(seed)

    def find_cex(self, hypothesis: Any) -> tuple[str, ...] | None:
        """A sequence that the machine answers otherwise than the server."""
        words = list(self._words(hypothesis))
        self.sul.prepare(words)
        for word in words:
            hypothesis.reset_to_initial()
            said = [hypothesis.step(letter) for letter in word]
            outputs = self.sul.query(word)
            for size, (one, other) in enumerate(zip(said, outputs, strict=True), 1):
                if one != other:
                    return word[:size]
        return None

    def _words(self, hypothesis: Any) -> Iterator[tuple[str, ...]]:
        for state in hypothesis.states:
            for more in product(LETTERS, repeat=2):
                yield (*state.prefix, *more)
        letters = list(LETTERS)
        for _ in range(self._walks):
            yield tuple(self._chance.choices(letters, k=self._chance.randrange(3, _LONGEST_WALK)))
