"""OwnedLock: nothing that a signal handler raises leaves it held, and no fork does. News: none is
missed."""

from __future__ import annotations

import ast
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from gnutls_cookie import locks
from gnutls_cookie.locks import News, OwnedLock
from tests.support.common import ROOT, forking, python_in_silence, seeded

BOUND = 20  # seconds that a wait of these tests lasts at most


class Stop(Exception):
    """What the handler raises."""


@pytest.fixture
def raising_handler() -> Iterator[None]:
    """SIGALRM raises Stop."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_free(lock: OwnedLock) -> bool:
    token = lock.token()
    try:
        return lock.take(token, 0)
    finally:
        lock.give(token)


def elsewhere(lock: OwnedLock) -> bool:
    """Whether another thread finds it free."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_free(lock)))
    thread.start()
    thread.join(BOUND)
    return found[0]


def test_one_token_owns_it_at_a_time() -> None:
    """take and give; a second owner waits no longer than it is told to."""
    lock = OwnedLock()
    token = lock.token()
    try:
        assert lock.take(token)
        assert not elsewhere(lock)
    finally:
        lock.give(token)
    assert elsewhere(lock)


def test_give_of_another_token_does_nothing() -> None:
    """Neither a stranger's, nor one whose take never came to be, nor the same one twice."""
    lock = OwnedLock()
    stranger, token, nobody = lock.token(), lock.token(), 0
    lock.give(stranger)
    lock.take(token)
    lock.give(stranger)
    lock.give(nobody)
    assert not elsewhere(lock)
    lock.give(token)
    lock.give(token)
    assert elsewhere(lock)


def test_token_is_a_new_number_each_time() -> None:
    """Over all locks and threads; 0, which owns nothing, is refused."""
    pair = [OwnedLock(), OwnedLock()]
    seen: list[int] = []

    def work(lock: OwnedLock) -> None:
        seen.extend([lock.token() for _ in range(5000)])

    threads = [threading.Thread(target=work, args=(lock,)) for lock in pair * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(set(seen)) == 20000
    assert 0 not in seen
    with pytest.raises(ValueError, match="token"):
        pair[0].take(0)


def test_thread_that_holds_it_gets_an_error_not_a_wait_without_end() -> None:
    """A signal handler that takes what its own thread holds would never come back."""
    lock = OwnedLock()
    token = lock.token()
    lock.take(token)
    with pytest.raises(RuntimeError, match="holds the lock already"):
        lock.take(lock.token())
    assert not lock.take(lock.token(), 0)
    lock.give(token)
    assert is_free(lock)


def test_take_waits_for_its_turn() -> None:
    """4 threads count without atomics: no turn is lost, and nobody waits forever."""
    lock = OwnedLock()
    count = [0]

    def work() -> None:
        for _ in range(2000):
            token = lock.token()
            try:
                lock.take(token)
                value = count[0]
                if value % 50 == 0:
                    time.sleep(0)
                count[0] = value + 1
            finally:
                lock.give(token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert count == [8000]


def test_take_ends_with_its_timeout() -> None:
    """Also in a thread that runs no signal handlers, whose slices are long."""
    lock = OwnedLock()
    token = lock.token()
    taken: list[bool] = []
    lock.take(token)
    thread = threading.Thread(target=lambda: taken.append(lock.take(lock.token(), 0.05)))
    thread.start()
    thread.join(BOUND)
    assert taken == [False]
    lock.give(token)


def test_signal_handler_runs_during_a_long_take(raising_handler: None) -> None:
    """The main thread waits in slices."""
    lock, held, done = OwnedLock(), threading.Event(), threading.Event()

    def holder() -> None:
        token = lock.token()
        try:
            lock.take(token)
            held.set()
            done.wait(BOUND)
        finally:
            lock.give(token)

    thread = threading.Thread(target=holder)
    thread.start()
    assert held.wait(BOUND)
    token = lock.token()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Stop):
            lock.take(token, BOUND)
    finally:
        lock.give(token)
        done.set()
    thread.join(BOUND)
    assert is_free(lock)


def test_wait_gives_the_lock_until_it_is_told() -> None:
    """The change is made with the lock held while the other one waits; both hold it in turn."""
    lock = OwnedLock()
    box: list[str] = []

    def change() -> None:
        token = lock.token()
        try:
            lock.take(token)
            box.append("changed")
            lock.notify()
        finally:
            lock.give(token)

    thread = threading.Thread(target=change)
    token = lock.token()
    try:
        lock.take(token)
        thread.start()
        while not box:
            assert lock.wait(token, BOUND)
        assert not elsewhere(lock)
    finally:
        lock.give(token)
    thread.join(BOUND)
    assert is_free(lock)


def test_wait_ends_with_its_timeout_and_holds_the_lock() -> None:
    """Without a notify(); a notify() of before does not count."""
    lock = OwnedLock()
    token = lock.token()
    try:
        lock.take(token)
        lock.notify()
        assert not lock.wait(token, 0.02)
        assert not elsewhere(lock)
    finally:
        lock.give(token)


def test_notify_wakes_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, of which none would wake by itself."""
    monkeypatch.setattr(locks, "_WAIT_MS", 3_600_000)
    lock = OwnedLock()
    waiting: list[int] = []
    told: list[bool] = []

    def wait() -> None:
        token = lock.token()
        try:
            lock.take(token)
            waiting.append(token)
            told.append(lock.wait(token))
        finally:
            lock.give(token)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    all_wait = False
    while not all_wait:
        token = lock.token()
        try:
            lock.take(token)
            all_wait = len(waiting) == 4
            if all_wait:
                lock.notify()
        finally:
            lock.give(token)
    for thread in threads:
        thread.join(BOUND)
    assert told == [True] * 4


def test_notify_just_after_the_lock_was_given_is_not_missed() -> None:
    """Whoever gets the lock first may make the change before wait() has begun to wait."""
    lock = OwnedLock()
    give = lock.give

    def give_and_change(token: int) -> None:
        give(token)
        lock.notify()

    lock.give = give_and_change
    token = lock.token()
    try:
        lock.take(token)
        assert lock.wait(token, BOUND)
    finally:
        give(token)


@pytest.mark.parametrize("how", ["_take", "_await"])
def test_waiting_costs_no_processor_time(how: str) -> None:
    """C is asked a few times a second, not thousands of times."""
    lock = OwnedLock()
    calls: list[object] = []
    function = getattr(lock, how)

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    held = threading.Thread(target=lambda: lock.take(lock.token()))
    token = lock.token()
    if how == "_take":
        held.start()
        held.join(BOUND)
    else:
        lock.take(token)
    setattr(lock, how, counted)
    assert not (lock.take if how == "_take" else lock.wait)(token, 0.3)
    assert 0 < len(calls) < 20


def test_raising_handler_leaves_nothing_held(raising_handler: None) -> None:
    """5,000 exceptions at random in take, wait and give, while another thread takes it as well."""
    lock = OwnedLock()
    draw = seeded()
    over = threading.Event()
    turns = [0]

    def other() -> None:
        while not over.is_set():
            token = lock.token()
            try:
                lock.take(token)
                turns[0] += 1
                lock.notify()
            finally:
                lock.give(token)
            time.sleep(0)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        for _ in range(5000):
            token = 0
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(10e-6, 100e-6))
                while True:
                    token = lock.token()
                    try:
                        lock.take(token)
                        if token % 5 == 0:
                            lock.wait(token, 1e-5)
                    finally:
                        lock.give(token)
            except Stop:
                pass
            probe = lock.token()
            assert lock.take(probe, BOUND)  # RuntimeError: this thread holds it still
            lock.give(probe)
        before = turns[0]
        time.sleep(0.05)
        assert turns[0] > before
    finally:
        over.set()
        thread.join(BOUND)
    assert is_free(lock)


FORKS = """
import os, signal, sys, threading
from gnutls_cookie import locks
from gnutls_cookie.locks import News, OwnedLock

lock = OwnedLock()
stop = threading.Event()
def busy():
    while not stop.is_set():
        token = lock.token()
        try:
            lock.take(token)
            lock.wait(token, 1e-4)
        finally:
            lock.give(token)
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
for turn in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        token = lock.token()
        try:
            free = lock.take(token, 0)
            again = lock.wait(token, 0.001)
        finally:
            lock.give(token)
        # The threads of the child use it as those of the parent do.
        done = []
        def own():
            token = lock.token()
            try:
                done.append(lock.take(token, 10))
            finally:
                lock.give(token)
        thread = threading.Thread(target=own)
        thread.start()
        thread.join()
        os._exit(0 if free and not again and done == [True] else 1)
    assert os.waitpid(child, 0)[1] == 0, turn
stop.set()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_of_a_fork_finds_it_free() -> None:
    """Threads of the parent hold it and wait for it all the time; they are not in the child."""
    assert python_in_silence(FORKS, env=forking(), timeout=120) == "done\n"


FORKS_WITH_IT = """
import os, threading
from gnutls_cookie import locks
from gnutls_cookie.locks import News, OwnedLock

lock = OwnedLock()
def is_free():
    found = []
    def look():
        token = lock.token()
        try:
            found.append(lock.take(token, 0))
        finally:
            lock.give(token)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]
token = lock.token()
lock.take(token)
child = os.fork()
held = not is_free()
lock.give(token)
well = held and is_free()
if child == 0:
    os._exit(0 if well else 1)
print(well, os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_thread_that_forks_while_it_holds_it_holds_it_in_the_child() -> None:
    """It is there, in the middle of what it guards."""
    assert python_in_silence(FORKS_WITH_IT, env=forking(), timeout=60) == "True 0\n"


def takes_unguarded(tree: ast.AST) -> list[int]:
    """The lines of .take() that are not in a try block whose finally begins with .give()."""
    guarded: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try) or not node.finalbody:
            continue
        first = node.finalbody[0]
        if isinstance(first, ast.Expr) and _calls(first.value, "give"):
            guarded |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _calls(node, "take") and id(node) not in guarded
    ]


def _calls(node: ast.expr, name: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
    )


def test_package_takes_it_in_the_one_safe_way() -> None:
    """Inside of a try block whose finally begins with the call that gives it."""
    for path in (ROOT / "gnutls_cookie").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "import OwnedLock" in text:
            assert takes_unguarded(ast.parse(text)) == [], path.name


@pytest.mark.parametrize(
    "code",
    [
        "lock.take(1)\ntry:\n    pass\nfinally:\n    lock.give(1)",
        "try:\n    lock.take(1)\nfinally:\n    log()\n    lock.give(1)",
        "try:\n    lock.take(1)\nexcept OSError:\n    lock.give(1)",
    ],
)
def test_unsafe_ways_to_take_it_are_seen(code: str) -> None:
    """The reader itself."""
    assert takes_unguarded(ast.parse(code)) != []


def test_news_between_the_look_and_the_wait_are_not_missed() -> None:
    """Nor are older ones taken for new ones."""
    news = News()
    seen = news.seen()
    assert news.wait(seen, 0.001) == seen
    news.tell()
    told = news.wait(seen)
    assert told > seen
    assert news.wait(told, 0.001) == told == news.seen()


def test_two_threads_change_places() -> None:
    """Each wakes the other by the call in which it goes to sleep: none misses its turn."""
    pair, turn = [News(), News()], [0]
    order: list[int] = []

    def work(number: int) -> None:
        mine, other = pair[number], pair[1 - number]
        while len(order) < 1000:
            seen, first = mine.seen(), None
            if turn[0] == number:
                order.append(number)
                turn[0], first = 1 - number, other
            if mine.wait(seen, BOUND, first) == seen:
                break
        other.tell()

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert order == [0, 1] * 500


def test_all_that_wait_for_news_are_woken_each_time() -> None:
    """No timer would wake one that was missed, and some are told as they begin to wait."""
    news, turn = News(), [0]
    reached: list[int] = []

    def wait() -> None:
        for number in range(1, 301):
            reached.append(number)
            seen = news.seen()
            while turn[0] < number:
                seen = news.wait(seen)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + BOUND
    while turn[0] < 300 and time.monotonic() < end:
        if len(reached) == 4 * (turn[0] + 1):
            turn[0] += 1
            news.tell()
        time.sleep(0)
    for thread in threads:
        thread.join(BOUND)
    assert sorted(reached) == [number for number in range(1, 301) for _ in threads]
    assert not any(thread.is_alive() for thread in threads)


NEWS_AND_FORKS = """
import os, signal, threading
from gnutls_cookie.locks import News

news = News()
over = threading.Event()
def wait():
    seen = news.seen()
    while not over.is_set():
        seen = news.wait(seen)
threads = [threading.Thread(target=wait) for _ in range(3)]
for thread in threads:
    thread.start()
for turn in range(50):
    news.tell()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        seen = news.seen()
        told = []
        thread = threading.Thread(target=lambda: told.append(news.wait(seen)))
        thread.start()
        news.tell()
        thread.join()
        os._exit(0 if told == [seen + 1] and news.wait(seen + 1, 0.001) == seen + 1 else 1)
    assert os.waitpid(child, 0)[1] == 0, turn
over.set()
news.tell()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_of_a_fork_is_told_news_of_its_own() -> None:
    """Threads of the parent wait for them all the time; they are not in the child."""
    assert python_in_silence(NEWS_AND_FORKS, env=forking(), timeout=120) == "done\n"
