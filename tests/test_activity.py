"""What a process reports as its current activity: the innermost first, formatted only when asked for, and cheap."""

import threading
import time
import timeit
from contextlib import contextmanager

import pytest

from disttrain import activity as activities
from disttrain.activity import activity, current_activities, describe, last_progress_s, note_position, position, touch


@contextmanager
def thread_doing(*arguments, **options):
    """Runs a thread inside an activity; yields a function that makes the thread report progress."""
    entered, moves, moved, ends = (threading.Event() for _ in range(4))

    def work():
        with activity(*arguments, **options):
            entered.set()
            moves.wait(10)
            touch()
            moved.set()
            ends.wait(10)

    def move():
        moves.set()
        assert moved.wait(10)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    assert entered.wait(10)
    try:
        yield move
    finally:
        moves.set()
        ends.set()
        thread.join()


def test_the_innermost_activity_is_told_and_leaving_it_tells_the_one_around_it():
    assert current_activities() == []
    with activity("training epoch {}", 3):
        with activity("reading bytes {} to {} of {}", 5, 9, "s3://a/{b}"):
            assert [one.text for one in current_activities()] == ["reading bytes 5 to 9 of s3://a/{b}"]
        assert [one.text for one in current_activities()] == ["training epoch 3"]
    assert current_activities() == []


def test_a_text_without_values_is_taken_as_it_stands():
    with activity("reading {}"):
        assert current_activities()[0].text == "reading {}"


def test_an_activity_ends_with_the_exception_that_leaves_it():
    with pytest.raises(KeyError), activity("looking up"):
        raise KeyError
    assert current_activities() == []


def test_a_generator_left_in_the_middle_takes_its_own_activity_along():
    def rows():
        with activity("reading rows"):
            yield 1

    generator = rows()
    next(generator)
    with activity("training"):
        generator.close()
        assert [one.text for one in current_activities()] == ["training"]
    assert current_activities() == []


def test_the_main_thread_comes_first_and_a_thread_that_ended_is_gone():
    with thread_doing("reading"), activity("waiting"):
        assert [(one.thread, one.text) for one in current_activities()] == [
            ("MainThread", "waiting"),
            ("worker", "reading"),
        ]
    assert current_activities() == []


def test_entering_leaving_touching_and_noting_the_position_are_progress():
    moments = [last_progress_s()]
    with activity("training"):
        moments.append(last_progress_s())
        touch()
        moments.append(last_progress_s())
        note_position(2, 400)
        assert position() == (2, 400)
        moments.append(last_progress_s())
    moments.append(last_progress_s())
    assert moments == sorted(set(moments))


@pytest.mark.parametrize("waits", [False, True])
def test_a_threads_progress_counts_where_it_is_waited_for(waits):
    with thread_doing("reading") as move, activity("waiting for rows", waits_for_threads=waits):
        before = last_progress_s()
        move()
        assert (last_progress_s() > before) is waits


def test_who_waits_for_threads_tells_what_they_do():
    waits = {"waits_for_threads": True}
    with thread_doing("putting windows together", **waits), activity("waiting for rows", **waits):
        assert describe() == "waiting for rows"
        with thread_doing("reading bytes 5 to 9 of a.csv"):
            assert describe() == "waiting for rows: reading bytes 5 to 9 of a.csv"


def test_what_nobody_named_is_told_by_its_line():
    found = []
    watcher = threading.Thread(target=lambda: (time.sleep(0.2), found.append(describe())))
    watcher.start()
    watcher.join()  # inside of the library of threads; the line that counts is this one
    assert found[0].startswith("running test_activity.py:")
    assert found[0].endswith(" in test_what_nobody_named_is_told_by_its_line")


def test_it_costs_next_to_nothing():
    def work():
        with activity("reading bytes {} to {} of {}", 5, 9, "a.csv"):
            pass

    for call in (work, activities.touch):
        # the best of many short turns: on a busy machine the long ones are interrupted
        assert min(timeit.repeat(call, number=200, repeat=500)) / 200 < 2e-6
