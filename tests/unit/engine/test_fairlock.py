import signal
import threading
import time

import pytest

from fedtrain.engine.fairlock import FairLock


def test_threads_get_their_turn_in_the_order_in_which_they_ask():
    turn = FairLock()
    order = []

    def ask(number):
        with turn:
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    with turn:
        for expected, thread in enumerate(threads, start=1):
            thread.start()
            while len(turn._waiting) < expected:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_ctrl_c_while_waiting_leaves_the_turn_to_others():
    turn = FairLock()
    release = threading.Event()
    taken = threading.Event()

    def hold():
        with turn:
            taken.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    main = threading.main_thread().ident

    def interrupt():
        while not turn._waiting:
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt), turn:
        pass
    interrupter.join()
    release.set()
    holder.join()
    with turn:
        assert not turn._waiting
