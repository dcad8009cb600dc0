from torture.interruption import check_full_disk, check_second_signal


def test_a_second_signal_stops_at_once(workplace):
    assert check_second_signal(workplace) == (1, [])


def test_a_full_disk_gives_a_clear_error_and_leaves_the_last(workplace):
    assert check_full_disk(workplace) == (1, [])
