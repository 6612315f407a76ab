"""The structures under the queue against plain ones."""

from hypothesis import given
from hypothesis import strategies as st

from warmfleet_runtime.admission.backlog import Backlog
from warmfleet_runtime.admission.order import Sorted
from warmfleet_runtime.admission.shedding import Longest

COMMANDS = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.floats(0, 100, allow_nan=False)), max_size=200)


@given(COMMANDS)
def test_sorted_gives_the_lowest_and_the_highest_of_what_is_in_it(commands: list[tuple[bool, int, float]]) -> None:
    subject, plain = Sorted(), dict[int, float]()
    for is_added, item, key in commands:
        if is_added and item not in plain:
            plain[item] = key
            subject.add(item, key)
        elif not is_added and item in plain:
            del plain[item]
            subject.remove(item)
        ordered = sorted((key, item) for item, key in plain.items())
        assert subject.first() == (ordered[0] if ordered else None)
        assert subject.last() == (ordered[-1] if ordered else None)
        assert len(subject) == len(plain)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=100))
def test_longest_knows_the_tenant_with_most_waiting(commands: list[tuple[bool, str]]) -> None:
    subject, plain = Longest(), dict[str, int]()
    for is_added, tenant in commands:
        if is_added:
            plain[tenant] = plain.get(tenant, 0) + 1
            subject.add(tenant)
        elif plain.get(tenant):
            plain[tenant] -= 1
            subject.remove(tenant)
        first = subject.first()
        assert (plain[first] if first else 0) == max(plain.values(), default=0)
        assert len(subject) == sum(count > 0 for count in plain.values())


@given(COMMANDS)
def test_a_backlog_is_the_sum_of_its_work_to_a_cell(commands: list[tuple[bool, int, float]]) -> None:
    subject, plain = Backlog(64.0), dict[int, tuple[float, float]]()
    for is_added, item, due in commands:
        if is_added and item not in plain:
            plain[item] = (due, float(item))
            subject.add("a", due, float(item))
        elif not is_added and item in plain:
            subject.remove("a", *plain.pop(item))
        assert subject.total == sum(work for _, work in plain.values())
        assert subject.of_tenant["a"] == subject.total
        least = sum(work for each, work in plain.values() if each <= due)
        most = sum(work for each, work in plain.values() if each <= due + 1)
        assert least <= subject.before(due) <= most
