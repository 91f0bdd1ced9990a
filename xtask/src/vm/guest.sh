# What a guest runs as its first process: it mounts what programs expect, loads the drivers, runs the cases
# behind this, and turns itself off. Lines that begin with `::` are for the test; the rest is for whoever
# reads the log.
# Programs with a namesake in busybox go by their path: its shell prefers its own.
export PATH=/sbin:/bin HOME=/ RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /modules); do insmod /lib/modules/$module || echo "cannot load $module"; done

# Waits until a command succeeds, or a number of tenths of seconds have gone.
await() {
    tenths=$1; shift
    while ! "$@" >/dev/null 2>&1; do
        tenths=$((tenths - 1)); [ $tenths -gt 0 ] || return 1
        usleep 100000
    done
}
carrier() { [ "$(cat /sys/class/net/$1/carrier 2>/dev/null)" = 1 ]; }
ready() { grep -q '^capturing on' /tmp/said || ! kill -0 $capture; }

# What a case needs beforehand: where that fails, nothing that follows means what it says.
ethtool() { command ethtool "$@" || echo "::unprepared ethtool $*"; }

# The interface that captures, the one that sends to it, and its hardware address.
pair() {
    IF=$1 PEER=$2
    # What was mirrored is longer by its envelope.
    for name in $IF $PEER; do /bin/ip link set dev $name mtu 1600; /bin/ip link set dev $name up; done
    await 100 carrier $IF; await 100 carrier $PEER
    MAC=$(cat /sys/class/net/$IF/address)
}

send() { mirror-xdp pktgen -i $PEER --engine af-xdp --source 10.0.1.1-10.0.1.9 --to 10.9.0.1 --to-mac $MAC "$@" >/tmp/sent 2>&1; }

# capture CASE MIDDLE FLAG…: runs the appliance under traffic, MIDDLE in the middle, and prints what it says.
capture() {
    echo "::case $1"; middle=$2; shift 2
    mirror-xdp run -i $IF --json --log-dir /tmp/log "$@" >/tmp/account 2>/tmp/said &
    capture=$!
    await 300 ready
    if kill -0 $capture 2>/dev/null; then
        # Drivers may take the link down when a program or a socket comes.
        await 100 carrier $IF; await 100 carrier $PEER
        $middle
        kill -INT $capture
    fi
    wait $capture; code=$?
    sed 's/^/::said /' /tmp/said
    echo "::exit $code"
    sed 's/^/::account /' /tmp/account; echo
}

# doctor CASE: mends the interface, and prints what was mended and what is found then.
doctor() {
    echo "::case $1"
    mirror-xdp doctor -i $IF --fix --json >/tmp/account 2>/tmp/said; code=$?
    sed 's/^/::said /' /tmp/said
    echo "::exit $code"
    sed 's/^/::account /' /tmp/account; echo
}

# What is in the middle of a capture.
mixed() { send --size imix --flows 200 --vni 1-9 --count 3000 --rate 2000pps || cat /tmp/sent; usleep 300000; }
jumbo() { send --size 3000 --count 200 --rate 500pps || cat /tmp/sent; usleep 300000; }
flap() {
    mixed
    /bin/ip link set dev $IF down; /bin/ip link set dev $IF up
    await 100 carrier $IF
    mixed
}
nothing() { :; }

# Frames that were found by busy polling, and how long interrupts wait for it.
polled() {
    mixed
    settings while
    awk '/^TcpExt/ { if (names) for (i in n) if (n[i] == "BusyPollRxPackets") print "::said busy-polled", $i
        names = split($0, n) }' /proc/net/netstat
}
settings() { echo "::said $1: deferred" $(cat /sys/class/net/$IF/napi_defer_hard_irqs /sys/class/net/$IF/gro_flush_timeout); }

# The interrupts of the queues, on which CPUs they are taken, and having them taken by some.
interrupts() { sed -n -E "s/^ *([0-9]+):.*$IF-(TxRx|rx).*/\1/p" /proc/interrupts; }
interrupts_on() { for irq in $(interrupts); do echo $1 >/proc/irq/$irq/smp_affinity_list; done; }
placement() { echo "::said $1: interrupts on" $(for irq in $(interrupts); do cat /proc/irq/$irq/smp_affinity_list; done); }
placed() { placement while; mixed; }

# Starts and stops the appliance again and again while traffic goes on.
restarts() {
    case=$1; shift
    mirror-xdp pktgen -i $PEER --engine af-xdp --source 10.0.1.1-10.0.1.9 --to 10.9.0.1 --to-mac $MAC \
        --size imix --flows 200 --rate 2000pps --duration 120s >/tmp/background 2>&1 &
    background=$!
    for round in 1 2 3; do capture "$case $round" pause "$@"; done
    kill -INT $background; wait $background
}
pause() { usleep 1500000; }
