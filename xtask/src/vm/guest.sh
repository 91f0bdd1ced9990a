# A guest runs this as its first process: it mounts the file systems that programs expect, loads the drivers,
# runs the cases that are appended to this script, and powers off. The test reads the lines that begin with
# `::`; the others are for people who read the log.
# Programs that busybox has too are called by their path: its shell prefers its own.
export PATH=/sbin:/bin HOME=/ RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /modules); do insmod /lib/modules/$module || echo "cannot load $module"; done

# Waits until a command succeeds; fails after the given number of tenths of seconds.
await() {
    tenths=$1; shift
    while ! "$@" >/dev/null 2>&1; do
        tenths=$((tenths - 1)); [ $tenths -gt 0 ] || return 1
        usleep 100000
    done
}
carrier() { [ "$(cat /sys/class/net/$1/carrier 2>/dev/null)" = 1 ]; }
ready() { grep -q '^capturing on' /tmp/said || ! kill -0 $capture; }

# Runs ethtool to prepare a case, and marks failures: the results of a case without its preparation mean nothing.
ethtool() { command ethtool "$@" || echo "::unprepared ethtool $*"; }

# pair IF PEER: sets the interface that captures, the one that sends to it, and the hardware address of the
# first.
pair() {
    IF=$1 PEER=$2
    # Mirrored frames are longer by their encapsulation.
    for name in $IF $PEER; do /bin/ip link set dev $name mtu 1600; /bin/ip link set dev $name up; done
    await 100 carrier $IF; await 100 carrier $PEER
    MAC=$(cat /sys/class/net/$IF/address)
}

send() { mirror-xdp pktgen -i $PEER --engine af-xdp --source 10.0.1.1-10.0.1.9 --to 10.9.0.1 --to-mac $MAC "$@" >/tmp/sent 2>&1; }

# capture CASE MIDDLE FLAG…: runs the appliance under traffic, runs MIDDLE meanwhile, and prints the output.
capture() {
    echo "::case $1"; middle=$2; shift 2
    mirror-xdp run -i $IF --json --log-dir /tmp/log "$@" >/tmp/account 2>/tmp/said &
    capture=$!
    await 300 ready
    if kill -0 $capture 2>/dev/null; then
        # Some drivers take the link down when a program or a socket is attached.
        await 100 carrier $IF; await 100 carrier $PEER
        $middle
        kill -INT $capture
    fi
    wait $capture; code=$?
    sed 's/^/::said /' /tmp/said
    echo "::exit $code"
    sed 's/^/::account /' /tmp/account; echo
}

# doctor CASE: mends the interface, and prints the settings mended and the checks afterwards.
doctor() {
    echo "::case $1"
    mirror-xdp doctor -i $IF --fix --json >/tmp/account 2>/tmp/said; code=$?
    sed 's/^/::said /' /tmp/said
    echo "::exit $code"
    sed 's/^/::account /' /tmp/account; echo
}

# Steps for the middle of a capture.
mixed() { send --size imix --flows 200 --vni 1-9 --count 3000 --rate 2000pps || cat /tmp/sent; usleep 300000; }
jumbo() { send --size 3000 --count 200 --rate 500pps || cat /tmp/sent; usleep 300000; }
flap() {
    mixed
    /bin/ip link set dev $IF down; /bin/ip link set dev $IF up
    await 100 carrier $IF
    mixed
}
nothing() { :; }

# Prints the number of frames found by busy polling, and how long interrupts are deferred for it.
polled() {
    mixed
    settings while
    awk '/^TcpExt/ { if (names) for (i in n) if (n[i] == "BusyPollRxPackets") print "::said busy-polled", $i
        names = split($0, n) }' /proc/net/netstat
}
settings() { echo "::said $1: deferred" $(cat /sys/class/net/$IF/napi_defer_hard_irqs /sys/class/net/$IF/gro_flush_timeout); }

# The interrupts of the queues: their numbers, moving them to CPUs, and printing the CPUs that take them.
interrupts() { sed -n -E "s/^ *([0-9]+):.*$IF-(TxRx|rx).*/\1/p" /proc/interrupts; }
interrupts_on() { for irq in $(interrupts); do echo $1 >/proc/irq/$irq/smp_affinity_list; done; }
placement() { echo "::said $1: interrupts on" $(for irq in $(interrupts); do cat /proc/irq/$irq/smp_affinity_list; done); }
placed() { placement while; mixed; }

# restarts CASE FLAG…: starts and stops the appliance three times while traffic continues.
restarts() {
    case=$1; shift
    mirror-xdp pktgen -i $PEER --engine af-xdp --source 10.0.1.1-10.0.1.9 --to 10.9.0.1 --to-mac $MAC \
        --size imix --flows 200 --rate 2000pps --duration 120s >/tmp/background 2>&1 &
    background=$!
    for round in 1 2 3; do capture "$case $round" pause "$@"; done
    kill -INT $background; wait $background
}
pause() { usleep 1500000; }
