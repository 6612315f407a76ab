import itertools

import pytest

from localcluster.addresses import MAX_CLUSTERS, MAX_NODES, Addresses


def test_no_two_clusters_share_an_address_or_a_name() -> None:
    ranges = []
    names: list[str] = []
    for index in range(MAX_CLUSTERS):
        addresses = Addresses(index)
        ranges += [addresses.node_network, addresses.service_range, addresses.pod_range, addresses.fleet_range]
        names += [addresses.bridge, addresses.fleet_interface]
        names += [addresses.node_interface(number) for number in range(1, MAX_NODES + 1)]
    assert not [(a, b) for a, b in itertools.combinations(ranges, 2) if a.overlaps(b)]
    assert len(names) == len(set(names))
    assert all(len(name) <= 15 for name in names), "the kernel takes no longer interface names"


@pytest.mark.parametrize("number", [1, MAX_NODES])
def test_every_node_lies_in_its_cluster_and_away_from_the_fleet(number: int) -> None:
    addresses = Addresses(3)
    assert addresses.node(number) in addresses.node_network
    assert addresses.node(number) not in (addresses.host, addresses.fleet)
    assert addresses.node_pods(number).subnet_of(addresses.pod_range)
