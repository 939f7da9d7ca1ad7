"""An upload goes on where it was cut, and never believes that something came which did not."""

import pytest

from convoy_edge_client.agent.upload import ANY_SESSION, Upload, UploadRecord, announced

OBJECTS = {"root": b"r" * 9, "big": b"b" * 500, "small": b"s", "middle": b"m" * 70}


def upload(*waiting, session="s", **state):
    return Upload(session=session, waiting=waiting, **state)


def test_the_message_goes_first_and_then_from_small_to_large():
    begun = announced(set(OBJECTS), "s", "root", OBJECTS)
    assert begun == upload("root", "small", "middle", "big")


def test_what_the_server_has_is_not_sent():
    assert announced({"root", "big"}, "s", "root", OBJECTS).waiting == ("root", "big")


def test_where_nothing_lacks_the_objects_go_to_whichever_session_waits():
    begun = announced(set(), "s", "root", OBJECTS)
    assert begun.session == ANY_SESSION
    assert begun.refused(large=False) is None  # the message itself: nobody waits
    assert begun.came().refused(large=False) == upload(
        "middle", "big", session=ANY_SESSION, unsure=True
    )


def test_all_that_came_for_certain_is_done():
    assert upload("a").came().done
    assert not upload("a").done


def test_a_refusal_out_of_the_blue_ends_it():
    assert upload("a", "b").refused(large=False) is None
    assert upload("a", "b").interrupted().came().refused(large=False) is None


def test_a_refusal_after_an_interruption_says_that_it_had_come():
    left = upload("a", "b").interrupted().refused(large=True)
    assert left.waiting == ("b",)
    assert left.came().done


def test_one_large_object_is_sent_in_vain_at_most():
    left = upload("a", "b", "c").interrupted().refused(large=True)
    assert left.refused(large=True) is None
    assert left.refused(large=False).waiting == ("c",)


def test_where_everything_was_refused_nobody_knows():
    left = upload("a").interrupted().refused(large=True)
    assert left.waiting == ()
    assert not left.done


def test_another_process_goes_on_where_this_one_died(tmp_path):
    record = UploadRecord(tmp_path / "sent")
    record.begin(upload("a", "b", "c"), durable=False)
    record.came(2, durable=False)
    record.came(1, durable=True)
    assert UploadRecord(tmp_path / "sent").load("abc") == upload("c", unsure=True)


@pytest.mark.parametrize(
    ("torn", "left"),
    [
        (b"", 2),
        (b"1", 2),  # not known to be the whole number
        (b"1\n", 1),
        (b"x\n", 2),
        (b"9" * 5000 + b"\n", 2),
    ],
)
def test_a_torn_note_counts_as_not_written(tmp_path, torn, left):
    record = UploadRecord(tmp_path / "sent")
    record.begin(upload("a", "b", "c"), durable=True)
    record.came(2, durable=True)
    with (tmp_path / "sent").open("ab") as file:
        file.write(torn)
    assert len(record.load("abc").waiting) == left


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]\n", b'{"session": 1}\n', b"\xff\n"])
def test_a_damaged_record_is_none(tmp_path, damaged):
    (tmp_path / "sent").write_bytes(damaged)
    assert UploadRecord(tmp_path / "sent").load("abc") is None


def test_the_record_of_another_answer_is_none(tmp_path):
    record = UploadRecord(tmp_path / "sent")
    record.begin(upload("a", "b"), durable=True)
    assert record.load("ac") is None


def test_no_record_no_upload(tmp_path):
    record = UploadRecord(tmp_path / "sent")
    assert record.load("abc") is None
    record.clear()
