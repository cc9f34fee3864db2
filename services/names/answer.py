# SPDX-License-Identifier: Apache-2.0
"""From a query's bytes to the answer's, or to a question for the host's resolvers. Pure.

RFC 1034 and 1035, EDNS of RFC 6891, no data and no such name of RFC 2308, minimal answers to ANY of
RFC 8482. Answers about the zone are authoritative and are kept for TTL seconds at most.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from services.names.records import Records, ZoneRecords

IPNetwork = IPv4Network | IPv6Network
TTL = 5  # seconds; a virtual address, too, may be another service's after a while
PAYLOAD = 1232  # bytes of a UDP answer that no network fragments (DNS flag day 2020)
PLAIN_PAYLOAD = 512  # bytes without EDNS, RFC 1035 section 2.3.4
HEADER = 12  # bytes


@dataclass(frozen=True, slots=True)
class Question:
    """A query that is right, and what its answer must be."""

    message: dns.message.Message
    limit: int
    """Bytes that the answer may have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes to send; none: say nothing."""

    wire: bytes
    rcode: int = 0


@dataclass(slots=True)
class Responder:
    """One zone, and the reverse names of the cluster's networks."""

    zone: dns.name.Name
    records: ZoneRecords = field(default_factory=ZoneRecords)
    networks: Sequence[IPNetwork] = ()
    """Reverse names of addresses within are answered here, all of them."""
    gateways: Sequence[str] = ()
    """This host's own addresses, that of the zone's name server."""
    serial: int = 1
    known: bool = False
    """Whether the records are all there are: without, nothing can be said about the zone."""

    def answer(self, wire: bytes, *, stream: bool) -> Answer | Question | None:
        """Answer, or return the question to forward; None: not even a query, say nothing."""
        if len(wire) < HEADER or wire[2] & 0x80:
            return None
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError, NotImplementedError):
            return _header_only(wire, dns.rcode.FORMERR)
        limit = _limit(query, stream=stream)
        if (wire[2] >> 3) & 15 != dns.opcode.QUERY:
            return _header_only(wire, dns.rcode.NOTIMP)
        if len(query.question) != 1 or wire[4:6] != b"\0\1":
            return _header_only(wire, dns.rcode.FORMERR)
        question = query.question[0]
        if query.edns > 0:
            return self._render(query, dns.rcode.BADVERS, [], [], limit)
        kind = question.rdtype
        refused = dns.rdatatype.is_metatype(kind) and kind != dns.rdatatype.ANY
        if question.rdclass != dns.rdataclass.IN or refused:
            return self._render(query, dns.rcode.REFUSED, [], [], limit)
        name = question.name
        if name.is_subdomain(self.zone):
            if not self.known:
                return self._render(query, dns.rcode.SERVFAIL, [], [], limit)
            return self._ours(query, name, limit)
        address = _reverse_address(name)
        if address is not None and any(
            address.version == one.version and address in one for one in self.networks
        ):
            return self._reverse(query, name, str(address), limit)
        return Question(query, limit)

    def _ours(self, query: dns.message.Message, name: dns.name.Name, limit: int) -> Answer:
        labels = [part.decode("latin-1").lower() for part in name.relativize(self.zone).labels]
        kind = query.question[0].rdtype
        found: Records | None
        if not labels:
            found = Records()
        elif labels in (["dns"], ["ns", "dns"]):
            own = {v: [g for g in self.gateways if (":" in g) == (v == 6)] for v in (4, 6)}
            found = Records(own if len(labels) == 2 else {})
        else:
            found = self.records.find(labels)
        if found is None:
            return self._render(query, dns.rcode.NXDOMAIN, [], [], limit, soa=self.zone)
        sets = self._sets(query.question[0].name, kind, found)
        more: list[dns.rrset.RRset] = []
        if not labels and kind in (dns.rdatatype.SOA, dns.rdatatype.ANY):
            sets.append(self._soa(name))
        if not labels and kind in (dns.rdatatype.NS, dns.rdatatype.ANY):
            sets.append(dns.rrset.from_text(name, TTL, "IN", "NS", str(self._server)))
        for target in {one.target for one in found.srv} if sets else ():
            at = self.records.find(target.split("."))
            if at is not None and len(more) < len(found.srv) * 2:
                whose = dns.name.from_text(target, self.zone)
                more += self._sets(whose, dns.rdatatype.ANY, Records(at.addresses))
        return self._render(
            query, dns.rcode.NOERROR, sets, more, limit, soa=None if sets else self.zone
        )

    def _reverse(
        self, query: dns.message.Message, name: dns.name.Name, address: str, limit: int
    ) -> Answer:
        owner = self.records.owner(address)
        apex = dns.name.Name(name.labels[-5 if ":" not in address else -19 :])
        if owner is None:
            return self._render(query, dns.rcode.NXDOMAIN, [], [], limit, soa=apex)
        if query.question[0].rdtype not in (dns.rdatatype.PTR, dns.rdatatype.ANY):
            return self._render(query, dns.rcode.NOERROR, [], [], limit, soa=apex)
        target = dns.name.from_text(owner, self.zone)
        found = dns.rrset.from_text(query.question[0].name, TTL, "IN", "PTR", str(target))
        return self._render(query, dns.rcode.NOERROR, [found], [], limit)

    def _sets(self, name: dns.name.Name, kind: int, found: Records) -> list[dns.rrset.RRset]:
        sets = []
        for version, rdtype in ((4, "A"), (6, "AAAA")):
            addresses = list(found.addresses.get(version, ()))
            if addresses and kind in (dns.rdatatype.from_text(rdtype), dns.rdatatype.ANY):
                random.shuffle(addresses)  # clients take the first
                sets.append(dns.rrset.from_rdata_list(name, TTL, [_rdata(a) for a in addresses]))
        if found.srv and kind in (dns.rdatatype.SRV, dns.rdatatype.ANY):
            lines = [f"0 1 {s.port} {dns.name.from_text(s.target, self.zone)}" for s in found.srv]
            sets.append(dns.rrset.from_text_list(name, TTL, "IN", "SRV", lines))
        return sets

    @property
    def _server(self) -> dns.name.Name:
        return dns.name.from_text("ns.dns", self.zone)

    def _soa(self, apex: dns.name.Name) -> dns.rrset.RRset:
        mail = dns.name.from_text("hostmaster", self.zone)
        text = f"{self._server} {mail} {self.serial} 3600 600 86400 {TTL}"
        return dns.rrset.from_text(apex, TTL, "IN", "SOA", text)

    def _render(
        self,
        query: dns.message.Message,
        rcode: dns.rcode.Rcode,
        sets: Sequence[dns.rrset.RRset],
        more: Sequence[dns.rrset.RRset],
        limit: int,
        soa: dns.name.Name | None = None,
    ) -> Answer:
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
        answer.set_rcode(rcode)
        if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            answer.flags |= dns.flags.AA
        answer.answer = list(sets)
        answer.authority = [self._soa(soa)] if soa is not None else []
        answer.additional = list(more)
        return Answer(rendered(answer, limit), int(rcode))


def rendered(answer: dns.message.Message, limit: int) -> bytes:
    """The bytes; what is too long for `limit` loses the additional section, then is cut off."""
    try:
        return answer.to_wire(max_size=limit)
    except dns.exception.TooBig:
        answer.additional = []
    try:
        return answer.to_wire(max_size=limit)
    except dns.exception.TooBig:
        answer.answer, answer.authority = [], []
        answer.flags |= dns.flags.TC
        return answer.to_wire(max_size=PLAIN_PAYLOAD)


def failure(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    """An answer that says no more than a reason."""
    answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
    answer.set_rcode(rcode)
    return answer.to_wire()


@functools.lru_cache(maxsize=16384)
def _rdata(address: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text("IN", "AAAA" if ":" in address else "A", address)


def _limit(query: dns.message.Message, *, stream: bool) -> int:
    if stream:
        return 65535
    if query.edns < 0:
        return PLAIN_PAYLOAD
    return min(max(query.payload, PLAIN_PAYLOAD), PAYLOAD)


def _header_only(wire: bytes, rcode: dns.rcode.Rcode) -> Answer:
    """To a query of which only the header can be relied on."""
    flags = 0x8080 | int.from_bytes(wire[2:4], "big") & 0x7900 | int(rcode)
    return Answer(wire[:2] + flags.to_bytes(2, "big") + bytes(8), int(rcode))


def _reverse_address(name: dns.name.Name) -> IPv4Address | IPv6Address | None:
    if not name.labels[-2:-1] or name.labels[-2].lower() != b"arpa":
        return None
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
