"""What is granted counts from the question on, and never twice for long."""

from asyncflow.reservations import Ledger, Reservation


def test_what_is_held_counts_until_it_is_given_back() -> None:
    ledger = Ledger()
    ledger.hold("anna", 5)
    ledger.hold("bert", 2)
    assert (ledger.of("anna"), ledger.of("bert"), ledger.total) == (5, 2, 7)
    ledger.hold("anna", -5)
    assert (ledger.of("anna"), ledger.total) == (0, 2)


def test_what_is_passed_on_counts_until_a_look_that_began_later_has_ended() -> None:
    ledger = Ledger()
    ledger.hold("anna", 5)
    early = ledger.begin_look()
    ledger.pass_on("anna", 5)
    ledger.end_look(early)
    assert (ledger.of("anna"), ledger.total) == (5, 5)

    late = ledger.begin_look()
    ledger.hold("anna", 3)
    ledger.pass_on("anna", 3)
    ledger.end_look(late)

    assert (ledger.of("anna"), ledger.total) == (3, 3)


def test_a_reservation_gives_back_only_what_nobody_else_counts() -> None:
    quota, room = Ledger(), Ledger()
    held = Reservation(quota, room, "anna")
    held.hold(10, 20)
    held.stored(15)
    held.counted()
    held.hold(4, 1)
    held.release()
    assert (quota.of("anna"), room.total) == (10, 15)
    quota.end_look(quota.begin_look())
    room.end_look(room.begin_look())
    assert (quota.total, room.total) == (0, 0)


def test_an_upload_at_rest_holds_what_is_there() -> None:
    quota, room = Ledger(), Ledger()
    held = Reservation(quota, room, "anna")
    held.hold(100, 100)
    held.stored(30)
    held.rest(30)
    room.end_look(room.begin_look())
    assert (quota.of("anna"), room.total) == (30, 0)
