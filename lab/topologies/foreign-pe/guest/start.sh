# The guest's part: interfaces, the VRF of acme, FRR.
ip=/usr/sbin/ip
$ip link set eth0 up && $ip addr add 10.0.2.1/30 dev eth0 && $ip addr add 10.255.0.7/32 dev lo
$ip link add acme type vrf table 100 && $ip link set acme up
$ip link set eth1 master acme && $ip link set eth1 up && $ip addr add 192.168.3.1/30 dev eth1
echo 1 >/proc/sys/net/mpls/conf/eth0/input
for daemon in zebra ospfd ldpd bgpd; do
    cp /config/$daemon.conf /etc/ && chown frr:frr /etc/$daemon.conf
    /usr/lib/frr/$daemon -d -f /etc/$daemon.conf -A 127.0.0.1 -P 0
done
