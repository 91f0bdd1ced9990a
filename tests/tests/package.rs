//! The Debian package on a system that has not seen it before and has no systemd: installed, started as the
//! unit starts it, reloaded, stopped, removed.
//!
//! The system is this machine's with an overlay on it, in a mount namespace of its own: whatever is
//! installed ends with the test.

use mirror_xdp_tests::appliance::Bed;
use mirror_xdp_tests::process::run;
use mirror_xdp_tests::require;

/// Runs as root of a new mount namespace. `$1` is a directory, `$2` the package.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount --rbind /sys root/sys
mount -t tmpfs tmpfs root/run
mount -t tmpfs tmpfs root/tmp
cp "$2" root/tmp/mirror-xdp.deb
exec chroot root sh -eu -c '
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    dpkg --install /tmp/mirror-xdp.deb >&2
    mirror-xdp filter check /etc/mirror-xdp/mirror-xdp.toml >&2
    mirror-xdp filter check /usr/share/doc/mirror-xdp/examples/mirror-xdp.toml >&2
    zcat /usr/share/man/man1/mirror-xdp-run.1.gz | grep -q interface
    install -d -o mirror-xdp -g mirror-xdp /run/mirror-xdp
    caps=+net_admin,+net_raw,+bpf,+perfmon
    # What the unit sets; where even root may not, a capability that does the same.
    prlimit --pid $$ --memlock=unlimited 2>/dev/null || caps=$caps,+ipc_lock
    setpriv --reuid=mirror-xdp --regid=mirror-xdp --clear-groups --no-new-privs --inh-caps=$caps \
        --ambient-caps=$caps /usr/bin/mirror-xdp run --config /etc/mirror-xdp/mirror-xdp.toml \
        --interface mirror0 2>/tmp/log &
    service=$!
    said() {
        tries=0
        until grep -q "$1" /tmp/log; do
            tries=$((tries + 1))
            if [ $tries -gt 600 ] || ! kill -0 $service; then cat /tmp/log >&2; exit 1; fi
            sleep 0.1
        done
    }
    said "capturing on mirror0"
    kill -HUP $service
    said "read again"
    test -S /run/mirror-xdp/control.sock
    kill -TERM $service
    wait $service || { cat /tmp/log >&2; exit 1; }
    cat /tmp/log
    test -f /var/log/mirror-xdp/eve.json
    rm -r /var/log/mirror-xdp
    dpkg --purge mirror-xdp >&2
    for left in /usr/bin/mirror-xdp /etc/mirror-xdp /etc/default/mirror-xdp /run/mirror-xdp/control.sock; do
        if [ -e $left ]; then echo "$left is left" >&2; exit 1; fi
    done
    if getent passwd mirror-xdp; then echo "the user is left" >&2; exit 1; fi
'
"#;

#[test]
fn it_installs_starts_reloads_stops_and_leaves_nothing_behind() {
    let Some(package) = require::package() else { return };
    let Some(bed) = Bed::new(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = bed.appliance.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
    let said = run(command.arg(directory.path()).arg(&package)).unwrap();
    assert!(said.contains("capturing on mirror0"), "{said}");
}
