"""The masquerade rules and their order: FACTS section 3."""

from __future__ import annotations

from flannel import masquerade
from ipam import lease
from ipam.network import parse_config

OWN = lease.parse("10.5.1.0-24", '{"PublicIP":"192.168.64.2","PublicIPv6":null}')
CONFIG = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')

GOLDEN = """\
chain forward {
	type filter hook forward priority filter; policy accept;
	ip saddr 10.5.0.0/16 accept
	ip daddr 10.5.0.0/16 accept
}
chain postrouting {
	type nat hook postrouting priority srcnat; policy accept;
	meta mark & 0x4000 == 0x4000 return
	ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
	ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
	ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
	ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
	ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
}
"""


def test_rules_stand_in_flannels_order() -> None:
    assert masquerade.table(CONFIG, OWN, masquerade=True).body == GOLDEN


def test_without_ip_masq_only_forwarding_is_allowed() -> None:
    body = masquerade.table(CONFIG, OWN, masquerade=False).body
    assert "masquerade" not in body
    assert "chain forward" in body
