"""Many people, one forward pass: who asks at the same time is computed together, and nobody's input fails with another's."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hfxfer.demo.together import Together


class Held:
    """Computes squares, but not before it is let go; keeps what it was asked at once."""

    def __init__(self):
        self.asked, self.entered, self.go = [], threading.Event(), threading.Event()

    def __call__(self, rows):
        self.entered.set()
        assert self.go.wait(10)
        self.asked.append(rows)
        if any(row < 0 for row in rows):
            raise ValueError(f"{min(rows)} is negative")
        return [row * row for row in rows]


def asked_while_busy(held, together, pool, questions):
    """Futures of questions that all wait while the first row is computed."""
    first = pool.submit(together.ask, [1])
    assert held.entered.wait(10)
    waiting = []
    for number, rows in enumerate(questions, start=1):
        waiting.append(pool.submit(together.ask, rows))
        while together._waiting.qsize() < number:
            pass
    held.go.set()
    assert first.result(10) == [1]
    return waiting


def test_who_waits_is_computed_at_once_and_gets_the_own_answers():
    held = Held()
    with ThreadPoolExecutor(8) as pool:
        waiting = asked_while_busy(held, Together([held], 4), pool, [[2], [3, 4], [5, 6], [7]])
        assert [future.result(10) for future in waiting] == [[4], [9, 16], [25, 36], [49]]
    assert held.asked == [[1], [2, 3, 4, 5, 6], [7]]


def test_a_row_that_fails_fails_alone():
    held = Held()
    with ThreadPoolExecutor(8) as pool:
        waiting = asked_while_busy(held, Together([held], 16), pool, [[2], [-3], [4]])
        assert waiting[0].result(10) == [4] and waiting[2].result(10) == [16]
        with pytest.raises(ValueError, match="-3 is negative"):
            waiting[1].result(10)
    assert held.asked == [[1], [2, -3, 4], [2], [-3], [4]]


def test_the_thread_ends_with_the_last_who_holds_it():
    import gc
    import weakref

    class Model:
        def __init__(self):
            self.together = Together([self.compute], 4)

        def compute(self, rows):
            return rows

    model = Model()
    assert model.together.ask([1]) == [1]
    gone, waiting = weakref.ref(model), model.together._waiting
    threads = [thread for thread in threading.enumerate() if thread.name == "computing" and thread._args[0] is waiting]
    del model
    gc.collect()
    threads[0].join(10)
    assert gone() is None and len(threads) == 1 and not threads[0].is_alive()


def test_too_few_records_fail_the_request_and_not_the_thread():
    together = Together([lambda rows: rows[:1]], 4)
    with pytest.raises(RuntimeError, match="1 records came of 2 rows"):
        together.ask([1, 2])
    assert together.ask([3]) == [3]


def test_several_that_compute_share_who_waits():
    first, second = Held(), Held()
    together = Together([first, second], 16)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(together.ask, [0])]
        while not (first.entered.is_set() or second.entered.is_set()):
            pass
        waiting.append(pool.submit(together.ask, [1]))
        while not (first.entered.is_set() and second.entered.is_set()):
            pass
        waiting += [pool.submit(together.ask, [row]) for row in range(2, 8)]
        while together._waiting.qsize() < 6:
            pass
        first.go.set()
        assert sorted(future.result(10)[0] for future in waiting[2:]) == [4, 9, 16, 25, 36, 49]
        second.go.set()
        assert [future.result(10) for future in waiting[:2]] == [[0], [1]]
    assert [len(rows) for rows in first.asked] == [1, 3, 2, 1] and len(second.asked) == 1
