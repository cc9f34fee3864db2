# SPDX-License-Identifier: Apache-2.0
"""What each config key means. A unit test compares the keys with those that the code reads.

Types, defaults and limits of the backends' options come from the code (`docs/key_reader.py`) unless
they are given here.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """One key, as the reference describes it."""

    text: str
    type: str = ""
    """Empty: as the code reads it; likewise the next two."""
    default: str = ""
    limits: str = ""


MTU = Key("MTU of the underlay, in bytes; pods get it less the backend's overhead", "", "device's")

CLUSTER = {
    "Network": Key("Network of all pods, IPv4", "CIDR", "required with IPv4", "/28 or larger"),
    "SubnetLen": Key(
        "Prefix length of one host's subnet",
        "integer",
        "24, or Network's + 2",
        "Network's + 2 to 30",
    ),
    "SubnetMin": Key("Base of the first subnet that may be leased", "address", "the second subnet"),
    "SubnetMax": Key("Base of the last subnet that may be leased", "address", "the last subnet"),
    "IPv6Network": Key("Network of all pods, IPv6", "CIDR", "required with IPv6", "/124 or larger"),
    "IPv6SubnetLen": Key(
        "The same as SubnetLen for IPv6",
        "integer",
        "64, or IPv6Network's + 2",
        "IPv6Network's + 2 to 126",
    ),
    "IPv6SubnetMin": Key("The same as SubnetMin for IPv6", "address", "the second subnet"),
    "IPv6SubnetMax": Key("The same as SubnetMax for IPv6", "address", "the last subnet"),
    "ServiceNetwork": Key(
        "Network of services' virtual IPv4 addresses; it must not overlap Network. "
        "flanneld ignores it",
        "CIDR",
        "none",
        "/30 or larger",
    ),
    "IPv6ServiceNetwork": Key(
        "The same as ServiceNetwork for IPv6", "CIDR", "none", "/126 or larger"
    ),
    "ServiceZone": Key(
        "DNS zone of services' names: each host answers its pods at their gateway's port 53 "
        "([names](../services/names.md)). flanneld ignores it",
        "DNS name",
        "none: no host answers",
        "at most 200 characters",
    ),
    "EnableIPv4": Key("Whether pods have IPv4 addresses", "boolean", "true"),
    "EnableIPv6": Key("Whether pods have IPv6 addresses", "boolean", "false"),
    "EnableNFTables": Key(
        "Accepted for flanneld's sake, without effect: nftables is always used", "boolean", "false"
    ),
    "IPMasq": Key(
        "Whether hosts masquerade what leaves the cluster, whatever their `--ip-masq` says. "
        "flanneld ignores it",
        "boolean",
        "each host's `--ip-masq`",
    ),
    "OpenToPods": Key(
        "What pods may reach on hosts though it is closed to them: `etcd`, `metrics`, `scheduler`, "
        "`tunnels`, or ports as `tcp/2379`. flanneld ignores it",
        "list of strings",
        "[]",
    ),
    "Backend": Key("Options of the backend; `Type` is its name", "object", '{"Type":"udp"}'),
}

BACKENDS = {
    "vxlan": {
        "VNI": Key("Number of the VXLAN network; the device is `flannel.VNI`"),
        "Port": Key("UDP port; 0 is the default", default="8472"),
        "MTU": MTU,
        "DirectRouting": Key("Plain routes to peers on the same L2 segment, without a tunnel"),
        "Learning": Key("Whether the VXLAN device learns from packets; no host here needs it"),
    },
    "udp": {
        "Port": Key("UDP port; 0 is the default", default="8285"),
        "MTU": MTU,
        "Queues": Key("TUN queues, a thread each; 0 is one for every two processors"),
        "SinglePacket": Key("Packet by packet, as flanneld does; for benchmarks"),
    },
    "wireguard": {
        "ListenPort": Key("UDP port of `flannel-wg`"),
        "ListenPortV6": Key("UDP port of `flannel-wg-v6` (Mode separate)"),
        "PSK": Key("Preshared key of the whole cluster, as `wg genpsk` prints it", default="none"),
        "PersistentKeepaliveInterval": Key("Seconds between keepalives; 0 is off. For NAT"),
        "MTU": MTU,
        "Mode": Key(
            "`separate`: a device per family. The others: one device for both, over IPv4, over "
            "IPv6, or (`auto`) over IPv4 unless only IPv6 is public on both sides",
            default="separate",
            limits="separate, auto, ipv4, ipv6",
        ),
    },
    "ovs": {
        "Mesh": Key("A port per peer, one port with flows, or both"),
        "Tunnel": Key("What carries frames between hosts", default="vxlan"),
        "Key": Key("GRE key, VXLAN or Geneve VNI", default="1", limits="1 to 2^24-1; GRE 2^32-1"),
        "Port": Key("UDP port; 0 is IANA's: VXLAN 4789, Geneve 6081. None for GRE"),
        "Datapath": Key("The kernel's datapath, userspace's, or the kernel's where it has one"),
        "PodAttach": Key("Pods on the Linux bridge, or on Open vSwitch"),
        "MTU": MTU,
        "Peers": Key(
            "Mesh `combined` only: rules of CIDR, Tunnel, Key, Port. The first whose CIDR has both "
            "hosts' PublicIP applies",
            default="[]",
        ),
        "CIDR": Key("In a rule of Peers: the hosts it applies to", "CIDR", "required"),
        "SpanningTree": Key("Mesh `static` only: a switch under a spanning tree"),
    },
}

CNI = {
    "bridge": Key("The bridge that pods are attached to", "interface name", "kbr0"),
    "isGateway": Key("Whether the bridge has the gateway's addresses"),
    "isDefaultGateway": Key("Whether pods have a default route to the gateway"),
    "forceAddress": Key("Replace another address on the bridge"),
    "ipMasq": Key("Masquerade what pods send to other networks"),
    "mtu": Key("MTU of the pod's interface, in bytes", default="the lease's"),
    "hairpinMode": Key("Whether a pod may reach itself through the bridge"),
    "promiscMode": Key("Whether the bridge is promiscuous"),
    "portIsolation": Key("Whether pods of the bridge can't reach each other"),
    "spoofCheck": Key(
        "Whether the pod may send from its own MAC and addresses only. Ours; false for pods that "
        "change their MAC or have addresses of their own"
    ),
    "vlan": Key("Untagged VLAN of the pod", default="none"),
    "vlanTrunk": Key("Tagged VLANs of the pod", "list of objects", "none"),
    "id": Key("In `vlanTrunk`: one VLAN", default="none"),
    "minID": Key("In `vlanTrunk`, with `maxID`: a range of VLANs", default="none"),
    "maxID": Key("In `vlanTrunk`, with `minID`: a range of VLANs", default="none"),
    "preserveDefaultVlan": Key("Whether the port stays in the bridge's default VLAN"),
    "macspoofchk": Key("Whether frames with another source MAC than the pod's are dropped"),
    "disableContainerInterface": Key("Leave the pod's interface down; not with `ipam`"),
    "ipam": Key(
        "Who gives the addresses: no section is the lease's subnets, `{}` is no address",
        "object",
        "lease",
    ),
    "type": Key("In `ipam`: `flatmesh-ipam`, or the plugin that is called", "string", "none"),
    "ranges": Key("In `ipam`: list of lists of ranges", "list", "the lease's subnets"),
    "subnet": Key("In a range, or in `ipam`: its network", "CIDR", "required"),
    "rangeStart": Key("In a range: first address", "address", "the first"),
    "rangeEnd": Key("In a range: last address", "address", "the last"),
    "gateway": Key("In a range: the gateway", "address", "the first"),
    "routes": Key("In `ipam`: routes of the pod", "list of objects", "none"),
    "resolvConf": Key("In `ipam`: a resolv.conf for the result's `dns`", "path", "none"),
    "subnetFile": Key("The file that holds the lease", default="/run/flannel/subnet.env"),
    "dataDir": Key(
        "In `ipam`: directory of the address store. Plugin `flannel`: directory of its state",
        default="the daemon's; flannel: /var/lib/cni/flannel",
    ),
    "delegate": Key("Plugin `flannel`: config of the plugin it calls", default="{}"),
    "args": Key("`args.cni`: what the runtime asks for", default="{}"),
    "cni": Key("In `args`: `mac` and `ips`", default="{}"),
    "runtimeConfig": Key("Capabilities: `mac`, `ips`, `ipRanges`", "object", "{}"),
    "mac": Key("In `args.cni`, `runtimeConfig`: hardware address asked for", "MAC", "from the IP"),
    "ips": Key("In `args.cni`, `runtimeConfig`: addresses asked for", "list of addresses", "none"),
    "ipRanges": Key("In `runtimeConfig`: ranges before those of the config", "list", "none"),
    "MAC": Key("In CNI_ARGS: the same as `mac`", "MAC", "none"),
    "IP": Key("In CNI_ARGS: addresses, with commas", "addresses", "none"),
    "cniVersion": Key("Version of the specification, 0.1.0 to 1.1.0", "string", "0.1.0"),
    "name": Key("Name of the network", "string", "required"),
    "prevResult": Key("Result of the plugins before in the chain", "object", "none"),
    "containerID": Key("In `cni.dev/valid-attachments`", "string", "required"),
    "ifname": Key("In `cni.dev/valid-attachments`", "string", "required"),
    "cni.dev/valid-attachments": Key("GC: attachments to keep", "list of objects", "required"),
}
