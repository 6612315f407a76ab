"""Certificates: made, trusted and replaced without a moment in which none counts."""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from warmfleet_external_metrics.certificate import (
    MAX_BUNDLE,
    RENEW_BEFORE,
    VALID,
    Pair,
    make,
    merged,
    read_bundle,
    write_bundle,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NAMES = ("service.namespace.svc",)


def pair(process: str = "a", at: datetime = NOW) -> Pair:
    return make(process, NAMES, at)


def test_a_certificate_is_for_the_service_and_works_in_tls() -> None:
    made = pair("warmfleet-external-metrics-0123456789-abcdefghijklmnop-and-what-is-too-long-for-a-name")
    alternatives = made.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == list(NAMES)
    with tempfile.NamedTemporaryFile() as file:
        file.write(made.pem)
        file.flush()
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(file.name)


def test_it_is_replaced_long_before_its_end() -> None:
    made = pair()
    assert not made.is_due(NOW + VALID - RENEW_BEFORE - timedelta(seconds=1))
    assert made.is_due(NOW + VALID - RENEW_BEFORE)


def test_a_bundle_is_read_as_it_was_written_and_nonsense_is_empty() -> None:
    one, two = pair().certificate, pair("b").certificate
    assert read_bundle(write_bundle((one, two))) == (one, two)
    assert read_bundle("") == read_bundle("no base64!") == read_bundle("bm8gUEVN") == ()


def test_replicas_trust_each_other_and_come_to_rest() -> None:
    one, two = pair("a").certificate, pair("b").certificate
    both = merged(merged((), (one,), NOW), (two,), NOW)
    assert set(both) == {one, two}
    assert merged(both, (one,), NOW) == merged(both, (two,), NOW) == both


def test_ones_own_former_certificates_go_and_those_of_others_when_they_are_over() -> None:
    former, present = pair("a").certificate, pair("a").certificate
    other, over = pair("b").certificate, pair("c", NOW - VALID).certificate
    assert set(merged((former, other, over), (present,), NOW)) == {present, other}
    assert set(merged((former, other), (former, present), NOW)) == {former, present, other}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, MAX_BUNDLE + 8), st.integers(0, 40))
def test_pods_that_are_gone_push_nobody_out_who_looks_after_itself(dead: int, hours: int) -> None:
    known = [pair(f"dead-{number}", NOW - timedelta(hours=number)).certificate for number in range(dead)]
    mine = pair("a", NOW - timedelta(hours=hours)).certificate
    trusted = merged(known, (mine,), NOW)
    assert mine in trusted and len(trusted) == min(dead + 1, MAX_BUNDLE)
    oldest_kept = min((each.not_valid_before_utc for each in trusted if each != mine), default=NOW)
    assert all(each in trusted for each in known if each.not_valid_before_utc > oldest_kept)
